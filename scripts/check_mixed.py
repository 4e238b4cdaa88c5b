"""Does an adapter's request change a base model's that is computed beside it? Asked of the engine itself, in float32.

Knows nothing of gateways.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from tqdm.asyncio import tqdm

from scripts.bench_texts import some_questions
from serve.chat import Message, Sampling
from serve.engine import Engine
from serve.pipeline import Pipeline
from serve.stack import Stack

TOKENS = 24
AT_ONCE = 64
TIE = 1e-3
"""Two tokens whose log-probabilities are as near as this may change places when a batch has another shape."""


@dataclass(frozen=True, slots=True)
class Said:
    """A greedy answer: its tokens, their log-probabilities, and by how much each beat the next best."""

    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    margins: tuple[float, ...]


def mixed(stack: Stack, rows: int) -> list[str]:
    """The same base rows alone, alone in another order, and mixed with as many of each adapter."""
    stack = replace(stack, engine=replace(stack.engine, dtype="float32"), retrievers={}, aliases={})
    with Engine(stack) as engine:
        alone, shuffled, beside = asyncio.run(_three_ways(stack, engine, rows))
    noise, changed = _changes(alone, shuffled), _changes(alone, beside)
    print(
        f"{rows} base rows of {TOKENS} tokens, {AT_ONCE} at once, {len(stack.adapters)} adapter(s), float32:\n"
        f"  in another order   {noise}\n  beside adapters    {changed}"
    )
    return [f"{changed.beyond_ties} base rows changed beside an adapter's"] if changed.beyond_ties else []


@dataclass(frozen=True, slots=True)
class Changes:
    """How far two runs of the same rows are apart."""

    texts: int
    beyond_ties: int
    furthest: float

    def __str__(self) -> str:
        return (
            f"{self.texts} other texts, {self.beyond_ties} of them not at a tie; log-probabilities of equal tokens "
            f"apart by {self.furthest:.1e} at most"
        )


async def _three_ways(stack: Stack, engine: Engine, rows: int) -> tuple[list[Said], list[Said], list[Said]]:
    questions = some_questions(None, rows)
    asked = [questions[n % len(questions)] + " " * (n // len(questions)) for n in range(rows)]
    async with Pipeline(stack, engine.server) as pipeline:
        base = [("base", text) for text in asked]
        others = [(name, text) for name in stack.adapters for text in asked]
        return (
            await _ask(pipeline, base, base),
            await _ask(pipeline, Random(1).sample(base, rows), base),
            await _ask(pipeline, Random(2).sample(base + others, rows + len(others)), base),
        )


async def _ask(pipeline: Pipeline, order: Sequence[tuple[str, str]], wanted: Sequence[tuple[str, str]]) -> list[Said]:
    """The answers to what is wanted, when everything is asked in this order."""
    places, heard = asyncio.Semaphore(AT_ONCE), {}

    async def one(adapter: str, text: str) -> None:
        async with places:
            greedy = Sampling(temperature=0.0, max_tokens=TOKENS)
            completion = await pipeline.model(adapter, greedy).complete(
                [Message("user", text)], logprobs=True, top_logprobs=2, ignore_eos=True
            )
        told = completion["choices"][0]["logprobs"]["content"]
        heard[adapter, text] = Said(
            tuple(token["token"] for token in told),
            tuple(token["logprob"] for token in told),
            tuple(token["top_logprobs"][0]["logprob"] - token["top_logprobs"][1]["logprob"] for token in told),
        )

    await tqdm.gather(*(one(*each) for each in order), desc="asking", unit="row", disable=None)
    return [heard[each] for each in wanted]


def _changes(before: Sequence[Said], after: Sequence[Said]) -> Changes:
    """Compared up to the first token that differs: after it the prompts do."""
    texts = beyond = 0
    furthest = 0.0
    for one, other in zip(before, after, strict=True):
        pairs = list(zip(one.tokens, other.tokens, strict=True))
        same = next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs))
        distances = [abs(a - b) for a, b in zip(one.logprobs[:same], other.logprobs[:same], strict=True)]
        furthest = max([furthest, *distances])
        if same < len(pairs):
            texts += 1
            beyond += one.margins[same] > TIE
    return Changes(texts, beyond, furthest)
