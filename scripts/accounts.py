"""What the training code makes of a chat's prompt and answer, and what vLLM makes of them.

Each side is asked through its own front: training through its template, masks, packs and LoRA layers, vLLM through its
chat and completion routes. Knows nothing of how alike the two should be: see scripts/check_parity.py.
"""

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

from tqdm.asyncio import tqdm

from serve.engine import Engine
from serve.stack import EngineSettings, Stack
from serve.upstream import Line
from train.base import read_config, read_json
from train.chat import Chat
from train.door import TrainError
from train.holdout import held_out
from train.masking import REQUESTS, Sample, Template, encode
from train.provenance import CARD, base_of
from train.recipe import Recipe

Dtype = Literal["float32", "bfloat16"]

ANSWER_TOKENS: Final = 64
"""The most tokens of a greedy answer that are compared."""
PACK: Final = 2048
"""Tokens in one pass of the training code, unless a chat is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An adapter, and what it was trained with."""

    adapter: Path
    base: Path
    recipe: Recipe
    template: Template

    @classmethod
    def load(cls, adapter: Path, moved: Path | None) -> "Subject":
        """Read an adapter's folder, without its weights; `moved` is where its base is now."""
        base = base_of(adapter, moved)
        if not (adapter / CARD).exists():
            raise TrainError(
                f"{adapter} has no {CARD}, so nobody knows how it was trained: take one of `train/lora.py`'s"
            )
        card = read_json(adapter / CARD)
        template = Template.load(base)
        template.tokenizer.chat_template = (adapter / "chat_template.jinja").read_text(encoding="utf-8")
        recipe = Recipe(model=str(base), data=Path(card["data"]["path"]), **card["identity"]["recipe"])
        return cls(adapter=adapter.resolve(), base=base, recipe=recipe, template=template)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A chat up to an answer of the file's, as the server is asked and as training reads it."""

    where: str
    body: Mapping[str, Any]
    """Of the request."""
    prompt: tuple[int, ...]
    gold: tuple[int, ...]
    """The answer's tokens, with the one that ends it."""

    @property
    def tokens(self) -> int:
        """How many the server must have room for."""
        return len(self.prompt) + max(len(self.gold) + 1, ANSWER_TOKENS)


@dataclass(frozen=True, slots=True)
class Account:
    """What one side makes of a question."""

    prompt: tuple[int, ...]
    gold: tuple[float, ...]
    """The log-probability of each token of the file's answer."""
    answer: tuple[int, ...]
    """The greedy answer. Of the training code: its choice after each prefix of the server's answer, which is the
    server's answer exactly when its own greedy answer would be; so one pass tells, and nothing is generated twice."""


# The questions --------------------------------------------------------------------------------------------------------


def choose(chats: Sequence[Chat], subject: Subject, count: int) -> list[Question]:
    """Those of the rows that were held out, if this is the file that was trained on, and then others; all that fit."""
    out = held_out([chat.group for chat in chats], subject.recipe.eval_fraction, subject.recipe.seed)
    ordered = (chats[n] for n in sorted(range(len(chats)), key=lambda n: (n not in out, n)))
    limit = read_config(subject.base).get("max_position_embeddings", math.inf)
    asked = (question(chat, subject.template) for chat in ordered)
    chosen = list(islice((each for each in asked if each.tokens <= limit), count))
    if not chosen:
        raise TrainError(f"{chats[0].where}: neither this row nor any after it fits into the model's {limit} tokens")
    return chosen


def question(chat: Chat, template: Template) -> Question:
    """The chat's last answer and what comes before it."""
    turn = chat.trained[-1]
    (sample,) = encode([replace(chat, trained=(turn,))], template)
    start = sample.labelled.index(True)
    body: dict[str, Any] = {"messages": [_as_sent(message) for message in chat.messages[:turn]]}
    if chat.tools:
        body |= {"tools": list(chat.tools), "tool_choice": "none"}  # shown to the model, but not parsed from its answer
    # A template that opens a thought come what may has no switch: then the prompts part, and the comparison says so.
    if switches := next((switches for switches, note in REQUESTS if note == sample.note), None):
        body["chat_template_kwargs"] = switches
    return Question(where=chat.where, body=body, prompt=sample.tokens[:start], gold=sample.tokens[start:])


def _as_sent(message: Mapping[str, Any]) -> dict[str, Any]:
    """In OpenAI's API the arguments of a call are text."""
    calls = [
        {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
        for call in message.get("tool_calls") or ()
    ]
    return {**message, "tool_calls": calls} if calls else {**message}


# The server -----------------------------------------------------------------------------------------------------------


def hear(model: Path, adapters: Mapping[str, Path], dtype: Dtype, questions: Sequence[Question]) -> list[list[Account]]:
    """Start vLLM and ask it everything: the model alone, then with each adapter."""
    settings = EngineSettings(dtype=dtype, max_model_len=max(question.tokens for question in questions))
    stack = Stack(model=str(model.resolve()), adapters=dict(adapters), strategies={}, engine=settings)

    async def everybody(engine: Engine) -> list[list[Account]]:
        async with Line(engine.server) as line:
            names = [stack.model, *(engine.server.names.get(name, name) for name in adapters)]
            return [await ask(line, name, questions) for name in names]

    with Engine(stack) as engine:
        return asyncio.run(everybody(engine))


async def ask(line: Line, model: str, questions: Sequence[Question]) -> list[Account]:
    """The server's account of each question."""
    asking = (_ask(line, model, question) for question in questions)
    return await tqdm.gather(*asking, desc=f"asking {Path(model).name}", unit="prompt", disable=None)


async def _ask(line: Line, model: str, question: Question) -> Account:
    greedy = {"model": model, "temperature": 0.0}
    said = await _post(
        line,
        "chat/completions",
        {**greedy, **question.body, "max_tokens": ANSWER_TOKENS, "return_token_ids": True},
    )
    whole = [*question.prompt, *question.gold]
    read = await _post(line, "completions", {**greedy, "prompt": whole, "max_tokens": 1, "prompt_logprobs": 0})
    scores = read["choices"][0]["prompt_logprobs"][len(question.prompt) :]
    return Account(
        prompt=tuple(said["prompt_token_ids"]),
        gold=tuple(score[str(token)]["logprob"] for score, token in zip(scores, question.gold, strict=True)),
        answer=tuple(said["choices"][0]["token_ids"]),
    )


async def _post(line: Line, route: str, body: Mapping[str, Any]) -> Any:
    return json.loads(await line.send(route, body))


# The training code ----------------------------------------------------------------------------------------------------


def as_trained(subject: Subject, recipe: Recipe) -> Any:
    """Base and adapter as training has them in memory, in the recipe's dtype and quantisation."""
    import torch

    from train.model import add_adapter, chosen_dtype, load_base

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = load_base(subject.base, recipe, chosen_dtype(recipe.dtype, device), device)
    return add_adapter(base, replace(recipe, continue_from=subject.adapter))


def account(model: Any, questions: Sequence[Question], heard: Sequence[Account]) -> list[Account]:
    """The training code's account of each question, its greedy answer along the server's."""
    golds = [_sample(question, question.gold) for question in questions]
    answers = [_sample(question, other.answer) for question, other in zip(questions, heard, strict=True)]
    read = _read(model, [*golds, *answers])
    return [
        Account(question.prompt, logprobs, choices)
        for question, (logprobs, _), (_, choices) in zip(questions, read, read[len(questions) :], strict=False)
    ]


def _sample(question: Question, answer: tuple[int, ...]) -> Sample:
    labelled = (False,) * len(question.prompt) + (True,) * len(answer)
    return Sample(where=question.where, tokens=question.prompt + answer, labelled=labelled)


def _read(model: Any, samples: Sequence[Sample]) -> list[tuple[tuple[float, ...], tuple[int, ...]]]:
    """Of each sample's labelled tokens: their log-probabilities, and the likeliest tokens in their places; in packs."""
    import torch

    from train.model import CHUNK, batch, head, rows_before_head
    from train.pack import best_fit_decreasing

    weight = head(model)
    lengths = [len(sample.tokens) for sample in samples]
    found: dict[int, tuple[tuple[float, ...], tuple[int, ...]]] = {}
    for pack in best_fit_decreasing(lengths, range(len(samples)), max(PACK, *lengths)):
        packed = batch([samples[n] for n in pack], weight.device)
        logprobs, choices = [], []
        with torch.no_grad():
            rows, size = rows_before_head(model, packed), max(1, CHUNK // len(weight))
            for part, targets in zip(rows.split(size), packed.targets.split(size), strict=True):
                scores = (part @ weight.T).float()
                logprobs.append(scores.gather(1, targets[:, None])[:, 0] - scores.logsumexp(-1))
                choices.append(scores.argmax(-1))
        counts = [sum(samples[n].labelled) for n in pack]
        split = zip(pack, torch.cat(logprobs).split(counts), torch.cat(choices).split(counts), strict=True)
        found |= {n: (tuple(logprob.tolist()), tuple(choice.tolist())) for n, logprob, choice in split}
    return [found[n] for n in range(len(samples))]
