"""`python`: a strategy of the user's own, an async function `(query, retriever, model) -> Answer` in a Python file.

strategies: {mine: {kind: python, path: "mine.py:answer"}}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serve.own import function, parted
from serve.strategies.kind import Kind, Parts, Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Python(Kind):
    """A function of one's own."""

    kind: Literal["python"]
    path: Path
    """`FILE:NAME`, relative to the stack."""

    def __post_init__(self) -> None:
        parted(self.path)

    @property
    def files(self) -> Mapping[str, Path]:
        """The file itself."""
        return {"path": parted(self.path)[0]}

    @property
    def prompts(self) -> Mapping[str, str]:
        """Which function it is: a file may hold several, and answers depend on that too."""
        return {"function": parted(self.path)[1]}

    def build(self, _: Parts) -> Strategy:
        """The function. FileError when the file or the function cannot be had."""
        return function(*parted(self.path), "async def {name}(query, retriever, model)")
