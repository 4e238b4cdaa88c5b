"""What a pipeline lends its retrievers: its base model, which writes, and that model's tokenizer, which counts.

What a retriever's calls cost is charged to the answer they were made for. Knows nothing of what is written, or why.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from retrieval import tokens
from retrieval.model import MOST_TOKENS
from retrieval.passage import RetrievalError
from serve.base import model_folder
from serve.chat import Message, Model, Reply, Sampling, Usage

WRITING: Final = Sampling(temperature=0.0, max_tokens=MOST_TOKENS)
REMEMBERED: Final = 10_000
"""Prompts whose replies are kept, some 20 MB."""


@dataclass(slots=True)
class Meter:
    """What one answer cost besides the calls of its strategy."""

    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    """What replies took when they were written, where this answer did not wait for them: they were remembered."""


_METER: Final[ContextVar[Meter | None]] = ContextVar("meter", default=None)


@contextmanager
def metered() -> Iterator[Meter]:
    """Whatever a `Writer` writes inside this block, in tasks that are started there too, is charged to this meter."""
    meter = Meter()
    before = _METER.set(meter)
    try:
        yield meter
    finally:
        _METER.reset(before)


class Writer:
    """Prompt -> text. A prompt is asked once: whoever asks it again, or meanwhile, gets the same and is charged for it.

    So strategies that are compared find the same passages, and each costs what it would cost alone.
    """

    def __init__(self, model: Model, remembered: int = REMEMBERED) -> None:
        self._model = model
        self._remembered = remembered
        self._asked: dict[str, asyncio.Task[Reply]] = {}

    async def __call__(self, prompt: str) -> str:
        started = time.perf_counter()
        # A caller who gives up takes nothing from the others.
        reply = await asyncio.shield(self._ask(prompt))
        if meter := _METER.get():
            meter.usage += reply.usage
            meter.seconds += max(0.0, reply.seconds - (time.perf_counter() - started))
        return reply.text

    def _ask(self, prompt: str) -> asyncio.Task[Reply]:
        if prompt in self._asked:
            return self._asked[prompt]
        if len(self._asked) >= self._remembered:
            del self._asked[next(iter(self._asked))]
        self._asked[prompt] = task = asyncio.create_task(self._write(prompt))
        task.add_done_callback(lambda done: self._forget_failure(prompt, done))
        return task

    async def _write(self, prompt: str) -> Reply:
        return await self._model.chat([Message("user", prompt)])

    def _forget_failure(self, prompt: str, task: asyncio.Task[Reply]) -> None:
        """Whoever waits is told; the next asker tries again."""
        if (task.cancelled() or task.exception()) and self._asked.get(prompt) is task:
            del self._asked[prompt]


def counter(model: str) -> Callable[[str], int]:
    """How many tokens a text has for this model, whose tokenizer is read with the first text.

    Raises RetrievalError when the tokenizer is not on this machine.
    """
    return lambda text: _found(model)(text)


@lru_cache(maxsize=4)
def _found(model: str) -> Callable[[str], int]:
    folder = model_folder(model)
    if folder is None or not (folder / "tokenizer.json").is_file():
        raise RetrievalError(
            f"a retriever counts tokens, and the tokenizer of the model {model} is not on this machine (no "
            "tokenizer.json): name the model by its folder or by the id it was fetched under, or leave `tokens` out"
        )
    return tokens.counter(folder)
