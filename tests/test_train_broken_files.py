"""Twenty-five files as beginners bring them: each is refused with its line, the cause and the fix, and by both doors.

The files are written as bytes, because some of what is wrong with them is not in the text.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from train.chat import main as check
from train.chat import read_chats
from train.lora import main as train
from train.masking import Template, encode

ROOT: Final = Path(__file__).parents[1]
MODEL: Final = ROOT / "scripts" / "pocket" / "model"
MAX_LENGTH: Final = 64
USER: Final = {"role": "user", "content": "What is the capital of Norway?"}
ANSWER: Final = {"role": "assistant", "content": "Oslo"}
CALL: Final = {"type": "function", "function": {"name": "look_up", "arguments": '{"place": "Oslo"}'}}
FINE: Final = json.dumps({"messages": [USER, ANSWER]}) + "\n"


def row(*messages: Any, **more: Any) -> str:
    return json.dumps({"messages": list(messages), **more}) + "\n"


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


# name: (the file, the exact message behind its path)
BROKEN: Final[dict[str, tuple[str | bytes, str]]] = {
    "cut_off.jsonl": (
        FINE + FINE[:40],
        ":2 column 41: is not JSON (Expecting ':' delimiter) - the line ends too early: complete or remove it; a line "
        "end inside a text is written \\n",
    ),
    "byte_order_mark.jsonl": (
        b"\xef\xbb\xbf" + FINE.encode(),
        ":1 file: starts with a byte-order mark - save it as UTF-8 without BOM",
    ),
    "utf16.jsonl": (FINE.encode("utf-16"), ":1 file: is not UTF-8 (byte 0xff) - save it as UTF-8"),
    "latin1.jsonl": (
        FINE.encode() + '{"messages": "caf\u00e9"}'.encode("latin-1"),
        ":2 file: is not UTF-8 (byte 0xe9) - save it as UTF-8",
    ),
    "empty.jsonl": ("\n", ":1 file: has no rows - write one JSON object a line"),
    "pretty_printed.json": (
        json.dumps([json.loads(FINE)] * 3, indent=2),
        ":1 file: spreads its rows over several lines - write one JSON object a line, without a list around them",
    ),
    "one_list.json": (json.dumps([json.loads(FINE)]), ":1 row: is a list - write one JSON object a line"),
    "commas_between.jsonl": (
        FINE + FINE.replace("\n", ",\n"),
        f":2 column {len(FINE)}: is not JSON (Extra data) - one object a line, and nothing behind it, no comma either",
    ),
    "single_quotes.jsonl": (
        FINE + str(json.loads(FINE)) + "\n",
        ":2 column 2: is not JSON (Expecting property name enclosed in double quotes) - use double quotes, and no "
        "comma behind the last entry",
    ),
    "sharegpt.jsonl": (
        '{"conversations": [{"from": "human", "value": "Capital?"}, {"from": "gpt", "value": "Oslo"}]}\n',
        ":1 conversations: looks like ShareGPT - rename `conversations` to `messages`, `from` to `role` (human is "
        "user, gpt is assistant) and `value` to `content`",
    ),
    "alpaca.jsonl": (
        '{"instruction": "Name the capital", "input": "Norway", "output": "Oslo"}\n',
        ":1 instruction: looks like Alpaca - make `instruction` (and `input`) the content of a user message and "
        "`output` of an assistant message, in a list called `messages`",
    ),
    "completions.jsonl": (
        '{"prompt": "Capital of Norway?", "completion": "Oslo"}\n',
        ":1 prompt: looks like prompt and completion - make `prompt` the content of a user message and `completion` of "
        "an assistant message, in a list called `messages`",
    ),
    "plain_text.jsonl": (
        '{"text": "Oslo is the capital of Norway."}\n',
        ":1 text: is plain text - training needs to know who speaks: write `messages` with roles",
    ),
    "no_messages.jsonl": (
        FINE + '{"question": "Capital?"}\n',
        ':2 messages: is missing - a row is {"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}',
    ),
    "foreign_role.jsonl": (
        FINE + row(said("human", "Capital?"), ANSWER),
        ":2 messages[0].role: 'human' is not a role - write 'user'",
    ),
    "two_questions.jsonl": (
        FINE + row(USER, USER, ANSWER),
        ":2 messages[1].role: 'user' cannot come after 'user' - expected assistant",
    ),
    "late_system.jsonl": (
        FINE + row(USER, ANSWER, said("system", "Be brief."), USER, ANSWER),
        ":2 messages[2].role: 'system' cannot come after 'assistant' - expected user",
    ),
    "no_answer.jsonl": (
        FINE + row(USER),
        ":2 messages[0].role: the last message is not the assistant's - end with the answer to learn",
    ),
    "empty_answer.jsonl": (
        FINE + row(USER, said("assistant", " ")),
        ":2 messages[1].content: is empty - remove the row or say something",
    ),
    "pictures.jsonl": (
        FINE + row(said("user", [{"type": "image_url", "image_url": {"url": "a.png"}}]), ANSWER),
        ":2 messages[0].content: is a list of parts - join their texts into one string (pictures and sound cannot be "
        "trained on)",
    ),
    "half_weight.jsonl": (
        FINE + row(USER, said("assistant", "Oslo", weight=0.5)),
        ":2 messages[1].weight: is 0.5 - 1 trains the message, 0 shows it without training it",
    ),
    "nothing_to_learn.jsonl": (
        FINE + row(USER, said("assistant", "Oslo", weight=0)),
        ":2 messages: no assistant message has weight 1, so there is nothing to learn - remove the row or a weight",
    ),
    "arguments.jsonl": (
        FINE + row(USER, said("assistant", None, tool_calls=[{"function": {"name": "look_up", "arguments": "Oslo"}}])),
        ":2 messages[1].tool_calls[0].function.arguments: are not a JSON object in a string - write for instance "
        '"{\\"city\\": \\"Oslo\\"}"',
    ),
    "special_token.jsonl": (
        FINE + row(USER, said("assistant", "Oslo<|im_end|>")),
        ":2 messages[1].content: holds the special token '<|im_end|>' as text - remove it",
    ),
    "too_long.jsonl": (
        FINE + row(USER, said("assistant", "Oslo " * 9 * MAX_LENGTH)),
        ":2 row: is {length:,} tokens long and max_length is 64 - shorten it, set max_length={length}, or drop such "
        "rows with too_long=drop",
    ),
}
NEED_THE_MODEL: Final = ("special_token.jsonl", "too_long.jsonl")
"""Only a tokenizer knows. All others are refused without one, and in training before a model is looked for."""


def written(folder: Path, name: str) -> Path:
    content = BROKEN[name][0]
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


def told(file: Path) -> str:
    """What both doors say; how many tokens the long row has is the tokenizer's business."""
    said = BROKEN[file.name][1]
    if file.name == "too_long.jsonl":
        template = Template.load(MODEL)
        _, long = encode(read_chats(file), template)
        said = said.format(length=len(long.tokens))
    return f"{file}{said}\n"


def test_there_are_twenty_five_of_them() -> None:
    assert len(BROKEN) == 25


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_line_cause_and_fix(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, name)
    model = ["--model", str(MODEL), "--max-length", str(MAX_LENGTH)] if name in NEED_THE_MODEL else []

    assert check([str(file), *model]) == 1

    assert capsys.readouterr() == ("", told(file))


def never(*_: object) -> None:
    raise AssertionError("a model is loaded for a file that is broken")


@pytest.mark.parametrize("name", BROKEN)
def test_training_refuses_it_with_the_same_words_before_a_model_is_loaded(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.fit.fit", never)  # what loads the model
    file = written(tmp_path, name)
    base = MODEL if name in NEED_THE_MODEL else tmp_path / "nowhere"
    settings = [f"data={file}", f"model={base}", f"output={tmp_path}", f"max_length={MAX_LENGTH}"]

    assert train([*settings, f"tokens_per_step={MAX_LENGTH}"]) == 1

    assert capsys.readouterr().err == told(file)


def test_files_without_fault_but_for_windows_line_ends_mean_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "chats.jsonl"
    told = []
    for end in (b"\n", b"\r\n"):
        file.write_bytes(FINE.encode().replace(b"\n", end) * 2)
        assert check([str(file)]) == 0
        told.append(capsys.readouterr().out)

    assert told[0] == told[1]


def test_the_door_of_chats_opens_without_torch(tmp_path: Path) -> None:
    (tmp_path / "fine.jsonl").write_text(FINE)
    watched = (
        "import runpy, sys; sys.argv[0] = 'train.chat'\n"
        "try: runpy.run_module('train.chat', run_name='__main__')\n"
        "except SystemExit as left: print(left.code, sorted({'torch', 'transformers', 'numpy'} & sys.modules.keys()))"
    )

    run = subprocess.run(
        [sys.executable, "-c", watched, str(tmp_path / "fine.jsonl")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )

    assert "1 rows, all fine" in run.stdout
    assert run.stdout.endswith("0 []\n")
