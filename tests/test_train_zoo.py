"""Masks of every chat template that TRL ships, against TRL's own marks.

TRL keeps real models' templates, and beside most a training variant in which its authors marked what the model says.
Those marks, read by transformers, are the oracle; ours come from the original template alone. Where the two differ on
purpose, the difference is written down here, by template.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import trl
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from train.chat import Chat, read_chats
from train.door import TrainError
from train.masking import NEVER_OPENED, WITH_THOUGHTS, WITHOUT_THOUGHTS, Template, mask

FOLDER: Final = Path(trl.__file__).parent / "chat_templates"
ZOO: Final = sorted(file.stem for file in FOLDER.glob("*.jinja") if not file.stem.endswith("_training"))

MARKER: Final = re.compile(
    r"""<[|｜][^<>\s'"]{1,40}[|｜]>|<\|"\|>|<\|[a-z_]+>|<[a-z_]+\|>|<(?:start|end)_of_\w+>|</s>|\[gMASK\]|<sop>"""
)
"""What looks like a special token in a template's text."""

STOPS: Final = {
    "cohere": ["<|END_OF_TURN_TOKEN|>"],
    "deepseek": ["<｜end▁of▁sentence｜>"],
    "diffusion_gemma": ["<eos>", "<turn|>", "<|tool_response>"],
    "gemma4": ["<eos>", "<turn|>", "<|tool_response>"],
    "gemma": ["<eos>", "<end_of_turn>"],
    "glm4moe": ["<|endoftext|>", "<|user|>", "<|observation|>"],
    "gptoss": ["<|return|>", "<|endoftext|>", "<|call|>"],
    "idefics3": ["<end_of_utterance>"],
    "lfm2": ["<|im_end|>"],
    "llama3": ["<|eot_id|>", "<|eom_id|>"],
    "llava_next": ["</s>"],
    "muse_glimmer": ["<|eot|>"],
    "nemotron": ["<|im_end|>"],
    "phi3": ["<|endoftext|>", "<|end|>"],
    "qwen": ["<|im_end|>", "<|endoftext|>"],
    "smolvlm": ["<end_of_utterance>"],
}
"""What the models' generation_config.json names, by the longest fitting start of a template's name."""

ORACLES: Final = {
    **dict.fromkeys(("gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5"), "diffusion_gemma_training"),
    **dict.fromkeys(("llama3_1", "llama3_2"), "llama3_training"),
    **{name: name for name in ("lfm2_2_5", "lfm2_2_5_v2", "lfm2_2_5_vl")},
}
"""Where TRL ships no training variant: the next of kin's, or the template itself where it has marks of its own."""

IN_PARTS: Final = ("idefics3", "llava_next", "smolvlm")
"""Templates that take contents as lists of parts and nothing else."""

TOOL: Final = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Where a town is.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string", "description": "A town."}}},
    },
}
CALL: Final = {"id": "abcdefghi", "type": "function", "function": {"name": "look_up", "arguments": '{"place": "Oslo"}'}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


CHATS: Final[dict[str, dict[str, Any]]] = {
    "one turn": {"messages": [user("Hi!"), answer("Hello, you.")]},
    "turns": {"messages": [user("Hi!"), answer("Hello.\n\nWell?"), user("Bye"), answer("Adieu")]},
    "system": {"messages": [{"role": "system", "content": "Be brief."}, user("Hi!"), answer("Hello")]},
    "thoughts": {
        "messages": [
            user("1+1?"),
            answer("<think>\none more\n</think>\n\nIt is 2"),
            user("2+2?"),
            answer("<think>\ntwo more\n</think>\n\nIt is 4"),
        ]
    },
    "reasoning": {
        "messages": [
            user("1+1?"),
            answer("It is 2", reasoning_content="one more"),
            user("2+2?"),
            answer("It is 4", reasoning_content="two more"),
        ]
    },
    "tools": {
        "messages": [
            user("Where is Oslo?"),
            answer(None, tool_calls=[CALL]),
            {"role": "tool", "tool_call_id": "abcdefghi", "name": "look_up", "content": "60 N"},
            answer("North"),
        ],
        "tools": [TOOL],
    },
}

WITH_THOUGHTS_IN_THEM: Final = ("thoughts", "reasoning")

# Where ours differs from TRL's on purpose.

HEADERS: Final = {
    **dict.fromkeys(("deepseek_r1_distill", "deepseekv3"), ("<｜Assistant｜>",)),
    **dict.fromkeys(("gptoss", "muse_glimmer"), ("<|start|>assistant",)),
    **dict.fromkeys((name for name in ZOO if name.startswith("nemotron")), ("<think></think>", "<think>\n")),
    "qwen2_5": ("\n",),
    "qwen3_5_nothink": ("<think>\n\n</think>\n\n", "<think>\n"),
    **dict.fromkeys(("qwen3_5_think", "qwen3_6", "qwen3_8"), ("<think>\n",)),
}
"""TRL labels the end of the header here. It stands in the server's prompt, so the model is never asked to say it."""

TAILS: Final = ("", "\n", "\n<|endoftext|>")
"""What TRL labels behind the token at which the server stops. Nobody ever asks the model for it."""

MORE_BEHIND: Final = {
    ("gemma4_v2", "tools", 1): "<turn|>",
    **{(name, "tools", 1): "<|tool_response>" for name in ZOO if "gemma4" in name and name != "gemma4_v2"},
    ("diffusion_gemma", "tools", 1): "<|tool_response>",
}
"""The stop behind a tool call, which TRL leaves out: the server waits for it (generation_config.json names it)."""

MORE_BEFORE: Final = {("diffusion_gemma", "tools", 3): "<|turn>model\n"}
"""Behind a tool's result this template opens the turn anew, though its own prompt does not: the model has to say it."""

BY_HAND: Final = {
    (name, "tools", 1): '{"name": "look_up", "parameters": {"place": "Oslo"}}<|eot_id|>'
    for name in ("llama3_1", "llama3_2")
}
"""The next of kin's marks do not do: it has no tools."""

FORGET: Final = "glm4moe nemotron_3_5_lightning nemotron_3_nano nemotron_3_super nemotron_3_ultra qwen3 qwen3_5_nothink"
SEPARATE: Final = {
    "turns": "gptoss qwen3 qwen3_5_nothink qwen3_5_think qwen3_6 qwen3_8",
    "thoughts": f"{FORGET} gptoss lfm2_2_5 lfm2_2_5_v2 lfm2_2_5_vl qwen3_5_think qwen3_6",
    "reasoning": f"{FORGET} diffusion_gemma gemma4_v5 lfm2_2_5_v2 lfm2_2_5_vl qwen3_5_think qwen3_6",
    "tools": "qwen3 qwen3_5_think qwen3_6 qwen3_8",
}
"""Templates that render an answer differently once the talk goes on: thoughts go, another token ends it. There each
answer is a sample of its own, behind the prompt the server would make for it. In all others a chat is one sample."""

DROPS_THOUGHTS, DROPS_CALL = "drops part of the answer ('one')", "drops part of the answer ('look_up')"
REFUSED: Final = {
    # gemma.jinja says it itself.
    ("system", "System role not supported"): "gemma",
    # They cut everything up to </think>: what the user wants learnt would silently be left out.
    ("thoughts", DROPS_THOUGHTS): "deepseek_r1_distill deepseekv3",
    # It writes a thought around whatever the content is, so these would be a thought behind an empty thought.
    ("thoughts", "the model's chat template adds its own"): "qwen3_8",
    # They never read `reasoning_content` (lfm2_2_5, gptoss: another key; gemma4 to gemma4_v4: only beside a tool call).
    ("reasoning", DROPS_THOUGHTS): (
        "cohere cohere2 deepseek_r1_distill deepseekv3 gemma gemma3 gemma4 gemma4_v2 gemma4_v3 gemma4_v4 gptoss "
        "idefics3 lfm2 lfm2_2_5 lfm2_v2 llama3 llama3_1 llama3_2 llava_next phi3 phi3_5 qwen2_5 qwen2_5_vl "
        "qwen3_instruct_2507 qwen3_vl smolvlm"
    ),
    # They never read `tool_calls` (deepseek_r1_distill: only without content, and vLLM always hands over one).
    ("tools", DROPS_CALL): "cohere cohere2 deepseek_r1_distill gemma gemma3 lfm2 llama3 phi3 phi3_5 qwen2_5_vl",
    # It adds arguments to text, and vLLM hands them over as an object: the server cannot render such a chat either.
    ("tools", "can only concatenate str"): "deepseekv3",
    # They ask for the first part of a content, and a call has none.
    ("tools", "has no element 0"): "idefics3 llava_next smolvlm",
}
"""What is refused, with the words in which it is said. Nothing that is mere questions and answers is."""

NOTES: Final = {
    **{(name, chat): NEVER_OPENED for name in ("deepseek_r1_distill", "deepseekv3") for chat in CHATS},
    **{
        (name, chat): WITHOUT_THOUGHTS
        for name in ZOO
        for chat in CHATS
        if name.startswith("nemotron") and chat not in WITH_THOUGHTS_IN_THEM
    },
    **{("qwen3_5_nothink", chat): WITH_THOUGHTS for chat in WITH_THOUGHTS_IN_THEM},
}
"""What the user is told about serving such answers."""
SWITCHES: Final = {WITHOUT_THOUGHTS: {"enable_thinking": False}, WITH_THOUGHTS: {"enable_thinking": True}}


def refusal(name: str, chat: str) -> str:
    return next((said for (of, said), names in REFUSED.items() if of == chat and name in names.split()), "")


CASES: Final = [(name, chat) for name in ZOO for chat in CHATS]
TAKEN: Final = [case for case in CASES if not refusal(*case)]
TURNED_DOWN: Final = [case for case in CASES if refusal(*case)]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Template]:
    """A template of the zoo around a tokenizer of single bytes that has its markers, and two line ends as one token."""

    @cache
    def load(name: str) -> Template:
        text = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
        stops = STOPS[max((start for start in STOPS if name.startswith(start)), key=len)]
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: i for i, token in enumerate([*alphabet, "ĊĊ"])}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ")]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(sorted({"<bos>", *stops, *MARKER.findall(text)}))
        tokenizer.add_tokens([AddedToken(marker, special=False) for marker in ("<think>", "</think>")])
        folder = tmp_path_factory.mktemp(name)
        tokenizer.save(str(folder / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": stops[0]}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": text}))
        ends = {"eos_token_id": [tokenizer.token_to_id(stop) for stop in stops]}
        (folder / "generation_config.json").write_text(json.dumps(ends))
        return Template.load(folder)

    return load


def read(folder: Path, name: str) -> Chat:
    (folder / "chats.jsonl").write_text(json.dumps(CHATS[name]) + "\n")
    (chat,) = read_chats(folder / "chats.jsonl")
    return chat


def stretches(tokens: Sequence[int], labelled: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """Beginning and end of every labelled stretch."""
    marks = [False, *map(bool, labelled), False]
    borders = [i for i in range(len(tokens) + 1) if marks[i] != marks[i + 1]]
    yield from zip(borders[::2], borders[1::2], strict=True)


def shown(messages: Sequence[Any], name: str) -> list[Any]:
    """The messages in the shape that the template reads."""
    if name not in IN_PARTS:
        return list(messages)
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def marked_by_trl(name: str, chat: Chat, turn: int, template: Template) -> str:
    """What TRL's authors say the model says in the answer at `turn`."""
    marks = FOLDER / f"{name}_training.jinja"
    rendered = template.tokenizer.apply_chat_template(
        shown(chat.messages[: turn + 1], name),
        tools=list(chat.tools) or None,
        chat_template=(marks if marks.exists() else FOLDER / f"{ORACLES[name]}.jinja").read_text(encoding="utf-8"),
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    *_, (start, end) = stretches(rendered["input_ids"], rendered["assistant_masks"])
    return template.text(rendered["input_ids"][start:end])


def as_we_mean_it(name: str, case: str, turn: int, said: str, prompt: str) -> str:
    """TRL's answer without what the server's prompt already says, and with what the model must say besides."""
    headers = (header for header in HEADERS.get(name, ()) if said.startswith(header) and prompt.endswith(header))
    said = said.removeprefix(next(headers, ""))
    return MORE_BEFORE.get((name, case, turn), "") + said + MORE_BEHIND.get((name, case, turn), "")


@pytest.mark.parametrize(("name", "case"), TAKEN)
def test_a_template_of_the_zoo_is_labelled_as_its_authors_mark_it(
    name: str, case: str, tmp_path: Path, template: Callable[[str], Template]
) -> None:
    model, chat = template(name), read(tmp_path, case)

    samples = mask(chat, model)

    found = [(sample, *stretch) for sample in samples for stretch in stretches(sample.tokens, sample.labelled)]
    assert len(found) == len(chat.trained)
    for (sample, start, end), turn in zip(found, chat.trained, strict=True):
        prompt, ours = model.text(sample.tokens[:start]), model.text(sample.tokens[start:end])
        trls = as_we_mean_it(name, case, turn, marked_by_trl(name, chat, turn, model), prompt)
        expected = BY_HAND.get((name, case, turn), trls)
        assert ours == expected[: len(ours)]
        assert expected[len(ours) :] in TAILS
        assert [token in model.stops for token in sample.tokens[start:end]] == [False] * (end - start - 1) + [True]


@pytest.mark.parametrize(("name", "case"), TAKEN)
def test_every_answer_of_the_zoo_stands_behind_the_servers_own_prompt(
    name: str, case: str, tmp_path: Path, template: Callable[[str], Template]
) -> None:
    model, chat = template(name), read(tmp_path, case)

    samples = mask(chat, model)

    note = NOTES.get((name, case), "")
    assert [sample.note for sample in samples] == [note] * len(samples)
    found = [(sample, *stretch) for sample in samples for stretch in stretches(sample.tokens, sample.labelled)]
    for (sample, start, _), turn in zip(found, chat.trained, strict=True):
        prompt = model.tokenizer.apply_chat_template(
            shown(chat.messages[:turn], name),
            tools=list(chat.tools) or None,
            add_generation_prompt=True,
            tokenize=False,
            **SWITCHES.get(note, {}),
        )
        server = prompt.removesuffix("<think>\n") if note == NEVER_OPENED else prompt
        assert list(sample.tokens[:start]) == model.tokenizer(server, add_special_tokens=False).input_ids


@pytest.mark.parametrize(("name", "case"), TAKEN)
def test_a_chat_of_the_zoo_is_one_sample_unless_its_template_forgets(
    name: str, case: str, tmp_path: Path, template: Callable[[str], Template]
) -> None:
    chat = read(tmp_path, case)

    samples = mask(chat, template(name))

    assert len(samples) == (len(chat.trained) if name in SEPARATE.get(case, "").split() else 1)


@pytest.mark.parametrize(("name", "case"), TURNED_DOWN)
def test_what_a_template_of_the_zoo_cannot_say_is_refused_and_not_left_out(
    name: str, case: str, tmp_path: Path, template: Callable[[str], Template]
) -> None:
    with pytest.raises(TrainError) as error:
        mask(read(tmp_path, case), template(name))

    assert refusal(name, case) in str(error.value)


def test_no_template_of_the_zoo_is_refused_as_such() -> None:
    assert {name for name, _ in TAKEN} == set(ZOO)
    assert {(name, case) for name in ZOO for case in ("one turn", "turns")} <= set(TAKEN)
    assert len(ZOO) == 41
