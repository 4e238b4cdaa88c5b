"""One way of answering, as a name: `adapter:retriever:strategy`. A model id at the gateway, a row in the report.

Knows nothing of what the three names stand for.
"""

import re
from dataclasses import dataclass
from typing import Final

from serve.chat import ServeError

BASE: Final = "base"
"""The adapter that is none: the base model as it came."""
NONE: Final = "none"
"""The retriever that finds nothing."""
GOLD: Final = "gold"
"""The retriever that finds the marked evidence: only an evaluation, which knows the evidence, can make it."""

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, order=True)
class Combination:
    """Which adapter, which retriever, which strategy.

    >>> Combination.parse("base:none:direct")
    Combination(adapter='base', retriever='none', strategy='direct')
    """

    adapter: str
    retriever: str
    strategy: str

    def __post_init__(self) -> None:
        for name in (self.adapter, self.retriever, self.strategy):
            if not NAME.fullmatch(name):
                raise ServeError(f"{str(self)!r} names no combination: {name!r} is not a name ({NAME.pattern})")

    def __str__(self) -> str:
        return f"{self.adapter}:{self.retriever}:{self.strategy}"

    @classmethod
    def parse(cls, text: str) -> "Combination":
        """The inverse of `str`."""
        names = text.split(":")
        if len(names) != 3:
            raise ServeError(f"{text!r} names no combination: write adapter:retriever:strategy, e.g. base:none:direct")
        return cls(*names)
