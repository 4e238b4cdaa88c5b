"""Masks against texts in which a person has marked what is to be learnt."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from train.chat import read_chats
from train.describe import marked
from train.door import TrainError
from train.masking import WITHOUT_THOUGHTS, Sample, Template, encode, too_long

MARKERS = ("<s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end|>")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# As GLM's: no turn has an end, the next one's header is it.
GLM = (
    "{% for m in messages %}{{ '<|end|>' if m.role == 'user' else '<|eot_id|>' }}{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|eot_id|>{% endif %}"
)
# As Qwen3's: an answer keeps its thoughts only while no later question has been asked.
QWEN3 = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and '</think>' in m.content and loop.index0 < ns.last %}"
    "{{ m.content.split('</think>')[1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def template(tmp_path: Path) -> Callable[[str, str], Template]:
    """Templates around a tokenizer of single bytes, except that two line ends are one token, as in real ones."""

    def make(chat_template: str, eos: str) -> Template:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: i for i, token in enumerate([*alphabet, "ĊĊ"])}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ")]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(list(MARKERS))
        bos = tokenizer.token_to_id("<s>")
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
        folder = tmp_path / "model"
        folder.mkdir()
        tokenizer.save(str(folder / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": eos}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": chat_template}))
        return Template.load(folder)

    return make


def samples(folder: Path, template: Template, *messages: tuple[str, str] | dict[str, Any]) -> tuple[Sample, ...]:
    """What one row becomes; messages are (role, content), or as in the file."""
    row = {"messages": [m if isinstance(m, dict) else {"role": m[0], "content": m[1]} for m in messages]}
    (folder / "chats.jsonl").write_text(json.dumps(row) + "\n")
    return encode(read_chats(folder / "chats.jsonl"), template)


TALK = (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "Adieu"))
THOUGHT = (
    ("user", "1+1?"),
    ("assistant", "<think>\none more\n</think>\n\n2"),
    ("user", "2+2?"),
    ("assistant", "<think>\ntwo more\n</think>\n\n4"),
)
UNTRAINED = ({"role": "assistant", "content": "Hello", "weight": 0}, ("user", "Bye"), ("assistant", "Adieu"))

HAND_MARKED: dict[str, tuple[str, str, tuple[Any, ...], list[str]]] = {
    "ChatML": (
        CHATML,
        "<|im_end|>",
        TALK,
        [
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
            "⟦Hello<|im_end|>⟧\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n⟦Adieu<|im_end|>⟧"
        ],
    ),
    "an answer of weight 0": (
        CHATML,
        "<|im_end|>",
        (("user", "Hi"), *UNTRAINED),
        [
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
            "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n⟦Adieu<|im_end|>⟧"
        ],
    ),
    "Llama 3": (
        LLAMA3,
        "<|eot_id|>",
        TALK,
        [
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Hello<|eot_id|>⟧"
            "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Adieu<|eot_id|>⟧"
        ],
    ),
    "Qwen3, one turn": (
        QWEN3,
        "<|im_end|>",
        THOUGHT[:2],
        ["<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n⟦<think>\none more\n</think>\n\n2<|im_end|>⟧"],
    ),
    "Qwen3, which forgets thoughts: a sample for each answer": (
        QWEN3,
        "<|im_end|>",
        THOUGHT,
        [
            "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n⟦<think>\none more\n</think>\n\n2<|im_end|>⟧",
            "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
            "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n⟦<think>\ntwo more\n</think>\n\n4<|im_end|>⟧",
        ],
    ),
    "white space that melts into the header, as the server would see it": (
        CHATML,
        "<|im_end|>",
        (("user", "Hi"), ("assistant", "\nHello")),
        ["<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦\nHello<|im_end|>⟧"],
    ),
    "GLM, which ends an answer with the next turn's header": (
        GLM,
        "<|end|>",
        TALK[1:],
        ["<|end|>Hi<|eot_id|>⟦Hello<|end|>⟧Bye<|eot_id|>⟦Adieu<|end|>⟧"],
    ),
    "Phi 3, which ends the whole chat again": (
        CHATML + "{% if not add_generation_prompt %}<|end|>{% endif %}",
        "<|im_end|>",
        TALK[1:],
        [
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello<|im_end|>⟧\n"
            "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n⟦Adieu<|im_end|>⟧"
        ],
    ),
    "Qwen3 without thoughts: one sample": (
        QWEN3,
        "<|im_end|>",
        TALK[1:],
        [
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello<|im_end|>⟧\n"
            "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n⟦Adieu<|im_end|>⟧"
        ],
    ),
}


@pytest.mark.parametrize("case", HAND_MARKED)
def test_masks_are_what_a_person_marked(case: str, tmp_path: Path, template: Callable[[str, str], Template]) -> None:
    text, eos, messages, expected = HAND_MARKED[case]
    model = template(text, eos)

    found = samples(tmp_path, model, *messages)

    assert [marked(sample, model, colour=False) for sample in found] == expected


def test_the_tokens_are_the_servers_own(tmp_path: Path, template: Callable[[str, str], Template]) -> None:
    model = template(LLAMA3, "<|eot_id|>")
    (sample,) = samples(tmp_path, model, *TALK)
    messages = [{"role": role, "content": content} for role, content in TALK]

    prompt = model.tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)

    first = sample.labelled[-6:].index(True) + len(sample.tokens) - 6
    assert list(sample.tokens[:first]) == prompt
    assert sample.tokens.count(model.tokenizer.bos_token_id) == 1


def test_the_last_token_of_an_answer_is_the_one_at_which_the_server_stops(
    tmp_path: Path, template: Callable[[str, str], Template]
) -> None:
    model = template(CHATML, "<|im_end|>")

    (sample,) = samples(tmp_path, model, *TALK)

    assert sample.tokens[-1] in model.stops
    assert sample.labelled[-1]


def test_stop_tokens_of_the_generation_config_count(tmp_path: Path, template: Callable[[str, str], Template]) -> None:
    template(CHATML, "<|end|>")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": [258, 259]}))

    model = Template.load(tmp_path / "model")

    assert model.stops == {258, 259, model.tokenizer.convert_tokens_to_ids("<|end|>")}


REFUSED = {
    "a header that answers lack": (
        CHATML.replace("assistant\n{% endif %}", "model\n{% endif %}"),
        "<|im_end|>",
        "Oslo",
        "messages[1]: the rendered answer does not begin where the server's prompt ends",
    ),
    "an end of turn at which nobody stops": (
        CHATML,
        "<|end|>",
        "Oslo",
        "holds none of the tokens at which the server stops ('<|end|>')",
    ),
    "a marker as text": (
        CHATML,
        "<|im_end|>",
        "Oslo<|im_end|>",
        "messages[1].content: holds the special token '<|im_end|>'",
    ),
    "an answer that goes on behind a stop": (
        CHATML.replace("{{ message['content'] }}", "{{ 'Well<|end|>' }}{{ message['content'] }}"),
        "<|end|>",
        "Oslo",
        "messages[1]: the rendered answer goes on behind the token at which the server stops ('Oslo')",
    ),
    "an answer that is left out": (
        CHATML.replace("message['content']", "message['content'].split('.')[0]"),
        "<|im_end|>",
        "It is Oslo. I know",
        "messages[1]: the model's chat template drops part of the answer ('Oslo.')",
    ),
    "a template that refuses": (
        "{{ raise_exception('only haiku') }}",
        "<|im_end|>",
        "Oslo",
        "messages: the model's chat template refuses them (only haiku)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_row_that_cannot_be_masked_is_refused_by_name(
    case: str, tmp_path: Path, template: Callable[[str, str], Template]
) -> None:
    text, eos, answer, said = REFUSED[case]
    model = template(text, eos)

    with pytest.raises(TrainError) as error:
        samples(tmp_path, model, ("user", "Capital?"), ("assistant", answer))

    assert str(error.value).startswith(f"{tmp_path / 'chats.jsonl'}:1 messages")
    assert said in str(error.value)


def test_a_model_without_template_is_refused(tmp_path: Path, template: Callable[[str, str], Template]) -> None:
    template(CHATML, "<|im_end|>")
    (tmp_path / "model" / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')

    with pytest.raises(TrainError, match="has no chat template; take the instruct"):
        Template.load(tmp_path / "model")


def test_a_template_sees_tool_arguments_as_objects(tmp_path: Path, template: Callable[[str, str], Template]) -> None:
    tools = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.tool_calls %}"
        "{{ m.tool_calls[0].function.name }} "
        "{{ m.tool_calls[0].function.arguments.place }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    model = template(tools, "<|im_end|>")
    call = {"type": "function", "function": {"name": "look_up", "arguments": '{"place": "Oslo"}'}}

    (sample,) = samples(tmp_path, model, ("user", "Where?"), {"role": "assistant", "tool_calls": [call]})

    assert marked(sample, model, colour=False).endswith("<|im_start|>assistant\n⟦look_up Oslo<|im_end|>⟧")


def test_what_the_thoughts_of_an_answer_need_at_the_server_is_noted(
    tmp_path: Path, template: Callable[[str, str], Template]
) -> None:
    opens = CHATML.replace(
        "assistant\n{% endif %}", "assistant\n{{ '' if enable_thinking is false else '<think>\n' }}{% endif %}"
    )
    model = template(opens, "<|im_end|>")

    (plain,) = samples(tmp_path, model, ("user", "1+1?"), ("assistant", "2"))
    (thought,) = samples(tmp_path, model, ("user", "1+1?"), ("assistant", "<think>\none more</think>2"))

    assert (plain.note, thought.note) == (WITHOUT_THOUGHTS, "")
    assert marked(plain, model, colour=False).endswith("<|im_start|>assistant\n⟦2<|im_end|>⟧")
    assert marked(thought, model, colour=False).endswith(
        "<|im_start|>assistant\n<think>\n⟦one more</think>2<|im_end|>⟧"
    )


def test_a_row_that_is_too_long_is_named_with_its_length(
    tmp_path: Path, template: Callable[[str, str], Template]
) -> None:
    found = samples(tmp_path, template(CHATML, "<|im_end|>"), *TALK)
    length = len(found[0].tokens)

    assert too_long(found, length) == ()
    assert too_long(found, length - 1) == (
        f"{tmp_path / 'chats.jsonl'}:1 row: is {length} tokens long and max_length is {length - 1} - shorten it, "
        f"set max_length={length}, or drop such rows with too_long=drop",
    )


def test_the_short_way_to_a_tokenizer_leads_to_the_servers() -> None:
    from transformers import AutoTokenizer

    pocket = Path(__file__).parents[1] / "scripts" / "pocket" / "model"
    ours, servers = Template.load(pocket).tokenizer, AutoTokenizer.from_pretrained(pocket)

    assert type(ours) is type(servers)
    assert ours.backend_tokenizer.to_str() == servers.backend_tokenizer.to_str()
    assert ours.special_tokens_map == servers.special_tokens_map
