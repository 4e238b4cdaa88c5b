"""From records to one row a combination: score, difference from the baseline, tokens and time, each with its interval.

    summary.csv is `to_csv(summarise(results))`

Knows nothing of verdicts, plots or how answers were made.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

from eval.effects import Clusters, Scores
from eval.flips import flips
from eval.folder import Results, each_answer, planned, scores_of
from eval.gold import is_oracle
from eval.record import Record
from eval.scoring.figures import figures
from eval.scoring.kinds import FORMS
from eval.screening import Stop, by_lot, first_round, in_family
from retrieval.stats import Difference, Direction, Estimate, direction, mean, paired, per, quantile, tied
from serve.combination import Combination

ENOUGH_FOR_P95: Final = 59
"""0.95 ** 59 < 0.05: of fewer answers even the slowest may well be below the true 95th percentile. Counted are
questions, since the answers to one of them tell little more than the first."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A cell against the baseline; `p_holm` is corrected for all that could be chosen, and NaN for an oracle."""

    difference: Difference
    p_holm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of summary.csv; the fields are its columns, in order."""

    combination: str
    strategy: str
    retriever: str
    adapter: str
    n: int
    """Questions planned."""
    n_format_fail: int
    n_infra: int
    """Questions without an answer. With any, the cell is not ranked and not compared."""
    score: float
    ci_low: float
    ci_high: float
    delta: float | None = None
    delta_ci_low: float | None = None
    delta_ci_high: float | None = None
    p_holm: float | None = None
    prompt_tokens: float
    completion_tokens: float
    tokens_per_correct: float
    latency_p50_s: float
    latency_p95_s: float
    tokens_per_correct_ci_low: float
    tokens_per_correct_ci_high: float
    tied: bool | None = None
    """Whether it cannot be told from the highest score; None for those that could not be chosen."""
    minutes_per_1000: float
    """The machine's minutes for 1,000 answers, by Little's law: seconds waited over calls in flight meanwhile."""
    cost_per_1000: float | None = None
    """The same in money, where the grid says what an hour costs."""
    stopped_after: int | None = None
    """After how many questions screening stopped it; then it has no score, since half a one flatters nobody."""
    behind: float | None = None
    leader: str = ""
    """Who was ahead of it then, and by how much."""
    flips: float | None = None
    """The share of questions that were answered in other words when asked again; None where each was asked once."""
    flips_ci_low: float | None = None
    flips_ci_high: float | None = None
    others: Mapping[str, float]
    """Means of the other scorers, and figures that are no means, one column each."""

    @property
    def direction(self) -> Direction:
        """Whether it is clearly better or worse than the baseline; 0 where that is not asked."""
        if self.delta is None or self.delta_ci_low is None or self.delta_ci_high is None or self.p_holm is None:
            return 0
        return direction(Estimate(self.delta, self.delta_ci_low, self.delta_ci_high), self.p_holm)

    @property
    def tokens(self) -> float:
        """What an answer costs, on average."""
        return self.prompt_tokens + self.completion_tokens


def summarise(results: Results) -> tuple[Row, ...]:
    """The rows, best first, of equals the one with fewer tokens; then the oracle arms; then the cells with gaps."""
    compared, each = comparisons(results), each_answer(results)
    rows = sorted((_row(results, cell, each[cell], compared.get(cell)) for cell in results.records), key=_place)
    best = _best(results, ranked(rows))
    return tuple(replace(row, tied=row.combination in best) if _group(row) == 0 else row for row in rows)


def stopped_rows(results: Results) -> tuple[Row, ...]:
    """What is known of those that screening stopped, as summary.csv has it after the others."""
    stops = results.screening.stops if results.screening else {}
    return tuple(_stopped(results, cell, stop) for cell, stop in sorted(stops.items(), key=lambda one: str(one[0])))


def stopped(row: Row) -> str:
    """Why it has no score, in words."""
    why = "no combination that it measures for goes on"
    if row.behind is not None:
        why = f"{100 * row.behind:.1f} points behind {row.leader}"
    return f"stopped after {row.stopped_after} questions: {why}"


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The rows that could be chosen: no gaps, no oracle."""
    return [row for row in rows if _group(row) == 0]


def clusters(results: Results) -> dict[str, str]:
    """What each example shares its luck with."""
    return {example.id: example.cluster for example in results.examples}


def scores(results: Results, cell: Combination) -> dict[str, float]:
    """The primary score of each example in this cell."""
    return {item: record.scores[results.config.task.primary] for item, record in results.records[cell].items()}


def difference(results: Results, after: Combination, before: Combination) -> Difference:
    """One cell against another, on the questions that both were asked."""
    ours, theirs, alike = scores(results, after), scores(results, before), clusters(results)
    common = [item for item in ours if item in theirs]
    return paired([ours[item] for item in common], [theirs[item] for item in common], [alike[item] for item in common])


def score(results: Results, cell: Combination) -> Estimate:
    """The mean primary score of one cell."""
    return average(scores(results, cell), clusters(results))


def average(found: Mapping[str, float], alike: Clusters) -> Estimate:
    """The mean of what was found for some examples, its interval over clusters."""
    return mean([*found.values()], [alike[item] for item in found])


def lever_scores(results: Results, cells: Sequence[Combination]) -> Scores:
    """The scores that effects of levers are estimated from: those of these cells; where a grid is screened, those of
    the stopped ones as well, on the questions that all of them were asked."""
    table = {cell: scores(results, cell) for cell in cells}
    if results.screening is None:
        return table
    primary = results.config.task.primary
    others = {cell: one for cell, one in scores_of(results.stopped, primary).items() if not is_oracle(cell.retriever)}
    return first_round({**table, **others}, by_lot(results.examples))


def comparisons(results: Results) -> dict[Combination, Comparison]:
    """Every cell without gaps against the baseline; empty when the baseline itself has gaps.

    Those that screening stopped are no longer compared, but could have been: they count in the correction.
    """
    if results.missing(results.baseline):
        return {}
    others = [cell for cell in results.records if cell != results.baseline and not results.missing(cell)]
    found = {cell: difference(results, cell, results.baseline) for cell in others}
    declared = [cell for cell in others if not is_oracle(cell.retriever)]
    p_holm = dict(zip(declared, in_family([found[cell].p for cell in declared], results.out), strict=True))
    return {cell: Comparison(found[cell], p_holm.get(cell, math.nan)) for cell in others}


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as text, rounded to what their intervals can carry."""
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow([*COLUMNS, *rows[0].others])
    writer.writerows(cells(row).values() for row in rows)
    return sheet.getvalue()


def cells(row: Row) -> dict[str, str]:
    """One row as it is printed, by column: the same in summary.csv and in the report's table."""
    shown = {name: _shown(name, getattr(row, name)) for name in COLUMNS}
    return shown | {name: _shown(name, value) for name, value in row.others.items()}


COLUMNS: Final = tuple(field.name for field in fields(Row) if field.name != "others")
DIGITS: Final = {
    "prompt_tokens": 1,
    "completion_tokens": 1,
    "tokens_per_correct": 1,
    "tokens_per_correct_ci_low": 1,
    "tokens_per_correct_ci_high": 1,
}


def _shown(column: str, value: str | float | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, float) or math.isinf(value):
        return str(value)
    return f"{value:.3g}" if column == "p_holm" else f"{value:.{DIGITS.get(column, 4)}f}"


def _group(row: Row) -> int:
    return 2 if row.n_infra else 1 if is_oracle(row.retriever) else 0


def _place(row: Row) -> tuple[int, float, float, str]:
    if row.n_infra:  # half a score must not look like a rank
        return _group(row), 0.0, 0.0, row.combination
    return _group(row), -row.score, row.tokens, row.combination


def _row(results: Results, cell: Combination, answers: Sequence[Record], compared: Comparison | None) -> Row:
    records = list(results.records[cell].values())
    mean_score, price = score(results, cell), _tokens_per_correct(results, cell)
    change = compared.difference.estimate if compared else None
    seconds, grid = [one.seconds for one in answers], results.config.grid
    most = min(grid.concurrency, sum(map(len, results.records.values())) or 1)
    minutes = 1000 / 60 * _mean([one.seconds / (one.in_flight or most) for one in answers])
    flipped = flips(results, [cell])
    examples = {one.id: one for one in results.examples}
    return Row(
        combination=str(cell),
        strategy=cell.strategy,
        retriever=cell.retriever,
        adapter=cell.adapter,
        n=len(records) + results.missing(cell),
        n_format_fail=_format_failures(results, records),
        n_infra=results.missing(cell),
        score=mean_score.value,
        ci_low=mean_score.low,
        ci_high=mean_score.high,
        delta=change.value if change else None,
        delta_ci_low=change.low if change else None,
        delta_ci_high=change.high if change else None,
        p_holm=compared.p_holm if compared else None,
        prompt_tokens=_mean([record.usage.prompt_tokens for record in records]),
        completion_tokens=_mean([record.usage.completion_tokens for record in records]),
        tokens_per_correct=price.value,
        latency_p50_s=quantile(seconds, 0.5),
        latency_p95_s=quantile(seconds, 0.95) if len(records) >= ENOUGH_FOR_P95 else math.nan,
        tokens_per_correct_ci_low=price.low,
        tokens_per_correct_ci_high=price.high,
        minutes_per_1000=minutes,
        cost_per_1000=minutes / 60 * grid.price_per_hour if grid.price_per_hour else None,
        flips=flipped.value if flipped else None,
        flips_ci_low=flipped.low if flipped else None,
        flips_ci_high=flipped.high if flipped else None,
        others={
            name: _mean([record.scores[name] for record in records])
            for name in results.config.task.scorers
            if name != results.config.task.primary
        }
        | figures(results.config.task.scorers, [(examples[one.id], one) for one in answers]),
    )


def _stopped(results: Results, cell: Combination, stop: Stop) -> Row:
    unknown, raced = math.nan, not is_oracle(cell.retriever)
    return Row(
        combination=str(cell),
        strategy=cell.strategy,
        retriever=cell.retriever,
        adapter=cell.adapter,
        n=len(planned(cell, results.examples)),
        n_format_fail=_format_failures(results, list(results.stopped[cell].values())),
        n_infra=0,
        score=unknown,
        ci_low=unknown,
        ci_high=unknown,
        prompt_tokens=unknown,
        completion_tokens=unknown,
        tokens_per_correct=unknown,
        latency_p50_s=unknown,
        latency_p95_s=unknown,
        tokens_per_correct_ci_low=unknown,
        tokens_per_correct_ci_high=unknown,
        minutes_per_1000=unknown,
        stopped_after=stop.asked,
        behind=stop.behind if raced else None,
        leader=str(stop.leader) if raced else "",
        others={name: unknown for name in results.config.task.scorers if name != results.config.task.primary}
        | figures(results.config.task.scorers, ()),
    )


def _format_failures(results: Results, records: Sequence[Record]) -> int:
    """Questions with a reply that misses the format the task asks for; none when it asks for none."""
    names = [name for name, scorer in results.config.task.scorers.items() if scorer.kind in FORMS]
    return sum(any(record.scores[name] < 1 for name in names) for record in records)


def _tokens_per_correct(results: Results, cell: Combination) -> Estimate:
    found, alike = results.records[cell], clusters(results)
    spent = [record.usage.prompt_tokens + record.usage.completion_tokens for record in found.values()]
    return per(spent, list(scores(results, cell).values()), [alike[item] for item in found])


def _best(results: Results, choices: Sequence[Row]) -> set[str]:
    """The highest score and all that cannot be told from it."""
    alike = clusters(results)
    tables = [scores(results, Combination.parse(row.combination)) for row in choices]
    best, *others = [[table[item] for item in alike] for table in tables] or [[]]
    equal = [True, *tied(best, others, list(alike.values()))]
    return {row.combination for row, same in zip(choices, equal, strict=False) if same}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
