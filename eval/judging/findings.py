"""What a judge has found of a run, with intervals: figures, how far to trust them, and the rates behind them.

    judges.json is `find(...).row()`

Knows nothing of how a judge is asked, or of how its figures are shown.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from eval.folder import Results
from eval.judging.calibration import ENOUGH, Calibration, Pair, calibrate, corrected
from eval.judging.metrics import CORRECTABLE, MARKS, Outcome
from eval.judging.pairwise import Contest, bias, standing
from eval.judging.settings import Judges, MetricSettings
from eval.task import Example
from eval.wording import counted, percent
from retrieval.stats import Estimate, Share, known, mean

About = tuple[str, ...]
Found = dict[tuple[str, About], Outcome | Contest | str]
"""By metric, and what it is about."""
FILE: Final = "judges.json"
"""In the run's folder."""
LABEL: Final = "label"
"""Begins what a label is about."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """Everything that was found out, and what was not."""

    found: Found
    missing: Sequence[tuple[str, About]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One value of a metric for one combination."""

    metric: str
    combination: str
    n: int
    """Answers that it says something about."""
    nothing: int
    """Answers without anything to judge: no claim, no passage, no gold answer."""
    missing: int
    """Answers that the judge failed on. They are no score; with any, the figure is for looking only."""
    seen: Estimate
    """As the judge says."""
    corrected: Estimate | None
    """As it is, by the judge's known errors; None where they are not known, or the value is no rate of yes and no."""
    advisory: bool
    """Whether it is advice and no measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """How far one metric's judge can be trusted, and why."""

    metric: str
    by: Literal["people", "marks", ""]
    """Whose word the judge was held against; nobody's, and then there is no kappa."""
    calibration: Calibration | None
    missing: int = 0
    """Labels that the judge failed on."""
    notes: tuple[str, ...] = ()

    @property
    def advisory(self) -> bool:
        """Whether its figures only advise."""
        return self.calibration is None or not self.calibration.enough or self.missing > 0

    @property
    def sentence(self) -> str:
        """What there is to know, in words."""
        found = self.calibration
        if found is None:
            return f"{self.metric}: advisory. Nobody has labelled what it asks, so there is no kappa."
        whose = {"people": "labels by people", "marks": "passages or claims that the evidence marks"}[self.by]
        gaps = f" ({self.missing:,} more failed)" if self.missing else ""
        start = f"{self.metric}: {'advisory' if self.advisory else 'calibrated'}. On {found.labels:,} {whose}{gaps}, "
        if math.isnan(found.kappa.value):
            return start + "only one thing was ever said, so agreement tells nothing."
        rates = (
            f"sensitivity {said_share(found.sensitivity)}, specificity {said_share(found.specificity)}, "
            if found.sensitivity and found.specificity
            else ""
        )
        kappa = f"kappa {found.kappa.value:.2f} [{found.kappa.low:.2f}, {found.kappa.high:.2f}]"
        return f"{start}{rates}{kappa}" + ("." if found.enough else f", below {ENOUGH}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All of it."""

    judge: str
    identity: str
    """Its hash, for `frozen`."""
    figures: tuple[Figure, ...]
    trust: tuple[Trust, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def missing(self) -> int:
        """Answers and labels that the judge failed on."""
        return sum(one.missing for one in self.figures) + sum(one.missing for one in self.trust)

    def row(self) -> dict[str, Any]:
        """As judges.json has it."""
        found: dict[str, Any] = known(
            {
                "judge": self.judge,
                "identity": self.identity,
                "figures": [asdict(one) for one in self.figures],
                "trust": [asdict(one) | {"advisory": one.advisory, "sentence": one.sentence} for one in self.trust],
                "notes": self.notes,
            }
        )
        return found


def find(judges: Judges, identity: str, results: Results, gathered: Gathered) -> Findings:
    """The figures of each metric, in the order of the file."""
    figures, trust = list[Figure](), list[Trust]()
    for name, metric in judges.metrics.items():
        mine = {about: one for (other, about), one in gathered.found.items() if other == name}
        gaps = [about for other, about in gathered.missing if other == name]
        contests = [one for one in mine.values() if isinstance(one, Contest)]
        trusted = _trust(name, metric, mine, gaps, contests)
        trust.append(trusted)
        if metric.kind == "pairwise":
            figures += _ranked(name, judges, contests, gaps, trusted)
        else:
            figures += _figures(name, metric, results, _Sorted(mine, gaps), trusted)
    return Findings(
        judge=judges.judge.name,
        identity=identity,
        figures=tuple(figures),
        trust=tuple(trust),
    )


@dataclass(frozen=True, slots=True)
class _Sorted:
    """What was found of one metric."""

    found: Mapping[About, Outcome | Contest | str]
    gaps: Sequence[About]

    def of(self, cell: str) -> dict[str, Outcome]:
        """By example."""
        return {about[1]: one for about, one in self.found.items() if about[0] == cell and isinstance(one, Outcome)}

    def missing(self, cell: str) -> int:
        return sum(about[0] == cell for about in self.gaps)


def _trust(
    name: str,
    metric: MetricSettings,
    found: Mapping[About, Outcome | Contest | str],
    gaps: Sequence[About],
    contests: Sequence[Contest],
) -> Trust:
    pairs: list[Pair] = [(said, about[2]) for about, said in found.items() if isinstance(said, str)]
    failed = sum(about[0] == LABEL for about in gaps)
    notes = tuple(_place(contests))
    if metric.labels:
        calibration = calibrate(pairs, ordered=metric.kind == "scorecard")
        return Trust(metric=name, by="people", calibration=calibration, missing=failed, notes=notes)
    # The same words in several prompts were judged once, and are one label.
    marked = {check for one in found.values() if isinstance(one, Outcome) for check in one.checked}
    if marked:
        calibration = calibrate([(said, mark) for _, said, mark in marked])
        return Trust(metric=name, by="marks", calibration=calibration, notes=notes)
    return Trust(metric=name, by="", calibration=None, notes=notes)


def _place(contests: Sequence[Contest]) -> Iterator[str]:
    """What the order did to a judge of pairs."""
    if judged := sum(not one.same for one in contests):
        found = bias(contests)
        yield (
            f"in the other order {percent(found.flipped.value)} of {counted(judged, 'pair')} got another verdict: ties"
        )
        if not math.isnan(found.first.value):
            yield f"what stood first was preferred in {said_estimate(found.first)} of verdicts; 50.0% is fair"


def _figures(name: str, metric: MetricSettings, results: Results, found: _Sorted, trust: Trust) -> Iterator[Figure]:
    examples = {one.id: one for one in results.examples}
    for cell in map(str, results.records):
        outcomes = found.of(cell)
        for value in dict.fromkeys(value for one in outcomes.values() for value in one.values):
            yield _figure((name, value), cell, outcomes, examples, _Known(metric, trust, found.missing(cell)))
        if found.missing(cell) and not any(one.values for one in outcomes.values()):
            yield _figure((name, ""), cell, outcomes, examples, _Known(metric, trust, found.missing(cell)))


@dataclass(frozen=True, slots=True)
class _Known:
    metric: MetricSettings
    trust: Trust
    missing: int


def _figure(
    named: tuple[str, str], cell: str, outcomes: Mapping[str, Outcome], examples: Mapping[str, Example], known: _Known
) -> Figure:
    name, value = named
    scores = {example: one.values[value] for example, one in outcomes.items() if value in one.values}
    seen = mean(list(scores.values()), [examples[one].cluster for one in scores])
    unjudged = value.endswith(MARKS)
    calibration = known.trust.calibration
    rate = CORRECTABLE.get(known.metric.kind) == value and calibration and scores
    return Figure(
        metric=f"{name}, {value}" if value else name,
        combination=cell,
        n=len(scores),
        nothing=len(outcomes) - len(scores),
        missing=known.missing,
        seen=seen,
        corrected=corrected(seen, calibration) if rate and calibration else None,
        advisory=not unjudged and known.trust.advisory,
    )


def _ranked(
    name: str, judges: Judges, contests: Sequence[Contest], gaps: Sequence[About], trust: Trust
) -> Iterator[Figure]:
    cells = judges.combinations
    found = standing(len(cells), contests) if contests else []
    for number, (cell, seen) in enumerate(zip(cells, found, strict=False)):
        yield Figure(
            metric=name,
            combination=cell,
            n=sum(number in (one.one, one.other) for one in contests),
            nothing=0,
            missing=sum(cell in about[:2] for about in gaps if about[0] != LABEL),
            seen=seen,
            corrected=None,
            advisory=trust.advisory,
        )


def said_share(one: Share) -> str:
    """As a sentence has it."""
    return f"{said_estimate(one.estimate)} of {one.of:,}" if one.of else "unknown (no such label)"


def said_estimate(one: Estimate) -> str:
    """With its interval.

    >>> said_estimate(Estimate(0.5, 0.25, 0.75))
    '50.0% [25.0, 75.0]'
    """
    return f"{percent(one.value)} [{100 * one.low:.1f}, {100 * one.high:.1f}]"
