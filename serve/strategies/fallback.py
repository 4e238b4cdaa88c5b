"""`fallback`: below a confidence, another strategy answers, or somebody else: then fixed words say so.

Knows nothing of where a confidence comes from: `confident`, `vote`, `fact_check` and `quote_check` state one.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from retrieval.passage import Query
from retrieval.retriever import Retriever
from serve.chat import Answer, Model, ServeError
from serve.strategies.kind import Kind, Parts, Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback(Kind):
    """A second way, for questions at which the first is not sure."""

    kind: Literal["fallback"]
    of: str
    """The strategy that answers first."""
    threshold: Annotated[float, Field(gt=0, le=1)]
    """Below it, the first answer is given up."""
    otherwise: str | None = None
    """The strategy that answers then."""
    words: str = ""
    """Or what is said then: `A colleague will answer you.`"""

    def __post_init__(self) -> None:
        if bool(self.otherwise) == bool(self.words):
            raise ValueError("`fallback` needs one of `otherwise` (a strategy) and `words` (what is said instead)")

    @property
    def strategies(self) -> tuple[str, ...]:
        """The first, and the second if there is one."""
        return (self.of, self.otherwise) if self.otherwise else (self.of,)

    def build(self, parts: Parts) -> Strategy:
        """Its notes say whether the first answer was given up (`fallback`); a second one adds its own."""
        first = parts.strategy(self.of)
        second = parts.strategy(self.otherwise) if self.otherwise else None

        async def fallback(query: Query, retriever: Retriever, model: Model) -> Answer:
            answer = await first(query, retriever, model)
            if "confidence" not in answer.notes:
                raise ServeError(f"{self.of!r} states no confidence to fall back by; make it of `confident` or `vote`")
            if answer.notes["confidence"] >= self.threshold:
                return answer.noted(fallback=0.0)
            if second is None:
                return answer.saying(self.words).noted(fallback=1.0)
            other = await second(query, retriever, model)
            return replace(other, notes=answer.notes).noted(**other.notes).noted(fallback=1.0)

        return fallback
