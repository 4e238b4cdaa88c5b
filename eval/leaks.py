"""The contamination matrix: all that the models have seen, against the test set, and the scores without what was seen.

    leaks = find_leaks(results, folder)          # leaks.json, a section of the report, a warning

Finds by `train.overlap`, the check that also runs before training; knows nothing of where material comes from.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from eval.folder import Results
from eval.material import Kind, Material, materials
from eval.summary import Row, cells, ranked, summarise
from eval.task import Example
from eval.wording import counted, listed, p_value, percent, points
from train.overlap import CONTAINED, EXACT, KINDS, MEANING, Embedder, Overlap, Text, overlaps, read, text_of

BLOCKING: Final = (EXACT, CONTAINED)
"""Exact and n-gram hits: no gate lets them pass. The other kinds are strong signs, and for people to judge."""
LEAKS: Final = tuple(kind for kind in KINDS if kind != MEANING)
"""What can flag a question; closeness in meaning only says where to look."""
EXCERPT: Final = 200
"""Characters of a text that an example quotes: of a document, those around the question are seldom the first."""
EXAMPLES: Final = 20
"""Sightings of one material that leaks.json quotes; it names every flagged question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A test question that stands in some material."""

    id: str
    question: str
    where: str
    seen: str
    kind: str
    score: float
    leak: bool
    """Whether the question is flagged for it: not for closeness in meaning alone, the same words about another
    database, or a question that stands in a corpus without its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A row of the matrix: one material against the test set."""

    material: Material
    sightings: tuple[Sighting, ...]
    """The surest first."""

    @property
    def counts(self) -> dict[str, int]:
        """How many questions are flagged for each kind, each by its surest sighting only."""
        return self._counts(self.flagged)

    @property
    def doubts(self) -> dict[str, int]:
        """How many more are to look at, for each kind."""
        return self._counts(self.doubtful)

    @property
    def flagged(self) -> frozenset[str]:
        """The questions that it gives away."""
        return frozenset(one.id for one in self.sightings if one.leak)

    @property
    def doubtful(self) -> frozenset[str]:
        """The questions to look at, that are not flagged."""
        return frozenset(one.id for one in self.sightings) - self.flagged

    def _counts(self, ids: AbstractSet[str]) -> dict[str, int]:
        surest = {one.id: one.kind for one in reversed(self.sightings) if one.id in ids}
        found = Counter(surest.values())
        return {kind: found[kind] for kind in KINDS if found[kind]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaks:
    """The matrix, and what the combinations score on either part of the test set."""

    checks: tuple[Check, ...] = ()
    compared_in_meaning: bool = False
    clean: tuple[Row, ...] = ()
    """As in summary.csv, from the questions that nothing gives away; empty when none or all are."""
    seen: tuple[Row, ...] = ()
    """From the others."""

    @property
    def flagged(self) -> frozenset[str]:
        """The questions that anything gives away."""
        return frozenset[str]().union(*(check.flagged for check in self.checks))

    @property
    def unread(self) -> tuple[Material, ...]:
        """What could not be checked."""
        return tuple(check.material for check in self.checks if check.material.unread)


UNCHECKED: Final = Leaks()
"""Of a run that exists in memory only."""


def find_leaks(results: Results, folder: Path, embed: Embedder | None = None) -> Leaks:
    """Check everything that the run's combinations can have seen; with `embed`, for closeness in meaning as well."""
    checks = tuple(check(one, results.examples, embed) for one in materials(results.config, folder))
    leaks = Leaks(checks=checks, compared_in_meaning=embed is not None)
    seen, everything = leaks.flagged, {one.id for one in results.examples}
    if not seen or seen == everything:
        return leaks
    return replace(leaks, clean=_rows(results, everything - seen), seen=_rows(results, seen))


def check(material: Material, examples: Sequence[Example], embed: Embedder | None = None) -> Check:
    """One cell of the matrix. Meaning is compared only where a text is a question, not where it may hold one."""
    rows = {one.id: {"question": one.question, "answers": [*one.answers], "meta": one.meta} for one in examples}
    tests = [text for item, row in rows.items() if (text := text_of(item, row))]
    by_id = {one.id: one for one in examples}
    is_questions = material.kind in ("training data", "worked examples")
    found = overlaps(material.texts, tests, embed if is_questions else None)
    sightings = [_sighting(pair, by_id[pair.test.where], material.kind) for pair in found]
    surest = sorted(filter(None, sightings), key=lambda one: (not one.leak, KINDS.index(one.kind), -one.score))
    return Check(material=material, sightings=tuple(surest))


def blocks(leaks: Leaks) -> tuple[str, ...]:
    """Why a gate must fail: a sentence for each material in which test questions stand word for word."""
    return tuple(
        f"{counted(len(ids), 'test question')} in the {check.material.name}, e.g. {hits[0].id} at {hits[0].where}: "
        f"{hits[0].question!r}"
        for check in leaks.checks
        if (hits := [one for one in check.sightings if one.leak and one.kind in BLOCKING])
        and (ids := {one.id for one in hits})
    )


def said(leaks: Leaks, questions: int) -> tuple[str, ...]:
    """What a reader must know before the scores; nothing when everything was read and is clean."""
    return (*_warning(leaks, questions), *_gaps(leaks))


def to_json(leaks: Leaks) -> dict[str, Any]:
    """`leaks.json`."""
    return {
        "compared_in_meaning": leaks.compared_in_meaning,
        "flagged": sorted(leaks.flagged),
        "blocks": list(blocks(leaks)),
        "checks": [
            {
                "kind": check.material.kind,
                "used_by": list(check.material.used_by),
                "place": check.material.place,
                "texts": len(check.material.texts),
                "remark": check.material.remark,
                "counts": check.counts,
                "flagged": sorted(check.flagged),
                "to_look_at": check.doubts,
                "examples": [asdict(one) for one in check.sightings[:EXAMPLES]],
            }
            for check in leaks.checks
        ],
        "clean": [cells(row) for row in leaks.clean],
        "seen": [cells(row) for row in leaks.seen],
    }


def _sighting(pair: Overlap, example: Example, kind: Kind) -> Sighting | None:
    """What a pair comes to; None where a page only speaks of what a question asks for, in long parts of its words."""
    if kind == "corpus" and pair.kind == CONTAINED and pair.score < 1:
        return None
    return Sighting(
        id=example.id,
        question=example.question,
        where=pair.train.where,
        seen=_excerpt(pair.train.question),
        kind=pair.kind,
        score=pair.score,
        leak=pair.is_leak and (kind != "corpus" or _answers(pair.train, example)),
    )


def _answers(page: Text, example: Example) -> bool:
    """Whether any right answer stands in the page beside the question, which it asks word for word."""
    asked, words = read(example.question).words, read(page.question).words
    rest = f" {' '.join(words)} ".replace(f" {' '.join(asked)} ", " ", 1)
    said = (" ".join(read(answer).words) for answer in example.answers)
    return any(f" {answer} " in rest for answer in said if answer)


def _excerpt(text: str) -> str:
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…"


def _rows(results: Results, ids: AbstractSet[str]) -> tuple[Row, ...]:
    """The rows of summary.csv, had only these questions been asked: the same statistics, the same correction."""
    part = results.only(ids)
    part = replace(part, records={cell: found for cell, found in part.records.items() if found})
    return summarise(part) if results.baseline in part.records else ()


def _warning(leaks: Leaks, questions: int) -> Iterator[str]:
    if not leaks.flagged:
        return
    parts = [f"{len(one.flagged)} in the {one.material.name}" for one in leaks.checks if one.flagged]
    rest = questions - len(leaks.flagged)
    trust = f"trust the scores on the other {rest:,}" if rest else "no score of this run can be trusted"
    yield (
        f"{len(leaks.flagged):,} of {counted(questions, 'test question')} were seen before: {listed(parts)}; {trust}."
        f"{_on_the_others(leaks)}"
    )


def _on_the_others(leaks: Leaks) -> str:
    for row in ranked(leaks.clean):
        if row.delta is not None and row.p_holm is not None:
            return (
                f" On those, {row.combination} is the best other than the baseline: {percent(row.score)}, "
                f"{points(row.delta)} points (Holm-corrected {p_value(row.p_holm)})."
            )
    return ""


def _gaps(leaks: Leaks) -> Iterator[str]:
    for one in leaks.unread:
        yield f"Not checked for test questions: the {one.name} ({one.place}: {one.remark})."
