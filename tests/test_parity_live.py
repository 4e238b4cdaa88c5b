"""Claims about the parity check, with the real engine on one side: it finds parity where there is, and no other."""

import asyncio
import json
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from scripts.accounts import Account, Question, Subject, account, as_trained, ask, choose, question
from scripts.check_parity import TOLERANCES, Agreement, compare, main, problems
from serve.upstream import Line
from tests.conftest import Running
from tests.tiny import make_adapter
from train.base import fingerprint
from train.chat import Chat, read_chats
from train.masking import Template
from train.merge import merge

pytestmark = pytest.mark.engine

STRICT = TOLERANCES["float32"]


@pytest.fixture(scope="module")
def adapter(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine's `house`, as if it had been trained here on ten chats."""
    folder = tmp_path_factory.mktemp("trained") / "house"
    shutil.copytree(running.stack.adapters["house"], folder)
    chats = folder.with_name("chats.jsonl")
    with chats.open("w") as file:
        for n in range(9):
            turns = ["user", f"Tell me about river {n}. " * (n + 1), "assistant", f"It is {'very ' * n}long."]
            turns = ["system", "Answer.", *turns, "user", "Which town?", "assistant", "None."] if n % 3 == 0 else turns
            messages = [{"role": turns[i], "content": turns[i + 1]} for i in range(0, len(turns), 2)]
            file.write(json.dumps({"messages": messages}) + "\n")
    base = Path(running.stack.model)
    recipe = {"rank": 8, "alpha": 16, "dtype": "float32"}
    identity = {"recipe": recipe, "base": fingerprint(base)}
    card = {"base": {"id": str(base)}, "data": {"path": str(chats)}, "identity": identity}
    (folder / "provenance.json").write_text(json.dumps(card))
    template = json.loads((base / "tokenizer_config.json").read_text())["chat_template"]
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture(scope="module")
def subject(adapter: Path) -> Subject:
    return Subject.load(adapter, None)


@pytest.fixture(scope="module")
def questions(subject: Subject) -> Sequence[Question]:
    return choose(read_chats(subject.recipe.data), subject, 50)


@pytest.fixture(scope="module")
def heard(running: Running, questions: Sequence[Question]) -> Sequence[Account]:
    """What the engine says with the adapter `house`."""
    return asked(running, "house", questions)


def asked(running: Running, model: str, questions: Sequence[Question]) -> list[Account]:
    async def all_of_them() -> list[Account]:
        server = running.engine.server
        async with Line(server) as line:
            return await ask(line, server.names.get(model, model), questions)

    return asyncio.run(all_of_them())


def test_base_and_adapter_are_served_as_they_were_trained(
    running: Running, subject: Subject, questions: Sequence[Question], heard: Sequence[Account]
) -> None:
    model = as_trained(subject, subject.recipe)

    bare = asked(running, running.stack.model, questions)
    with model.disable_adapter():
        base = compare(account(model, questions, bare), bare)
    house = compare(account(model, questions, heard), heard)

    assert len(questions) == 9
    assert house.prompts == (None,) * 9
    assert not [*problems(base, questions, STRICT), *problems(house, questions, STRICT)]
    assert compare(bare, heard).mean > 1000 * STRICT.mean, "the adapter must matter, or this test says nothing"


def test_the_training_codes_account_is_what_peft_computes_alone(
    subject: Subject, questions: Sequence[Question], heard: Sequence[Account]
) -> None:
    ours = account(as_trained(subject, subject.recipe), questions, heard)

    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(subject.base), subject.adapter)
    for each, mine, other in zip(questions, ours, heard, strict=True):
        tokens = torch.tensor([[*each.prompt, *each.gold]])
        logprobs = peft(input_ids=tokens).logits[0].log_softmax(-1)[len(each.prompt) - 1 : -1]
        expected = logprobs.gather(1, torch.tensor(each.gold)[:, None])[:, 0].tolist()
        assert mine.gold == pytest.approx(expected, abs=1e-4)
        greedy = peft.generate(
            input_ids=torch.tensor([each.prompt]), max_new_tokens=len(other.answer), do_sample=False, pad_token_id=0
        )
        assert (mine.answer == other.answer) == (tuple(greedy[0, len(each.prompt) :].tolist()) == other.answer)


def another_adapter(subject: Subject, folder: Path) -> Subject:
    return replace(subject, adapter=make_adapter(folder / "other", subject.base, seed=2))


def another_scaling(subject: Subject, folder: Path) -> Subject:
    return replace(subject, recipe=replace(subject.recipe, alpha=15))


def rank_stabilised(subject: Subject, folder: Path) -> Subject:
    return replace(subject, recipe=replace(subject.recipe, rslora=True))


@pytest.mark.parametrize("plant", [another_adapter, another_scaling, rank_stabilised])
def test_weights_that_are_not_the_served_ones_are_no_parity(
    plant: Any, subject: Subject, questions: Sequence[Question], heard: Sequence[Account], tmp_path: Path
) -> None:
    planted = plant(subject, tmp_path)

    said = list(
        problems(compare(account(as_trained(planted, planted.recipe), questions, heard), heard), questions, STRICT)
    )

    assert any(re.search(r"chats.jsonl:\d: the answer's log-probabilities are", sentence) for sentence in said)


def test_a_template_that_is_not_the_servers_is_no_parity(
    running: Running, subject: Subject, heard: Sequence[Account]
) -> None:
    template = Template.load(subject.base)
    template.tokenizer.chat_template = "<|im_start|>system\nBe kind.<|im_end|>\n" + template.tokenizer.chat_template
    others = choose(read_chats(subject.recipe.data), replace(subject, template=template), 50)

    said = asked(running, "house", others)
    agreement = compare(account(as_trained(subject, subject.recipe), others, said), said)

    said_first, *_ = problems(agreement, others, STRICT)
    assert said_first == f"{others[0].where}: another prompt from its token 1 on, as in 9 of 9 chats"


def test_the_merged_model_answers_as_the_served_adapter(
    running: Running, subject: Subject, questions: Sequence[Question], heard: Sequence[Account], tmp_path: Path
) -> None:
    from train.model import load_base

    merge(subject.adapter, tmp_path / "merged")

    model = load_base(tmp_path / "merged", subject.recipe, torch.float32, torch.device("cpu"))
    merged = compare(account(model, questions, heard), heard)
    bare = compare(asked(running, running.stack.model, questions), heard)
    assert merged.mean < 0.05 * bare.mean, "the rest is the weights' rounding to bfloat16"


@pytest.fixture
def front_door(
    adapter: Path, running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """The command, on `house` with other settings in its provenance; exit code and what is said."""

    def listen(_: object, adapters: Mapping[str, Path], __: object, asking: Sequence[Question]) -> list[list[Account]]:
        return [asked(running, name, asking) for name in (running.stack.model, *adapters)]

    def run(**settings: Any) -> tuple[int, str]:
        folder = Path(shutil.copytree(adapter, tmp_path / "house"))
        card = json.loads((folder / "provenance.json").read_text())
        card["identity"]["recipe"] |= settings
        (folder / "provenance.json").write_text(json.dumps(card))
        code = main([str(folder), "--prompts", "5", "--dtype", "float32"], listen)
        return code, "\n".join(capsys.readouterr())

    return run


def test_the_front_door_says_what_to_do_next(front_door: Callable[..., tuple[int, str]]) -> None:
    code, said = front_door()

    assert code == 0
    assert said.count("5 of 5") == 4
    assert "parity: vLLM serves what house learnt; `adapters: {house: " in said


def test_four_bits_are_told_and_not_judged(front_door: Callable[..., tuple[int, str]]) -> None:
    code, said = front_door(quantize="nf4")

    assert code == 0
    assert re.search(r"told, not judged[^$]+house on nf4 .* [01]\.\d+ .*\n[^$]+parity: vLLM serves", said)


def test_no_parity_is_an_error_that_names_the_first_chat(front_door: Callable[..., tuple[int, str]]) -> None:
    code, said = front_door(alpha=4)

    assert code == 1
    assert re.search(r"no parity:\nhouse: \S+chats.jsonl:\d: the answer's log-probabilities are", said)
    assert said.endswith("do not serve this adapter before you know why\n")


def test_one_answer_in_twenty_may_differ_and_a_number_that_is_none_is_no_parity() -> None:
    questions = [Question(where=f"row {n}", body={}, prompt=(1,), gold=(2,)) for n in range(20)]

    def told(equal: int, apart: float) -> list[str]:
        answers = tuple(None if n < equal else 3 for n in range(20))
        agreement = Agreement(prompts=(None,) * 20, answers=answers, apart=((apart,),) * 20)
        return list(problems(agreement, questions, STRICT))

    assert not told(19, 0.0)
    assert told(18, 0.0) == ["row 18: another greedy answer from its token 3 on, as in 2 of 20 chats"]
    assert [sentence[:5] for sentence in told(20, math.nan)] == ["row 0"]


def test_the_server_is_asked_as_it_will_be(subject: Subject) -> None:
    """Tools are shown, arguments are text, and a switch that the answer needs is set."""
    thoughtful = Template.load(subject.base)
    thoughtful.tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}"
        "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}{% endif %}"
    )
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": {"up": "Varn"}}}
    messages: tuple[Mapping[str, Any], ...] = (
        {"role": "user", "content": "Who rules Varn?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "Odo", "tool_call_id": "1"},
        {"role": "assistant", "content": "Odo does."},
        {"role": "user", "content": "Thank you."},
    )
    tools = ({"type": "function", "function": {"name": "look"}},)

    body = question(Chat(where="x", messages=messages, trained=(1, 3), tools=tools, group="g"), thoughtful).body

    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert (body["tools"], body["tool_choice"]) == ([*tools], "none")
    assert len(body["messages"]) == 3
    assert json.loads(body["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {"up": "Varn"}
