"""What one answer costs besides the calls of its strategy: tokens that its search had written, seconds it did not wait.

Knows nothing of who spends them, or of what is answered.
"""

import asyncio
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, TypeVar

from serve.chat import Usage

T = TypeVar("T")


@dataclass(slots=True)
class Meter:
    """What is to be added to what an answer's clock and its own calls say."""

    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    """More than it waited, where what it was given had been made before; less, where it waited for others first."""


_METER: Final[ContextVar[Meter | None]] = ContextVar("meter", default=None)


@contextmanager
def metered() -> Iterator[Meter]:
    """Whatever is charged inside this block, in tasks that are started there too, is charged to this meter."""
    meter = Meter()
    before = _METER.set(meter)
    try:
        yield meter
    finally:
        _METER.reset(before)


def charge(usage: Usage, seconds: float) -> None:
    """Add to the meter of the block one is in, if it is in one."""
    if meter := _METER.get():
        meter.usage += usage
        meter.seconds += seconds


async def at_once(*branches: Awaitable[T]) -> list[T]:
    """What each gives, in their order, for the tokens of all and the seconds of the one that takes longest alone.

    Branches share one clock: if each were charged what it waited for others, a second would be given back many times.
    """
    started = time.perf_counter()
    done = await asyncio.gather(*map(_alone, branches))
    slowest = max((seconds for _, _, seconds in done), default=0.0)
    charge(sum((usage for _, usage, _ in done), Usage()), slowest - (time.perf_counter() - started))
    return [given for given, _, _ in done]


async def _alone(branch: Awaitable[T]) -> tuple[T, Usage, float]:
    """What it gives, with the tokens charged to it and the seconds that it takes alone."""
    started = time.perf_counter()
    with metered() as besides:
        given = await branch
    return given, besides.usage, time.perf_counter() - started + besides.seconds
