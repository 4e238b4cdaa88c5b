"""What a kind of strategy is: a frozen dataclass whose fields are its settings, and whose `build` makes the strategy.

A kind that is made of another names it in `of`, so that every way of asking can be combined with every other. Knows
nothing of any kind in particular.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from string import Template
from typing import ClassVar, Final, Self

from pydantic import ConfigDict

from retrieval.files import STRICT
from retrieval.passage import Query
from retrieval.retriever import Retriever
from serve.chat import Answer, Model

PROMPTS: Final = Path(__file__).parents[1] / "prompts"
"""What kinds tell a model, one readable file each: `vote.txt`, or `check-claims.txt` where `check` has several."""

Strategy = Callable[[Query, Retriever, Model], Awaitable[Answer]]
"""One way to answer: from a question, a retriever and a model. What it costs is counted by who calls it."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a strategy may be made of: the retrievers and the strategies of its stack, by name."""

    retrievers: Mapping[str, Retriever]
    strategy: Callable[[str], Strategy]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A named strategy of a stack."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @property
    def name(self) -> str:
        """Its kind, as a stack says it."""
        return str(getattr(self, "kind", ""))

    @property
    def streamed(self) -> bool:
        """Whether its first reply is the answer word for word, so that it may be shown while it is being written."""
        return False

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategies that it is made of."""
        of = getattr(self, "of", None)
        return (of,) if of else ()

    @property
    def retrievers(self) -> tuple[str, ...]:
        """The retrievers that it searches besides the combination's."""
        return ()

    @property
    def files(self) -> Mapping[str, Path]:
        """The files and folders that it reads, by setting: its answers depend on what they hold."""
        return self._paths

    @property
    def _paths(self) -> dict[str, Path]:
        named = ((one.name, getattr(self, one.name)) for one in fields(self))
        return {name: value for name, value in named if isinstance(value, Path)}

    @property
    def prompts(self) -> Mapping[str, str]:
        """What the files of this kind say: its answers depend on it."""
        return {file.name: text for file, text in _files().items() if file.stem.split("-")[0] == self.name}

    def under(self, folder: Path) -> Self:
        """The same, with paths that were relative to this folder."""
        return replace(self, **{name: (folder / path).resolve() for name, path in self._paths.items()})

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong with the files that it reads, as (setting, sentence)."""
        for setting, path in self.files.items():
            if not path.exists():
                yield setting, f"{path}: there is no such file"

    def build(self, parts: Parts) -> Strategy:
        """The strategy that these settings describe. FileError when a file that it needs cannot be used."""
        raise NotImplementedError


def prompt(name: str, instead: str = "", **places: str) -> str:
    """What a model is told: `instead`, or the text of that file in `serve/prompts/`, with its `$places` filled.

    What fills a place is never looked at for further places.
    """
    text = instead.strip() or _files()[PROMPTS / f"{name}.txt"]
    return Template(text).safe_substitute(places).strip()


@cache
def _files() -> Mapping[Path, str]:
    return {file: file.read_text(encoding="utf-8") for file in sorted(PROMPTS.glob("*.txt"))}
