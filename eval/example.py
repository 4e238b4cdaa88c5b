"""One question of a test set with its gold answers and gold evidence.

Knows nothing of files, scorers or models.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import ConfigDict

from eval.gold import document_of
from retrieval.files import STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One question, every answer that counts as right, and where the documents say so."""

    id: str
    question: str
    answers: tuple[str, ...]
    """Empty where no scorer of the task compares with them: IFEval's instructions are kept or not, whatever is said."""
    evidence: tuple[str, ...] = ()
    """`doc`, `doc#p12` (a page) or `doc@120-480` (characters); empty when nobody has marked it."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """`slice` groups the report; `cluster` names what makes examples alike; `unanswerable` says that no document has
    the answer; strategies may read the rest."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ValueError("the question is empty")

    @property
    def has_gold(self) -> bool:
        """Whether the oracle arm can answer it: by its evidence, or by finding nothing because there is nothing."""
        return bool(self.evidence or self.meta.get("unanswerable"))

    @property
    def slice(self) -> str:
        """The group it belongs to in the report."""
        return str(self.meta.get("slice", "all"))

    @property
    def cluster(self) -> str:
        """What it shares its luck with: `meta.cluster` (a database, a template), or the document of its first evidence.

        The first alone: were every document a link, questions over two documents would chain half a test set together.
        """
        if "cluster" in self.meta:
            return f"cluster {self.meta['cluster']}"
        return f"document {document_of(self.evidence[0])}" if self.evidence else f"example {self.id}"
