"""What a judge's small answers come to: one answer, or what stood above its question, as numbers from 0 to 1.

    outcome = await METRICS["faithfulness"](case, ask)

The formulas are pure and name their source. Knows nothing of who judges, of runs, or of who is best.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from eval.judging.inquiry import HIGHEST, Inquiry, Judgement
from eval.judging.settings import MetricKind

Ask = Callable[[Inquiry], Awaitable[Judgement]]
Near = Callable[[str, str], Awaitable[float]]
"""How close two questions are in meaning, at most 1."""

BY_RANK: Final = "by rank"
SHARE: Final = "share"
MARKS: Final = "by the marks"
"""Ends the name of a value for which no judge is asked: the marked evidence says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One answer, with all that a metric may look at."""

    question: str
    text: str
    reference: str = ""
    """The gold answer; empty where no document has one."""
    passages: tuple[str, ...] = ()
    """In the order of the prompt."""
    marked: tuple[bool | None, ...] = ()
    """Of each passage, whether it has a part of the marked evidence, as far as can be told."""
    covered: bool | None = None
    """Whether all of the marked evidence was there."""
    criteria: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a metric says of one case."""

    values: Mapping[str, float] = field(default_factory=dict)
    """By name; none when there was nothing to judge, which is neither 0 nor 1."""
    checked: tuple[tuple[Inquiry, str, str], ...] = ()
    """(inquiry, what the judge said, what the marks say), where there are marks."""


async def faithfulness(case: Case, ask: Ask, near: Near) -> Outcome:
    """Supported claims of the answer / all of its claims (RAGAS, Es et al. 2023, arXiv 2309.15217)."""
    if not case.passages:
        return Outcome()
    found = await _supported(case, case.text, ask)
    return Outcome({"": share([yes for _, yes in found])} if found else {})


async def context_recall(case: Case, ask: Ask, near: Near) -> Outcome:
    """Claims of the gold answer that the passages support / all of its claims (RAGAS).

    By the marks: whether all of the marked evidence was there.
    """
    if not case.passages or not case.reference:
        return Outcome()
    by_marks = {} if case.covered is None else {MARKS: float(case.covered)}
    found = await _supported(case, case.reference, ask)
    mark = {True: "yes", False: "no", None: ""}[case.covered]
    return Outcome(
        by_marks | ({"": share([yes for _, yes in found])} if found else {}),
        tuple((inquiry, _word(yes), mark) for inquiry, yes in found if mark),
    )


async def context_precision(case: Case, ask: Ask, near: Near) -> Outcome:
    """How much of what stood above the question is of use, in two definitions: by rank, and as a plain share."""
    if not case.passages or not case.reference:
        return Outcome()
    inquiries = [
        Inquiry.of("useful", question=case.question, answer=case.reference, passage=one) for one in case.passages
    ]
    said = [one.yes for one in await asyncio.gather(*map(ask, inquiries))]
    known = [one for one in case.marked if one is not None]
    by_marks = len(known) == len(said)
    return Outcome(
        {BY_RANK: ranked_precision(said), SHARE: share(said)}
        | ({f"{BY_RANK}, {MARKS}": ranked_precision(known), f"{SHARE}, {MARKS}": share(known)} if by_marks else {}),
        tuple(
            (inquiry, _word(yes), _word(mark))
            for inquiry, yes, mark in zip(inquiries, said, case.marked, strict=False)
            if mark is not None
        ),
    )


async def answer_relevancy(case: Case, ask: Ask, near: Near) -> Outcome:
    """Mean closeness of the question to questions that the answer would answer; 0 for an answer that evades (RAGAS).

    A closeness below 0 counts as 0. It depends on the embedder, and says nothing of truth.
    """
    said = (await ask(Inquiry.of("questions", text=case.text))).said
    close = await asyncio.gather(*(near(case.question, one) for one in said["questions"]))
    return Outcome({"": (said["noncommittal"] == "no") * sum(max(0.0, one) for one in close) / len(close)})


async def scorecard(case: Case, ask: Ask, near: Near) -> Outcome:
    """The score from 1 to 5, weighted by its probabilities where the server tells them (G-Eval), as 0 to 1."""
    judgement = await ask(Inquiry.of("score", criteria=case.criteria, question=case.question, text=case.text))
    score = judgement.said["score"] if judgement.expected is None else judgement.expected
    return Outcome({"": (score - 1) / (HIGHEST - 1)})


METRICS: Final[Mapping[MetricKind, Callable[[Case, Ask, Near], Awaitable[Outcome]]]] = {
    "faithfulness": faithfulness,
    "context_precision": context_precision,
    "context_recall": context_recall,
    "answer_relevancy": answer_relevancy,
    "scorecard": scorecard,
}
"""All but pairwise, which looks at two answers at once."""

CORRECTABLE: Final[Mapping[MetricKind, str]] = {"faithfulness": "", "context_recall": "", "context_precision": SHARE}
"""The values that are a mean of yes and no, and so can be corrected for a judge whose errors are known."""


def ranked_precision(relevant: Sequence[bool]) -> float:
    """RAGAS's context precision: the mean over relevant passages of the precision down to each; 0 without any.

    It divides by what is relevant among the retrieved, so it is not TREC's average precision.

    >>> ranked_precision([True, False, True]), ranked_precision([False, False])
    (0.8333333333333333, 0.0)
    """
    found = [sum(relevant[: place + 1]) / (place + 1) for place, is_relevant in enumerate(relevant) if is_relevant]
    return sum(found) / len(found) if found else 0.0


def share(said: Sequence[bool]) -> float:
    """The part of them that is true.

    >>> share([True, False, True, True])
    0.75
    """
    return sum(said) / len(said)


async def _supported(case: Case, text: str, ask: Ask) -> list[tuple[Inquiry, bool]]:
    """For each claim of the text, whether the passages of the case support it."""
    claims = (await ask(Inquiry.of("claims", question=case.question, text=text))).said["claims"]
    context = "\n\n".join(case.passages)
    inquiries = [Inquiry.of("supported", context=context, claim=claim) for claim in dict.fromkeys(claims)]
    judgements = await asyncio.gather(*map(ask, inquiries))
    return [(inquiry, judgement.yes) for inquiry, judgement in zip(inquiries, judgements, strict=True)]


def _word(yes: bool) -> str:
    return "yes" if yes else "no"
