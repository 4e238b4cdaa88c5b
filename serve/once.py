"""Asked once: whoever asks for the same again, or meanwhile, is given the same.

Knows nothing of what is asked for, or of what it costs.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, Generic, TypeVar

REMEMBERED: Final = 10_000
"""Things that are kept: of prompts with their replies, some 20 MB."""

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Once(Generic[K, T]):
    """Key -> thing, made when it is first asked for. A failure is told to all who wait, and remembered by nobody."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._asked: dict[K, asyncio.Task[T]] = {}

    def __contains__(self, key: K) -> bool:
        """Whether it was asked for before, so that asking again costs nothing."""
        return key in self._asked

    async def __call__(self, key: K, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        # A caller who gives up takes nothing from the others.
        return await asyncio.shield(self._ask(key, make))

    async def close(self) -> None:
        """Give up what is still being made: there is nobody left who waits for it."""
        unfinished = [task for task in self._asked.values() if not task.done()]
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)

    def _ask(self, key: K, make: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        if key in self._asked:
            return self._asked[key]
        if len(self._asked) >= self._remembered:
            del self._asked[next(iter(self._asked))]
        self._asked[key] = task = asyncio.create_task(make())
        task.add_done_callback(lambda done: self._forget_failure(key, done))
        return task

    def _forget_failure(self, key: K, task: asyncio.Task[T]) -> None:
        """The next asker tries again."""
        if (task.cancelled() or task.exception()) and self._asked.get(key) is task:
            del self._asked[key]
