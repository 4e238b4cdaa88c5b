"""A sweep as a table of text, a CSV file and a page. Knows nothing of how any figure was computed."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.table import Table
from rich.text import Text

from eval.plots import NARROW, WIDE
from eval.report import page
from eval.wording import percent, points, within
from retrieval.files import write_atomically
from retrieval.stats import ALPHA, NOTHING_SEEN
from scripts.sweep.checkpoints import read_card
from scripts.sweep.outcome import Outcome, Watch
from scripts.sweep.plots import drawn
from scripts.sweep.sentences import next_step, sentences
from scripts.sweep.variants import said

HERE: Final = Path(__file__).parent


def save(outcome: Outcome, folder: Path) -> Path:
    """Write sweep.csv and sweep.html; the path of the second."""
    write_atomically(folder / "sweep.csv", to_csv(outcome))
    write_atomically(folder / "sweep.html", render(outcome, folder))
    return folder / "sweep.html"


def to_csv(outcome: Outcome) -> str:
    """A line for what was there before and for each checkpoint, in the order of training."""
    sheet = io.StringIO()
    rows = list(lines(outcome))
    writer = csv.DictWriter(sheet, rows[-1], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return sheet.getvalue()


def lines(outcome: Outcome) -> Iterator[dict[str, str]]:
    """What sweep.csv says, by column; what was there before has no training here."""
    watches = [outcome.watch(scores) for scores in outcome.watched]
    for start in outcome.starts:
        cards = [read_card(one.folder) for one in outcome.finals if one.variant.start == start]
        losses = {card["eval_loss_before"] for card in cards}  # several where they are over different rows
        known = {"eval_loss": _number(losses.pop())} if len(losses) == 1 else {}
        yield {
            "adapter": start,
            **known,
            **_scores(outcome, start),
            **_watched(outcome, start, [None for _ in watches]),
        }
    for number, one in enumerate(outcome.checkpoints):
        yield {
            "adapter": one.name,
            "variant": one.variant.name,
            "steps": str(one.steps),
            "rows": str(one.rows),
            **{key: said(key, value) for key, value in one.variant.tried.items() if key != "rows"},
            "tokens": str(one.tokens),
            "seconds": f"{one.seconds:.1f}",
            "train_loss": _number(one.train_loss),
            "eval_loss": _number(one.eval_loss),
            **_scores(outcome, one.name),
            **_watched(outcome, one.name, [watch[number] for watch in watches]),
        }


def _scores(outcome: Outcome, adapter: str) -> dict[str, str]:
    score = outcome.target.of(adapter)
    return {"score": _number(score.value), "ci_low": _number(score.low), "ci_high": _number(score.high)}


def _watched(outcome: Outcome, adapter: str, watches: Sequence[Watch | None]) -> dict[str, str]:
    """The columns of each further grid: the score, and its difference from that of what it started from."""
    found: dict[str, str] = {}
    for scores, watch in zip(outcome.watched, watches, strict=True):
        change = watch.change.estimate if watch else NOTHING_SEEN
        figures = {
            "score": _number(scores.of(adapter).value),
            "delta": _number(change.value),
            "delta_ci_low": _number(change.low),
            "delta_ci_high": _number(change.high),
            "p_holm": f"{watch.p_holm:.3g}" if watch else "",
        }
        found |= {f"{scores.grid}_{column}": figure for column, figure in figures.items()}
    return found


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4f}"


def table(outcome: Outcome) -> Table:
    """The same for a terminal, with the differences that are more than chance in colour."""
    shown = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("adapter", "rows", "steps", "loss", "score", "95% interval"):
        shown.add_column(heading, justify="left" if heading == "adapter" else "right", no_wrap=True)
    for scores in outcome.watched:
        shown.add_column(scores.grid, justify="right", no_wrap=True)
        shown.add_column("points", justify="right", no_wrap=True)
    for start in outcome.starts:
        alone = [cell for scores in outcome.watched for cell in (percent(scores.of(start).value), "")]
        shown.add_row(start, "", "", "", *_estimate(outcome, start), *alone)
    watches = [outcome.watch(scores) for scores in outcome.watched]
    for number, one in enumerate(outcome.checkpoints):
        loss = "" if one.eval_loss is None else f"{one.eval_loss:.4f}"
        name = Text(one.name, style="bold" if one is outcome.best else "" if one.final else "dim")
        beside = _beside(outcome, one.name, [watch[number] for watch in watches])
        shown.add_row(name, str(one.rows), str(one.steps), loss, *_estimate(outcome, one.name), *beside)
    return shown


def _estimate(outcome: Outcome, adapter: str) -> tuple[str, str]:
    score = outcome.target.of(adapter)
    return percent(score.value), within(score.low, score.high)


def _beside(outcome: Outcome, adapter: str, watches: Sequence[Watch]) -> Iterator[Text]:
    for scores, watch in zip(outcome.watched, watches, strict=True):
        change = watch.change.estimate.value
        yield Text(percent(scores.of(adapter).value))
        yield Text(points(change), style="" if watch.p_holm >= ALPHA else "green" if change > 0 else "red")


def render(outcome: Outcome, folder: Path) -> str:
    """The page: no script in it, and no request to any host."""
    return page(
        "sweep.html.jinja",
        ("report.css",),
        HERE,
        outcome=outcome,
        said=sentences(outcome),
        next_step=next_step(outcome, folder),
        pictures=drawn(outcome, (WIDE, NARROW)),
        columns=list(csv.DictReader(io.StringIO(to_csv(outcome)))),
        reports=[scores.report.relative_to(folder) for scores in (outcome.target, *outcome.watched)],
    )
