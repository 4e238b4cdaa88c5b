"""From `encode(questions)` to `await one(question)`: what waits while a call runs goes together into the next.

Knows nothing of models. One thread does the work; any number of event loops may ask.
"""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Final, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Vectors: TypeAlias = NDArray[np.float32]
"""A row for each text; or one row."""

T = TypeVar("T", bound=Hashable)

REMEMBERED: Final = 10_000
"""Texts whose vectors are kept: 15 MB at 384 numbers each."""


class Batched(Generic[T]):
    """Remembers vectors by what they were asked for, so that two retrievers that ask the same question pay for one."""

    def __init__(self, encode: Callable[[list[T]], Sequence[Vectors] | Vectors], remembered: int = REMEMBERED) -> None:
        self._encode = encode
        self._remembered = remembered
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._lock = Lock()
        self._asked: dict[T, Future[Vectors]] = {}
        self._waiting: list[tuple[T, Future[Vectors]]] = []

    async def __call__(self, text: T) -> Vectors:
        return await asyncio.wrap_future(self._ask(text))

    def forget(self) -> None:
        """Ask the model again for every text; what is under way still comes."""
        with self._lock:
            self._asked.clear()

    def _ask(self, text: T) -> Future[Vectors]:
        with self._lock:
            if text in self._asked:
                return self._asked[text]
            if len(self._asked) >= self._remembered:
                del self._asked[next(iter(self._asked))]
            future: Future[Vectors] = Future()
            # A running future cannot be cancelled: a caller who gives up takes nothing from the others.
            future.set_running_or_notify_cancel()
            self._asked[text] = future
            self._waiting.append((text, future))
        self._worker.submit(self._work)
        return future

    def _work(self) -> None:
        """Encode all that waits. The calls that were submitted meanwhile then find nothing left to do."""
        with self._lock:
            batch, self._waiting = self._waiting, []
        if not batch:
            return
        try:
            vectors = self._encode([text for text, _ in batch])
        except Exception as error:
            self._fail(batch, error)
            return
        for (_, future), vector in zip(batch, vectors, strict=True):
            future.set_result(vector)

    def _fail(self, batch: list[tuple[T, Future[Vectors]]], error: Exception) -> None:
        """Tell everyone who waits, and remember nothing: the next call tries again."""
        with self._lock:
            for text, _ in batch:
                self._asked.pop(text, None)
        for _, future in batch:
            future.set_exception(error)
