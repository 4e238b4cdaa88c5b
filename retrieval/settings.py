"""A named retriever of a stack: where it searches, how it asks, what it prefers, and how much of it is shown.

Settings only; knows nothing of how any of it is done (see `retriever`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict

from retrieval.expand import ExpandSettings
from retrieval.files import STRICT
from retrieval.filters import Where, check
from retrieval.passage import RetrievalError
from retrieval.route import RouteSettings
from retrieval.steps import Order, Rule

Kind = Literal["dense", "lexical", "hybrid", "random"]
Extent = Literal["passage", "neighbours", "document"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieverSettings:
    """What is left out is not done: a retriever of `kind`, `index` and `k` alone searches and hands over the k best."""

    kind: Kind
    index: Path
    """The folder of an index: `python -m retrieval build DOCS INDEX`."""
    k: int = 3
    """How many passages it hands over."""
    weight: float | None = None
    """Hybrid search: the share of the dense score, 0 to 1 (`python -m retrieval tune`); None fuses by rank."""
    turns: int = 1
    """In a conversation, how many of the user's earlier turns are searched for together with the question."""
    expand: ExpandSettings | None = None
    """`{kind: hyde}`: what is searched for in place of the question, or beside it."""
    where: Where = field(default_factory=dict)
    """`{domain: harbour, year: {min: 2000}, db_id: $db_id}`: only passages of documents with this metadata."""
    route: RouteSettings | None = None
    """A classifier of questions that says in which domain to search."""
    depth: int | None = None
    """How many are found first, where something below chooses k among them: 20, or k when that is more."""
    prefer: tuple[Rule, ...] = ()
    """`[{newest: year, weight: 0.3}]`: rules that move what is found up."""
    rerank: Path | None = None
    """The folder of a cross-encoder, which reads all that is found: `python -m train.reranker` makes one."""
    distinct: float | None = None
    """Of passages that share more than this part of their words, 0 to 1, only the best stays."""
    show: Extent = "passage"
    """What is handed over: the passage found, it with the one before and the one after, or its whole document."""
    tokens: int | None = None
    """The most tokens that are handed over; what does not fit is left out, from the end."""
    order: Order = "best_first"
    """Where the best passage stands in the prompt. Worked examples, which are turns, stand the other way round: with
    `best_first` the nearest comes last, right before the question."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        check(self.where)
        if problems := "; ".join(_problems(self)):
            raise RetrievalError(problems)

    @property
    def chooses(self) -> bool:
        """Whether more is found than is handed over."""
        return bool(self.prefer or self.rerank or self.distinct is not None)

    @property
    def found(self) -> int:
        """How many passages a search finds."""
        return self.k if not self.chooses else self.depth or max(20, self.k)

    def under(self, folder: Path) -> "RetrieverSettings":
        """The same, with paths that were relative to this folder."""
        return replace(
            self,
            index=(folder / self.index).resolve(),
            rerank=self.rerank and (folder / self.rerank).resolve(),
            route=self.route and self.route.under(folder),
        )


def _problems(given: RetrieverSettings) -> Iterator[str]:
    """Everything that is wrong with the settings, a sentence each."""
    if given.k < 1:
        yield f"k is {given.k}, but a retriever hands over at least 1 passage; for none, use `none`"
    if given.turns < 0:
        yield f"turns is {given.turns}, a number of earlier turns; 0 searches for the question alone"
    if given.weight is not None and not 0 <= given.weight <= 1:
        yield f"weight is {given.weight}, a share of the dense score between 0 and 1"
    if given.weight is not None and given.kind != "hybrid":
        yield f"weight is of hybrid search, and this is {given.kind}"
    if given.route and given.route.label in given.where:
        yield f"`where` and `route` both say which {given.route.label}: leave one out"
    if given.depth is not None and not given.chooses:
        yield "depth is how many are found where prefer, rerank or distinct choose among them; there is none of these"
    if given.depth is not None and given.depth < given.k:
        yield f"depth is {given.depth} and k is {given.k}: k are chosen from what is found, so raise the first"
    if given.distinct is not None and not 0 < given.distinct <= 1:
        yield f"distinct is {given.distinct}, a share of words above 0 and up to 1"
    if given.tokens is not None and given.tokens < 1:
        yield f"tokens is {given.tokens}, but nothing fits in less than 1"
