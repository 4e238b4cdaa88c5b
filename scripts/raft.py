"""Rows as retrieval will find them (RAFT, Zhang et al. 2024, arXiv 2403.10131): evidence among distractors, or none.

A retriever for training alone: where an example's evidence is known, it stands at a random place among other passages,
and in a share of the rows it is missing. The same seed makes the same rows. Knows nothing of prompts or answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Annotated, ClassVar, Final

from pydantic import ConfigDict, Field

from eval.task import Example
from retrieval.files import STRICT
from retrieval.passage import Hit, Passage, Query
from retrieval.retriever import Retriever

RAFT: Final = "raft"
"""Its name among the retrievers of the settings."""
SPARE: Final = 20
"""Hits to look at beyond the distractors wanted: the pieces of the evidence and the question itself are passed over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftSettings:
    """Where the distractors come from, and how many there are."""

    retriever: str
    """One of the stack; the closer it is to the one that will serve, the more the distractors are like its mistakes."""
    distractors: Annotated[int, Field(ge=1)] = 4
    """Beside the evidence; the paper has four. Fewer where the retriever finds no more."""
    absent: Annotated[float, Field(ge=0, le=1)] = 0.2
    """The share of rows without their evidence; the paper's best lay between 0 and 0.6, by the task."""
    seed: int = 0

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Raft:
    """What one example is shown. As many passages with the evidence as without: their number gives nothing away."""

    evidence: tuple[Passage, ...]
    others: Retriever
    distractors: int
    is_absent: bool
    seed: str

    async def search(self, query: Query) -> tuple[Hit, ...]:
        """The evidence at random places among distractors, which stay in the order in which they were found."""
        found = [hit.passage for hit in await self.others.search(query)]
        wanted = self.distractors + max(1, len(self.evidence))
        gold = () if self.is_absent else self.evidence
        shown = self._distractors(found)[: wanted - len(gold)]
        random = Random(self.seed)
        for passage in gold:
            shown.insert(random.randrange(len(shown) + 1), passage)
        return tuple(Hit(passage, score=0.0, rank=rank) for rank, passage in enumerate(shown, start=1))

    def _distractors(self, found: Sequence[Passage]) -> list[Passage]:
        """What was found and is no evidence: no piece of it, and not the same words under another name."""
        return [one for one in found if not any(one.text == gold.text or touch(one, gold) for gold in self.evidence)]


def touch(one: Passage, other: Passage) -> bool:
    """Whether two passages share a character of one document."""
    return one.document == other.document and one.start < other.end and other.start < one.end


def without_evidence(examples: Sequence[Example], settings: RaftSettings) -> frozenset[str]:
    """The ids of the examples whose evidence is to be missing: that share of those who have any, drawn by seed."""
    known = sorted(example.id for example in examples if example.evidence)
    return frozenset(Random(f"absent {settings.seed}").sample(known, round(settings.absent * len(known))))
