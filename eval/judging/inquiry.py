"""What a judge can be asked, one small thing at a time, and the JSON that it must answer in.

    Inquiry.of("supported", context="Foxes are red.", claim="A fox is red.")

A metric is made of many such inquiries (`metrics.py`), so a judge is calibrated on the very thing it is asked. Knows
nothing of who judges, of runs, or of what the answers come to.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from retrieval.files import STRICT
from serve.chat import Message, ServeError
from serve.fence import inert

KindName = Literal["claims", "supported", "useful", "questions", "score", "better"]

Reason = Annotated[str, Field(max_length=300)]
"""Before the verdict, so that the verdict can rest on it; short, since nobody needs more."""
HIGHEST: Final = 5
"""Of a scorecard, which begins at 1 (G-Eval's scale)."""
ASKED_BACK: Final = 3
"""Questions that a judge makes of one answer (RAGAS's number)."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a text asserts, each claim a sentence that can be checked alone; none when it asserts nothing."""

    claims: Annotated[tuple[Annotated[str, Field(max_length=400)], ...], Field(max_length=12)]
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True)
class Verdict:
    """Yes or no."""

    reason: Reason
    verdict: Literal["yes", "no"]
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True)
class Questions:
    """What a text would answer; whether it answers at all."""

    noncommittal: Literal["yes", "no"]
    questions: Annotated[
        tuple[Annotated[str, Field(max_length=300)], ...], Field(min_length=ASKED_BACK, max_length=ASKED_BACK)
    ]
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True)
class Score:
    """How good a text is."""

    reason: Reason
    score: Annotated[int, Field(ge=1, le=HIGHEST)]
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True)
class Better:
    """Which of two texts is better."""

    reason: Reason
    better: Literal["A", "B", "tie"]
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of inquiry: what is shown, what is asked, and how the answer looks."""

    parts: tuple[str, ...]
    instructions: str
    reply: TypeAdapter[Any]

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema that the engine holds the judge to."""
        return self.reply.json_schema()

    def read(self, text: str) -> dict[str, Any]:
        """What the judge said; ServeError when it is not what the schema demands."""
        try:
            said = json.loads(text)
            self.reply.validate_python(said)
        except (ValueError, RecursionError, ValidationError):
            raise ServeError(
                f"the judge did not answer in the JSON that was demanded, but {text[:200]!r}; its server must offer "
                "`response_format` with a JSON schema"
            ) from None
        assert isinstance(said, dict)
        return said


KINDS: Final[Mapping[KindName, Kind]] = {
    # Faithfulness by claims is RAGAS's (Es et al. 2023, arXiv 2309.15217, section 3): here one claim is one inquiry.
    "claims": Kind(
        ("question", "text"),
        "Break the text, which answers the question, into claims. Each claim is one short sentence that can be "
        "understood without the text: write names instead of pronouns. Leave out greetings, "
        "advice and what is only said to be unknown. A text that asserts nothing has no claims.",
        TypeAdapter(Claims),
    ),
    "supported": Kind(
        ("context", "claim"),
        "Does the context support the claim? Answer yes only if the claim follows from the context alone. Answer no if "
        "the context contradicts it or does not say. Give the reason in one sentence first.",
        TypeAdapter(Verdict),
    ),
    "useful": Kind(
        ("question", "answer", "passage"),
        "Was the passage useful in arriving at the given answer to the question? Answer yes or no. Give the reason in "
        "one sentence first.",
        TypeAdapter(Verdict),
    ),
    "questions": Kind(
        ("text",),
        f"Write {ASKED_BACK} questions that the text answers. `noncommittal` is yes if the text evades, is "
        "vague, or says that it does not know, and no otherwise.",
        TypeAdapter(Questions),
    ),
    # A form filled in after reasons (Liu et al. 2023, G-Eval, arXiv 2303.16634).
    "score": Kind(
        ("criteria", "question", "text"),
        f"How well does the text, which answers the question, meet the criteria? Give the reason in one "
        f"sentence, then a score from 1 (not at all) to {HIGHEST} (fully).",
        TypeAdapter(Score),
    ),
    "better": Kind(
        ("criteria", "question", "A", "B"),
        "Which of the two answers, A or B, meets the criteria better? Their order and their length say "
        "nothing. Answer `tie` if neither is better. Give the reason in one sentence first.",
        TypeAdapter(Better),
    ),
}


@dataclass(frozen=True, slots=True)
class Inquiry:
    """One thing that a judge is asked."""

    kind: KindName
    parts: tuple[str, ...]

    @classmethod
    def of(cls, kind: KindName, **parts: str) -> "Inquiry":
        """The inquiry with these parts, in the order in which the kind shows them."""
        return cls(kind, tuple(parts[name] for name in KINDS[kind].parts))

    @property
    def named(self) -> Mapping[str, str]:
        """The parts by name."""
        return dict(zip(KINDS[self.kind].parts, self.parts, strict=True))

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt. What is judged cannot speak for the chat template."""
        shown = (f"{name.capitalize()}:\n{inert(text)}" for name, text in self.named.items())
        return Message("system", KINDS[self.kind].instructions), Message("user", "\n\n".join(shown))


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said to one inquiry."""

    said: Mapping[str, Any]
    """JSON of the kind's schema."""
    expected: float | None = None
    """Of a score: its mean over what the judge might have said, where its server tells the probabilities."""

    @property
    def yes(self) -> bool:
        """Whether the verdict is yes."""
        return bool(self.said["verdict"] == "yes")


def digest(content: Any) -> str:
    """Sixteen hex digits: enough to tell millions of judgements apart."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def template(kind: KindName) -> str:
    """The hash of how inquiries of this kind are put, and of the answer that is demanded."""
    one = KINDS[kind]
    return digest([one.parts, one.instructions, one.schema])
