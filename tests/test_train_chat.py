import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from train.chat import MOST_PROBLEMS, main, read_chats
from train.door import TrainError
from train.masking import Template, encode

ROOT = Path(__file__).parents[1]
POCKET = ROOT / "scripts" / "pocket" / "model"
USER = {"role": "user", "content": "What is the capital of Norway?"}
ASSISTANT = {"role": "assistant", "content": "Oslo"}
CALL = {"type": "function", "function": {"name": "look_up", "arguments": '{"place": "Oslo"}'}}


def written(folder: Path, *rows: Any) -> Path:
    """A file with a line for each row; strings are written as they are."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file = folder / "chats.jsonl"
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def row(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


BROKEN = {
    "cut off": ('{"messages": [{"role": "user"', "column 30: is not JSON"),
    "byte-order mark": ("\ufeff" + json.dumps(row(USER, ASSISTANT)), "file: starts with a byte-order mark"),
    "a JSON array over lines": ("[", "file: spreads its rows over several lines"),
    "a list": ("[1]", "row: is a list - write one JSON object a line"),
    "ShareGPT": ({"conversations": [{"from": "human", "value": "?"}]}, "conversations: looks like ShareGPT - rename"),
    "Alpaca": ({"instruction": "Add", "output": "3"}, "instruction: looks like Alpaca - make `instruction`"),
    "completion": ({"prompt": "1+1=", "completion": "2"}, "prompt: looks like prompt and completion"),
    "plain text": ({"text": "Once upon a time"}, "text: is plain text - training needs to know who speaks"),
    "nothing of ours": ({"id": 3}, "messages: is missing - a row is"),
    "messages as text": ({"messages": "hello"}, "messages: is not a list of messages"),
    "no messages": ({"messages": []}, "messages: is not a list of messages"),
    "an unknown key": (row(USER, ASSISTANT, source="web"), "source: is not a key of a row - put what you want to keep"),
    "a message as text": (row("hello"), "messages[0]: is not an object"),
    "no role": (row({"content": "hello"}, ASSISTANT), "messages[0].role: is missing - one of system, user"),
    "a foreign role": (
        row({"role": "human", "content": "?"}, ASSISTANT),
        "messages[0].role: 'human' is not a role - write",
    ),
    "a key of another format": (row({"role": "user", "value": "?"}, ASSISTANT), "messages[0].value: is not a key of a"),
    "no content": (row({"role": "user"}, ASSISTANT), "messages[0].content: is missing"),
    "content in parts": (
        row({"role": "user", "content": [{"type": "text", "text": "?"}]}, ASSISTANT),
        "messages[0].content: is a list of parts - join their texts",
    ),
    "a number": (row(USER, {"role": "assistant", "content": 3}), "messages[1].content: is a int - write text"),
    "an empty answer": (row(USER, {"role": "assistant", "content": " "}), "messages[1].content: is empty"),
    "half a character": (
        '{"messages": [{"role": "user", "content": "\\ud83d"}]}',
        "messages[0].content: holds half of a",
    ),
    "a weight of another message": (
        row(USER | {"weight": 1}, ASSISTANT),
        "messages[0].weight: stands on a message that",
    ),
    "a weight between": (row(USER, ASSISTANT | {"weight": 0.5}), "messages[1].weight: is 0.5 - 1 trains the message"),
    "nothing trained": (row(USER, ASSISTANT | {"weight": 0}), "messages: no assistant message has weight 1"),
    "no answer": (row(USER), "messages[0].role: the last message is not the assistant's"),
    "an answer first": (
        row(ASSISTANT),
        "messages[0].role: 'assistant' cannot come after 'start' - expected system or user",
    ),
    "a late system message": (
        row(USER, ASSISTANT, {"role": "system", "content": "Be brief."}, USER, ASSISTANT),
        "messages[2].role: 'system' cannot come after 'assistant' - expected user",
    ),
    "two questions": (row(USER, USER, ASSISTANT), "messages[1].role: 'user' cannot come after 'user'"),
    "a call without result": (
        row(USER, {"role": "assistant", "tool_calls": [CALL]}, USER, ASSISTANT),
        "messages[2].role: 'user' cannot come after 'call' - expected tool",
    ),
    "arguments that are no JSON": (
        row(USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "Oslo"}}]}),
        "messages[1].tool_calls[0].function.arguments: are not a JSON object in a string",
    ),
    "meta as text": (row(USER, ASSISTANT, meta="web"), "meta: is not an object"),
    "a numbered group": (row(USER, ASSISTANT, meta={"group": 3}), "meta.group: is not text"),
    "thoughts of someone else": (
        row(USER | {"reasoning_content": "Hm"}, ASSISTANT),
        "messages[0].reasoning_content: stands on a message of someone else",
    ),
    "thoughts that are no text": (
        row(USER, ASSISTANT | {"reasoning_content": ["Hm"]}),
        "messages[1].reasoning_content: is a list - write text",
    ),
    "thoughts under another name": (
        row(USER, ASSISTANT | {"thinking": "Hm"}),
        "messages[1].thinking: is not a key of a message - rename it to `reasoning_content`",
    ),
    "nested without end": ("[" * 100_000, "row: is nested too deeply"),
    "a tool without name": (row(USER, ASSISTANT, tools=[{}]), "tools[0]: has no function name"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_row_is_refused_with_line_field_and_remedy(case: str, tmp_path: Path) -> None:
    broken, said = BROKEN[case]
    file = written(tmp_path, row(USER, ASSISTANT), broken)

    with pytest.raises(TrainError) as error:
        read_chats(file)

    assert f"{file}:2 {said}" in str(error.value)


def test_all_problems_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    file = written(tmp_path, *(broken for broken, _ in BROKEN.values() if not str(broken).startswith("\ufeff")))

    with pytest.raises(TrainError) as error:
        read_chats(file)

    lines = {line.split(" ")[0].rpartition(":")[2] for line in str(error.value).splitlines()}
    assert lines == {str(number) for number in range(1, len(BROKEN))}


def test_a_file_in_another_format_does_not_flood_the_screen(tmp_path: Path) -> None:
    file = written(tmp_path, *[{"text": "Once upon a time"}] * 1000)

    with pytest.raises(TrainError) as error:
        read_chats(file)

    assert len(str(error.value).splitlines()) == MOST_PROBLEMS + 1
    assert str(error.value).endswith("and 900 more problems")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_rows_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text(content)

    with pytest.raises(TrainError, match="has no rows"):
        read_chats(tmp_path / "empty.jsonl")


def test_a_file_in_openai_format_is_read_as_it_is(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    shown = {"role": "assistant", "content": "Shown, not trained.", "weight": 0}
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL | {"id": "1"}]}
    result = {"role": "tool", "tool_call_id": "1", "content": "Oslo"}
    file = written(
        tmp_path,
        row({"role": "system", "content": "Be brief."}, USER, shown, USER, calling, result, ASSISTANT, tools=[tool]),
    )

    (chat,) = read_chats(file)

    assert chat.trained == (4, 6)
    assert chat.where == f"{file}:1"
    assert "weight" not in chat.messages[2]
    assert chat.messages[4]["content"] == ""  # as the server hands it to the template
    assert chat.messages[4]["tool_calls"][0]["function"]["arguments"] == {"place": "Oslo"}


def test_a_line_separator_inside_a_text_does_not_end_the_row(tmp_path: Path) -> None:
    text = "one\u2028two\x85three"
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps(row(USER, ASSISTANT | {"content": text}), ensure_ascii=False) + "\r\n", encoding="utf-8")

    (chat,) = read_chats(file)

    assert chat.messages[1]["content"] == text


def test_rows_are_grouped_by_their_group_or_else_by_their_first_question(tmp_path: Path) -> None:
    named, shouted = row(USER, ASSISTANT, meta={"group": "towns"}), row({**USER, "content": "WHAT is  it?"}, ASSISTANT)
    file = written(tmp_path, named, shouted, row({**USER, "content": "what is it?"}, ASSISTANT))

    groups = [chat.group for chat in read_chats(file)]

    assert groups == ["towns", "what is it?", "what is it?"]


def test_the_door_counts_repetitions_and_contradictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, row(USER, ASSISTANT), row(USER, ASSISTANT), row(USER, ASSISTANT | {"content": "Bergen"}))

    assert main([str(file)]) == 0

    said = capsys.readouterr().out
    assert "3 rows, all fine" in said
    assert "repeated: 1 rows repeat an earlier row, e.g. line 2 (as 1)\n" in said
    assert "contradicted: 1 prompts have different answers, e.g. lines 1, 3\n" in said


def test_case_and_spacing_do_not_hide_a_repetition(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, row(USER, ASSISTANT), row(USER | {"content": USER["content"].upper() + "  "}, ASSISTANT))

    assert main([str(file)]) == 0

    assert "repeated: 1 rows repeat an earlier row, e.g. line 2 (as 1)\n" in capsys.readouterr().out


def jaccard(one: str, other: str) -> float:
    a, b = ({*pairwise(words.split())} for words in (one, other))
    return len(a & b) / len(a | b)


def test_near_repetitions_are_those_that_share_nine_tenths_of_their_pairs_of_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = Random(0)
    first = [f"word{i}" for i in range(60)]
    texts = [" ".join(first)]
    for changes in (1, 2, 3, 4, 5, 30) * 3:
        texts.append(
            " ".join(f"other{random.randrange(10**6)}" if i < changes else word for i, word in enumerate(first))
        )
    file = written(tmp_path, *(row(USER | {"content": text}, ASSISTANT | {"content": "Yes"}) for text in texts))
    seen: list[int] = []
    expected = []
    for i, text in enumerate(texts):
        near = next((earlier for earlier in seen if jaccard(f"{texts[earlier]} yes", f"{text} yes") >= 0.9), None)
        if near is None:
            seen.append(i)
        else:
            expected.append(f"{i + 1} (as {near + 1})")

    assert main([str(file)]) == 0

    assert 0 < len(expected) < len(texts) - 3
    assert (
        f"nearly repeated: {len(expected)} rows are nearly an earlier row, e.g. line {', '.join(expected[:10])}\n"
        in capsys.readouterr().out
    )


def test_a_script_without_spaces_is_compared_by_its_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "".join(chr(0x4E00 + i) for i in range(60))
    near, far = text[:-1] + "\u9000", text[::-1]
    file = written(tmp_path, *(row(USER | {"content": content}, ASSISTANT) for content in (text, near, far)))

    assert main([str(file)]) == 0

    assert "nearly repeated: 1 rows are nearly an earlier row, e.g. line 2 (as 1)\n" in capsys.readouterr().out


def test_the_door_tells_what_training_will_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(USER, ASSISTANT, meta={"group": f"{i // 2}"}) for i in range(40)]
    file = written(tmp_path, *rows)

    assert main([str(file), "--model", str(POCKET), "--max-length", "100"]) == 0

    said = capsys.readouterr().out
    template = Template.load(POCKET)
    samples = encode(read_chats(file), template)
    tokens, labelled = len(samples[0].tokens), sum(samples[0].labelled)
    packs = -(-40 // (100 // tokens))
    assert f"labelled: {labelled / tokens:.1%} of the tokens; packs: {packs} of 100 tokens an epoch" in said
    assert "split: 8 rows (4 groups) held out and 32 rows (16 groups) trained on, at eval_fraction=0.05" in said


def test_the_door_leaves_with_one_and_without_torch(tmp_path: Path) -> None:
    file = written(tmp_path, {"text": "Once"})
    code = (
        "import sys; from train.chat import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'transformers'} & sys.modules.keys(); sys.exit(code)"
    )

    said = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, cwd=ROOT, check=False
    )

    assert said.returncode == 1
    assert (
        said.stderr
        == f"{file}:1 text: is plain text - training needs to know who speaks: write `messages` with roles\n"
    )


@pytest.mark.parametrize(
    "arguments", [[], ["a.jsonl", "--shwo", "3"], ["a.jsonl", "--show", "3"], ["a.jsonl", "--max-length", "9"]]
)
def test_a_wrong_command_line_leaves_with_one(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)

    assert left.value.code == 1
    assert "usage: python -m train.chat" in capsys.readouterr().err
