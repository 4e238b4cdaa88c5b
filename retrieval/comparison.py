"""What was measured, as tables: means with intervals, and differences to one retriever on the same questions.

For all questions, and for each value of a key of their metadata. As text, and as JSON. Knows nothing of how anything is
found.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from retrieval.files import FileError
from retrieval.measure import Asked
from retrieval.metrics import METRICS
from retrieval.stats import Difference, Estimate, holm, known, mean, paired, quantile
from retrieval.topics import Topic

MAIN: Final = "nDCG@10"
"""The metric whose interval and differences are shown; JSON has those of all."""
SEEN: Final = 59
"""Questions from which on a 95 % quantile is more than the slowest one: 0.95^59 < 0.05."""
ABSENT: Final = "(none)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A retriever in one table."""

    name: str
    k: int
    means: Mapping[str, Estimate]
    p50: float
    """Seconds a question: half take no longer."""
    p95: float
    """NaN where there are too few questions to say."""
    differences: Mapping[str, Difference]
    """Metric -> to the retriever that all are compared with; empty for that one itself."""
    p_holm: Mapping[str, float]
    """Metric -> p, corrected for all comparisons by this metric that are shown together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Retrievers on the same questions."""

    title: str
    queries: int
    against: str
    rows: tuple[Row, ...]


Found = Mapping[str, Sequence[Asked]]


def check_key(key: str | None, topics: Sequence[Topic]) -> None:
    """FileError when no question has this key."""
    if key is not None and not any(key in topic.meta for topic in topics):
        there = ", ".join(sorted({name for topic in topics for name in topic.meta})) or "none"
        raise FileError(f"--by {key}: no measured question of queries.jsonl has this key; there are: {there}")


def table_of(found: Found, ks: Mapping[str, int], against: str) -> Table:
    """All questions: each retriever's means, and its differences to `against`; one family of comparisons."""
    return _corrected([_table("", found, ks, against)])[0]


def tables_by(key: str, found: Found, ks: Mapping[str, int], against: str) -> list[Table]:
    """One table for each value of the key; all their comparisons are one family."""
    topics = [one.topic for one in found[against]]
    values = dict.fromkeys(str(topic.meta.get(key, ABSENT)) for topic in topics)
    parts = {
        value: {
            name: [one for one in asked if str(one.topic.meta.get(key, ABSENT)) == value]
            for name, asked in found.items()
        }
        for value in values
    }
    return _corrected([_table(f"{key} = {value}", part, ks, against) for value, part in parts.items()])


def text_of(table: Table) -> Iterator[str]:
    """The lines of a table, and below it those of its differences by the main metric."""
    width = max(16, *(len(row.name) + 2 for row in table.rows))
    if table.title:
        yield f"\n{table.title}"
    # "context" is short for context precision; success@5 is left to JSON: a table should fit a terminal.
    others = [name for name in METRICS if name not in (MAIN, "success@5")]
    named = [name.removesuffix(" precision") for name in others]
    heads = ["k", MAIN, "95% interval", *named, "p50 ms", "p95 ms"]
    yield f"{table.queries} queries".ljust(width) + "".join(map(_cell, heads, heads))
    for row in table.rows:
        main = row.means[MAIN]
        means = [f"{row.means[name].value:.4f}" for name in others]
        times = [_number(1000 * seconds, ".1f") for seconds in (row.p50, row.p95)]
        cells = [str(row.k), f"{main.value:.4f}", _interval(main, ".3f"), *means, *times]
        yield row.name.ljust(width) + "".join(map(_cell, heads, cells))
    compared = [row for row in table.rows if row.differences]
    if compared:
        yield (
            f"{MAIN} against {table.against}".ljust(width + 12)
            + "difference        95% interval   p (Holm)  better  worse"
        )
    for row in compared:
        one = row.differences[MAIN]
        yield (
            row.name.ljust(width + 12)
            + f"{one.estimate.value:+10.4f}{_interval(one.estimate, '+.4f'):>20}"
            + f"{p_text(row.p_holm[MAIN]):>11}{one.gained:8}{one.lost:7}"
        )


def plain(table: Table) -> dict[str, Any]:
    """The table as JSON has it; what is not known is null."""
    return {
        "queries": table.queries,
        "against": table.against,
        "retrievers": {row.name: _plain_row(row) for row in table.rows},
    }


def _table(title: str, found: Found, ks: Mapping[str, int], against: str) -> Table:
    columns = {name: _columns(asked) for name, asked in found.items()}
    base = columns[against]
    rows = []
    for name, column in columns.items():
        seconds = [one.seconds for one in found[name]]
        own = {} if name == against else {m: paired(column[m], base[m]) for m in METRICS}
        row = Row(
            name=name,
            k=ks[name],
            means={metric: mean(column[metric]) for metric in METRICS},
            p50=quantile(seconds, 0.5),
            p95=quantile(seconds, 0.95) if len(seconds) >= SEEN else math.nan,
            differences=own,
            p_holm={},
        )
        rows.append(row)
    return Table(title=title, queries=len(found[against]), against=against, rows=tuple(rows))


def _columns(asked: Sequence[Asked]) -> dict[str, list[float]]:
    return {name: [one.scores[name] for one in asked] for name in METRICS}


def _corrected(tables: Sequence[Table]) -> list[Table]:
    """Holm's correction for each metric, over all the tables at once: they are read together."""
    corrected: dict[tuple[str, str], dict[str, float]] = {(t.title, row.name): {} for t in tables for row in t.rows}
    for metric in METRICS:
        asked = {(t.title, row.name): row.differences[metric].p for t in tables for row in t.rows if row.differences}
        for place, p in zip(asked, holm(list(asked.values())), strict=True):
            corrected[place][metric] = p
    return [replace(t, rows=tuple(replace(row, p_holm=corrected[t.title, row.name]) for row in t.rows)) for t in tables]


def _plain_row(row: Row) -> dict[str, Any]:
    differences = {
        metric: {**known(asdict(one.estimate)), **known({"p": one.p, "p_holm": row.p_holm[metric]}),
                 "better": one.gained, "worse": one.lost}
        for metric, one in row.differences.items()
    }  # fmt: skip
    return {
        "k": row.k,
        "means": {metric: known(asdict(one)) for metric, one in row.means.items()},
        "seconds": known({"p50": row.p50, "p95": row.p95}),
        "differences": differences,
    }


def _cell(head: str, text: str) -> str:
    return text.rjust(max(len(head), 6 if head != "95% interval" else 14) + 2)


def _interval(one: Estimate, form: str) -> str:
    return "-" if math.isnan(one.low) else f"{one.low:{form}} to {one.high:{form}}"


def p_text(p: float) -> str:
    return "<0.0001" if p < 0.00005 else _number(p, ".4f")


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"
