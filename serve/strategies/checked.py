"""What kinds have in common that hold an answer against its passages, and give it up when it does not stand.

Knows nothing of how an answer is checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from serve.chat import Answer
from serve.reading import loose_field
from serve.strategies.kind import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked(Kind):
    """An answer that is shown only when enough of it is found to stand."""

    of: str
    """The strategy that answers."""
    json: str | None = None
    """The field that is the answer, where a reply is a JSON object."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share that must stand; below it, the answer is blocked."""
    instead: str = "unknown"
    """What is said when it is blocked: the stack's words for "not known". A reply that says so is not checked."""

    def value(self, text: str) -> str:
        """What a reply answers, without the form that it has."""
        return (loose_field(text, self.json) if self.json else text) or ""

    def abstains(self, text: str) -> bool:
        """Whether a reply says that it does not know: it claims nothing, so that there is nothing to check."""
        return _bare(self.value(text)) == _bare(self.value(self.instead))

    def judged(self, answer: Answer, stands: Sequence[bool], **notes: float) -> Answer:
        """The answer, or what is said instead; its `confidence` is the share that stands, 0 where there is nothing."""
        share = sum(stands) / len(stands) if stands else 0.0
        blocked = share < self.threshold
        noted = answer.noted(**notes, confidence=share, blocked=float(blocked))
        return noted.saying(self.instead) if blocked else noted


def _bare(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
