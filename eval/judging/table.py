"""What a judge has found, as a terminal shows it, and as rows for a report. Knows nothing of how it was found.

section(folder)          # None where no judge has looked at the run
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.judging.findings import FILE, Findings
from eval.judging.metrics import MARKS
from eval.wording import percent, within
from retrieval.files import file_hash

HEADINGS: Final = (
    "metric",
    "combination",
    "answers",
    "judged",
    "95% interval",
    "corrected",
    "95% interval",
    "standing",
)


@dataclass(frozen=True, slots=True)
class Section:
    """What a report shows of a judge: nothing in it ranks."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sentences: tuple[str, ...]
    """How far each metric can be trusted, and what else there is to know."""


def show_findings(findings: Findings, console: Console) -> None:
    """Print the figures and what they are worth."""
    shown = _section(findings.row())
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for number, heading in enumerate(shown.headings):
        table.add_column(heading, justify="left" if number in (0, 1, 7) else "right", no_wrap=number != 7)
    for row, figure in zip(shown.rows, findings.figures, strict=True):
        table.add_row(*map(Text, row), style="dim" if figure.advisory or figure.missing else "")
    console.print(table)
    console.print()
    for sentence in shown.sentences:
        console.print(Text(sentence))


def section(folder: Path) -> Section | None:
    """What the judge of a run has found, from its folder alone; it says so when the run has gone on since."""
    path = folder / FILE
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    shown = _section(found)
    if found["records"] == file_hash(folder / "records.jsonl"):
        return shown
    return replace(shown, sentences=(f"The run has changed since: python -m eval judge {folder} ...", *shown.sentences))


def _section(found: Mapping[str, Any]) -> Section:
    return Section(
        headings=HEADINGS,
        rows=tuple(map(_row, found["figures"])),
        sentences=(
            f"Judged by {found['judge']} ({found['identity']}). A judge's figures rank nothing and enter no verdict.",
            *(_sentence(one) for one in found["trust"]),
            *found["notes"],
        ),
    )


def _row(figure: Mapping[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    answers = f"{figure['n']:,}" + (f" of {figure['n'] + figure['nothing']:,}" if figure["nothing"] else "")
    standing = "no judge" if figure["metric"].endswith(MARKS) else "calibrated"
    if figure["advisory"]:
        standing = "advisory"
    if figure["missing"]:
        standing += f", {figure['missing']:,} missing"
    return (
        figure["metric"],
        figure["combination"],
        answers,
        *_said(figure["seen"]),
        *_said(figure["corrected"]),
        standing,
    )


def _sentence(trust: Mapping[str, Any]) -> str:
    return " ".join([trust["sentence"], *(f"{note[0].upper()}{note[1:]}." for note in trust["notes"])])


def _said(estimate: Mapping[str, Any] | None) -> tuple[str, str]:
    if estimate is None or estimate["value"] is None:
        return "", ""
    return percent(estimate["value"]), within(estimate["low"], estimate["high"])
