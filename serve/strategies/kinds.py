"""Every kind of strategy that a stack can name, and how the strategies of a stack are made of each other.

A new kind is a dataclass in a file of its own and a word in `Settings`. Knows nothing of what any of them does.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, TypeAlias

from pydantic import Field

from retrieval.retriever import Retriever
from serve.strategies.arithmetic import Arithmetic
from serve.strategies.best_of import BestOf
from serve.strategies.chain import Chain, Scratchpad
from serve.strategies.compress import Compress
from serve.strategies.confident import Confident
from serve.strategies.decompose import Decompose
from serve.strategies.fact_check import FactCheck
from serve.strategies.fallback import Fallback
from serve.strategies.intent import Intent
from serve.strategies.kind import Parts, Strategy
from serve.strategies.prompted import Prompted
from serve.strategies.python import Python
from serve.strategies.quote_check import QuoteCheck
from serve.strategies.react import React
from serve.strategies.repair import Repair
from serve.strategies.schema import Schema
from serve.strategies.second_look import SecondLook
from serve.strategies.sql_tool import SqlTool
from serve.strategies.sql_vote import SqlVote
from serve.strategies.summarise import Summarise
from serve.strategies.vote import Vote

Settings: TypeAlias = Annotated[
    Arithmetic
    | BestOf
    | Chain
    | Compress
    | Confident
    | Decompose
    | FactCheck
    | Fallback
    | Intent
    | Prompted
    | Python
    | QuoteCheck
    | React
    | Repair
    | Schema
    | Scratchpad
    | SecondLook
    | SqlTool
    | SqlVote
    | Summarise
    | Vote,
    Field(discriminator="kind"),
]
"""One named strategy of a stack."""


def build(named: Mapping[str, Settings], retrievers: Mapping[str, Retriever]) -> dict[str, Strategy]:
    """The strategies by name, those that others are made of made once; `retrievers` are the stack's."""
    made: dict[str, Strategy] = {}

    def strategy(name: str) -> Strategy:
        if name not in made:
            made[name] = named[name].build(Parts(retrievers, strategy))
        return made[name]

    return {name: strategy(name) for name in named}


def needed(named: Mapping[str, Settings], wanted: Iterable[str]) -> dict[str, Settings]:
    """Of the named strategies, those that are wanted and those that they are made of, in the order of `named`."""
    found: set[str] = set()
    ahead = [name for name in wanted if name in named]
    while ahead:
        name = ahead.pop()
        found.add(name)
        ahead += [one for one in named[name].strategies if one in named and one not in found]
    return {name: one for name, one in named.items() if name in found}


def searched_by(named: Mapping[str, Settings], name: str) -> set[str]:
    """The retrievers that this strategy and those that it is made of search besides the combination's."""
    return {one for settings in needed(named, [name]).values() for one in settings.retrievers}


def circles(named: Mapping[str, Settings]) -> Iterator[str]:
    """The strategies that are made of themselves, by whatever way."""
    for name, settings in named.items():
        if name in needed(named, settings.strategies):
            yield name
