"""What one answer costs besides the calls of its strategy: tokens that its search had written, seconds it did not wait.

Knows nothing of who spends them, or of what is answered.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from serve.chat import Usage


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
