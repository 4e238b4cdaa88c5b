"""The end of a run, as a terminal shows it: combinations best first, the verdict, where to look next.

Knows nothing of how any of it was computed.
"""

import math
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.analysis import Analysis
from eval.confidence import told
from eval.gold import is_oracle
from eval.leaks import said
from eval.summary import Row, ranked, stopped
from eval.wording import COLOURS, chance, number, percent, points, within

SHOWN: Final = 20
"""Rows that fit a screen; the report has all of them."""


def show(analysis: Analysis, report: Path, console: Console) -> None:
    """Print the table, the verdict and the next step."""
    baseline = analysis.verdict.baseline
    shown = [row for place, row in enumerate(analysis.rows) if place < SHOWN or row.combination == baseline]
    console.print(_table(analysis, shown))
    if len(shown) < len(analysis.rows):
        console.print(Text(f"and {len(analysis.rows) - len(shown)} more in the report", style="dim"))
    for row in analysis.stopped[:SHOWN]:
        console.print(Text(f"{row.combination}: {stopped(row)}", style="dim"))
    if len(analysis.stopped) > SHOWN:
        console.print(Text(f"and {len(analysis.stopped) - SHOWN} more stopped; summary.csv has them", style="dim"))
    console.print()
    console.print(Text(analysis.verdict.sentence))
    console.print()
    for one in analysis.stated[:1]:
        console.print(Text(" ".join(told(one))))
        console.print()
    for sentence in said(analysis.leaks, len(analysis.results.examples)):
        console.print(Text(f"Warning: {sentence}", style="yellow"))
    console.print(Text(f"Report: {report}"), soft_wrap=True)
    console.print(Text(f"Next:   {analysis.next_step.sentence}"))


def _table(analysis: Analysis, shown: list[Row]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("", "combination", "score", "95% interval", "points", "p Holm", "tokens", "p50 s"):
        table.add_column(heading, justify="left" if heading == "combination" else "right", no_wrap=True)
    ranks = {row.combination: str(rank) for rank, row in enumerate(ranked(analysis.rows), start=1)}
    for row in shown:
        name = Text.assemble(row.combination, (_remark(row, analysis.verdict.baseline), "dim"))
        table.add_row(ranks.get(row.combination, ""), name, *_figures(row), style=_style(row))
    return table


def _remark(row: Row, baseline: str) -> str:
    if row.n_infra:
        return f"  {row.n_infra} missing"
    return "  baseline" if row.combination == baseline else "  oracle" if is_oracle(row.retriever) else ""


def _figures(row: Row) -> tuple[str, ...]:
    if row.n == row.n_infra:
        return ("",) * 6
    return (
        percent(row.score),
        within(row.ci_low, row.ci_high),
        "" if row.delta is None else points(row.delta),
        "" if row.p_holm is None or math.isnan(row.p_holm) else chance(row.p_holm),
        number(row.tokens),
        f"{row.latency_p50_s:.2f}",
    )


def _style(row: Row) -> str:
    if row.n_infra or is_oracle(row.retriever):
        return "dim"
    return COLOURS[row.direction]
