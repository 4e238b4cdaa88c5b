"""How many questions are answered at once, how many wait, and who is turned away at once instead of too late.

Knows nothing of what a question is.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from pydantic import ConfigDict

from retrieval.files import STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """What the gateway takes on; seconds and counts."""

    keys: Path | None = None
    """A file of `name hash` lines (`python -m serve key NAME`): then every request needs one of these keys."""
    running: int = 128
    """Questions that are answered at the same time."""
    waiting: int = 256
    """Questions that wait for their turn; whoever comes after them is told to come back (503)."""
    per_key: int | None = None
    """Questions of one key that run or wait at the same time; one more is refused (429)."""
    body_bytes: int = 1 << 20
    messages: int = 256
    """Turns of one conversation."""
    queue_seconds: float = 30.0
    first_token_seconds: float = 60.0
    idle_seconds: float = 30.0
    """Between two pieces of a streamed answer."""
    total_seconds: float = 600.0
    drain_seconds: float = 30.0
    """What answers under way get to finish when the gateway is told to stop."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        least = {"running": 1, "waiting": 0, "per_key": 1, "body_bytes": 1, "messages": 1}
        for name, value in least.items():
            given = getattr(self, name)
            if given is not None and given < value:
                raise ValueError(f"{name} is {given}; it must be at least {value}")
        if self.per_key is not None and self.keys is None:
            raise ValueError("per_key counts the questions of a key, and there are no `keys`; name their file")
        for name in ("queue_seconds", "first_token_seconds", "idle_seconds", "total_seconds", "drain_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")


class TurnedAway(Exception):  # noqa: N818 - an answer, not an accident
    """Too many at once: `status` is 429 for the caller's own, 503 for everybody's; come back after `seconds`."""

    def __init__(self, status: int, sentence: str, seconds: int) -> None:
        super().__init__(sentence)
        self.status: Final = status
        self.seconds: Final = seconds


class Admission:
    """Lets so many in, lets so many wait, first come first served, and refuses the rest at once."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._free = asyncio.Semaphore(settings.running)
        self._of: Counter[str] = Counter()
        self._typical = 1.0
        """Seconds an answer takes, lately."""
        self.running = 0
        self.waiting = 0

    @asynccontextmanager
    async def admitted(self, key: str) -> AsyncIterator[float]:
        """Inside, the question runs; gives the seconds it has waited. Raises TurnedAway."""
        settings, came = self._settings, time.perf_counter()
        if settings.per_key is not None and self._of[key] >= settings.per_key:
            raise TurnedAway(
                429, f"this key has {self._of[key]} questions under way, as many as it may have", self._soon(1)
            )
        if self._free.locked() and self.waiting >= settings.waiting:
            raise TurnedAway(
                503, f"{self.running} questions run and {self.waiting} wait, as many as may", self._soon(self.waiting)
            )
        self._of[key] += 1
        try:
            if self._free.locked():
                await self._turn()
            else:
                await self._free.acquire()
            began = time.perf_counter()
            self.running += 1
            try:
                yield began - came
            finally:
                self.running -= 1
                self._free.release()
                self._typical += (time.perf_counter() - began - self._typical) / 10
        finally:
            self._of[key] -= 1
            if not self._of[key]:
                del self._of[key]

    async def _turn(self) -> None:
        self.waiting += 1
        try:
            async with asyncio.timeout(self._settings.queue_seconds):
                await self._free.acquire()
        except TimeoutError:
            waited = f"{self._settings.queue_seconds:.0f} s"
            raise TurnedAway(
                503, f"it was not this question's turn within {waited}", self._soon(self.waiting)
            ) from None
        finally:
            self.waiting -= 1

    def _soon(self, before: int) -> int:
        """Whole seconds until so many have had their turn, as long as answers lately took; at most a minute."""
        return min(60, max(1, math.ceil(before * self._typical / self._settings.running)))
