"""What the benchmarks measured: kept in a file by the work it was, and laid out as tables with a sentence beneath.

Knows nothing of how anything is measured.
"""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, Protocol

from rich.table import Table

from retrieval.files import write_atomically
from retrieval.vectors import kind_for
from scripts.bench_texts import Took, questions_report

Row = dict[str, Any]
"""{"contestant", "step", what was measured ...} or {"contestant", "step", "failed": why}."""

OURS: Final = "fulcrum"
"""What our contestants' names begin with."""

Column = tuple[str, str, int]
"""The step it comes from, the name of the figure, its digits."""


class Given(Protocol):
    """What all contestants are given: what says the same is the same work."""

    def plain(self) -> Row: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What every contestant is given; results of different work never stand in one table."""

    what: str
    rows: int
    questions: int
    k: int = 10
    aim: float = 0.99
    """The recall from which on latencies are compared, and for which the peers' groups to read are chosen."""
    threads: tuple[int, ...] = (2, 1)

    def plain(self) -> Row:
        return asdict(self) | {"threads": list(self.threads)}


def stores_table(work: Work, rows: Sequence[Row]) -> Table:
    """A store a line; ours that `build` would choose by itself has a star."""
    first = work.threads[0]
    columns: dict[str, Column] = {
        "build s": ("build", "build_seconds", 2),
        "peak MiB": ("build", "build_mib", 0),
        "disk MiB": ("build", "disk_mib", 0),
        "open s": ("search", "open_seconds", 3),
        "searching MiB": ("search", "search_mib", 0),
        "its own": ("search", "private_mib", 0),
        f"p50 ms, {first} threads": ("search", f"p50_ms_{first}", 2),
        f"p95 ms, {first} threads": ("search", f"p95_ms_{first}", 2),
        **{f"p50 ms, {more} thread": ("search", f"p50_ms_{more}", 2) for more in work.threads[1:]},
        f"recall@{work.k}": ("search", "recall", 3),
        "groups read": ("search", "probes", 0),
        "add s": ("add", "all_seconds", 2),
    }
    title = (
        f"{work.rows:,} vectors: {work.what}\n{work.questions} questions, one at a time; * what ours chooses by itself"
    )
    return _table(title, columns, rows, star=default(work))


def encoders_table(work: Work, rows: Sequence[Row]) -> Table:
    columns: dict[str, Column] = {
        "texts a second": ("embed", "texts_per_second", 1),
        "peak MiB": ("embed", "embed_mib", 0),
        "lowest cosine with ours": ("embed", "agreement", 6),
    }
    return _table(f"{work.rows:,} {work.what}", columns, rows)


def questions_table(title: str, took: Sequence[Took]) -> Table:
    table = Table(title=f"{title}; {len(took)} questions, one at a time")
    for column in ("", "p50 ms", "p95 ms"):
        table.add_column(column, justify="right" if column else "left")
    for part, p50, p95 in questions_report(took):
        table.add_row(part, f"{p50:.2f}", f"{p95:.2f}")
    return table


def reading(work: Work, rows: Sequence[Row]) -> str:
    """What the table says about speed and memory at equal recall, whoever is ahead: a line for each recall."""
    recall = figures(rows, "recall")
    lines = []
    for name, bar in ((f"recall@{work.k} of {work.aim:g} or more", work.aim), ("all neighbours", 1.0)):
        for key, unit in ((f"p50_ms_{min(work.threads)}", "ms"), ("search_mib", "MiB")):
            able = {who: figure for who, figure in figures(rows, key).items() if recall.get(who, 0) >= bar}
            ours = min((who for who in able if who.startswith(OURS)), key=able.__getitem__, default=None)
            peer = min((who for who in able if not who.startswith(OURS)), key=able.__getitem__, default=None)
            if ours and peer:
                times = f"{able[peer] / able[ours]:.2f}x"
                lines.append(
                    f"{name}: {ours} {able[ours]:.4g} {unit}, best peer {peer} {able[peer]:.4g} {unit} ({times})"
                )
    chosen = f"By itself ours chooses {default(work)}. Latencies are p50 with {min(work.threads)} thread."
    return "\n".join([*lines, f"Read: {len(lines)} comparisons at equal recall; above 1x ours is ahead. {chosen}"])


def embedding_reading(rows: Sequence[Row]) -> str:
    """Ours beside the fastest peer, and whether that one gives the same vectors."""
    speed, same = figures(rows, "texts_per_second"), figures(rows, "agreement")
    peers = [who for who in speed if who != OURS]
    if OURS not in speed or not peers:
        return "Read: texts a second; there is nobody to compare with."
    fast = max(peers, key=speed.__getitem__)
    times = speed[OURS] / speed[fast]
    near = f"whose vectors have a cosine of {same[fast]:.4f} or more with ours"
    return f"Read: ours has {times:.2f}x the speed of {fast}, {near}."


def questions_reading(took: Sequence[Took]) -> str:
    p50 = {part: middle for part, middle, _ in questions_report(took)}
    return f"Read: {p50['embedding'] / p50['whole']:.0%} of a question's time is its embedding, on one thread."


def default(work: Work) -> str:
    return f"{OURS} {kind_for(work.rows)}"


def figures(rows: Sequence[Row], key: str) -> dict[str, float]:
    """The median of a figure for each contestant that has it."""
    names = dict.fromkeys(row["contestant"] for row in rows if key in row)
    return {name: median(row[key] for row in rows if row["contestant"] == name and key in row) for name in names}


def spread(found: Sequence[float], digits: int) -> str:
    """Median (shortest to longest).

    >>> spread([3.0, 1.0, 2.25], 1), spread([2.0], 0), spread([], 0)
    ('2.2 (1.0 to 3.0)', '2', '-')
    """
    if not found:
        return "-"
    shown = [f"{value:,.{digits}f}" for value in (median(found), min(found), max(found))]
    return shown[0] if len(set(shown)) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"


def _table(title: str, columns: dict[str, Column], rows: Sequence[Row], star: str = "") -> Table:
    table = Table(title=title)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for name in dict.fromkeys(row["contestant"] for row in rows):
        mine = [row for row in rows if row["contestant"] == name]
        cells = [
            spread([row[key] for row in mine if row["step"] == step and key in row], digits)
            for step, key, digits in columns.values()
        ]
        table.add_row(f"{name} *" if name == star else name, *cells)
    why = dict.fromkeys(f"{row['contestant']}: {row['failed']}" for row in rows if "failed" in row)
    table.caption = "\n".join(why) or None
    return table


# A file of everything that was measured -------------------------------------------------------------------------------


def remembered(file: Path | None, work: Given) -> list[Row]:
    """The rows that a file has of the same work on a machine of the same kind."""
    return [row for one in _held(file) if _same(one, work) for row in one["rows"]]


def remember(file: Path | None, work: Given, rows: Sequence[Row]) -> None:
    """Put these rows in the place of those that the file has of the same work."""
    if file is None:
        return
    others = [one for one in _held(file) if not _same(one, work)]
    mine = {"machine": machine(), "work": work.plain(), "rows": list(rows)}
    write_atomically(file, json.dumps([*others, mine], indent=1) + "\n")


def machine() -> Row:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"cores": len(os.sched_getaffinity(0)), "processor": processor, "python": platform.python_version()}


def _held(file: Path | None) -> list[Row]:
    held: list[Row] = json.loads(file.read_text(encoding="utf-8")) if file and file.exists() else []
    return held


def _same(one: Row, work: Given) -> bool:
    return bool(one["work"] == work.plain() and one["machine"] == machine())
