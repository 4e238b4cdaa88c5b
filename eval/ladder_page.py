"""A climbed ladder, shown: the staircase as one offline HTML file, `ladder.json`, and the table of a terminal.

Turns what `ladder_steps` found into what is drawn; knows nothing of how any figure was computed.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.ladder_steps import Climb, Outcome, Rung, headline, lead, next_step, sentence, to_json
from eval.plots import NARROW, WIDE, to_svg
from eval.report import axis_around, page
from eval.wording import chance, number, percent, points, span, within
from retrieval.files import write_atomically
from retrieval.stats import ALPHA

FILLS: Final[dict[Outcome, str]] = {"start": "var(--accent)", "helps": "var(--accent)", "hurts": "var(--loss)"}
"""The colour of a bar; of all others, `NEUTRAL`."""
NEUTRAL: Final = "var(--edge)"
STYLES: Final[dict[Outcome, str]] = {"helps": "green", "hurts": "red", "not run": "dim", "incomplete": "dim"}
"""The colour of a line in a terminal."""
KEEP: Final = {True: "keep", False: "leave out", None: ""}
SHOWN: Final = (
    "step", "story", "published", "score", "its interval", "points", "their interval", "p Holm", "tokens", "p50 s",
    "we would",
)  # fmt: skip
"""The columns that a terminal has room for."""


def save_ladder(climbed: Climb, folder: Path) -> Path:
    """Write ladder.json and ladder.html; the path of the latter."""
    write_atomically(folder / "ladder.json", json.dumps(to_json(climbed), indent=2, ensure_ascii=False) + "\n")
    write_atomically(folder / "ladder.html", render_ladder(climbed))
    return folder / "ladder.html"


def render_ladder(climbed: Climb) -> str:
    """The page."""
    settings = climbed.ladder.settings
    bounds = [bound for one in climbed.compared for bound in _bounds(one)]
    return page(
        "ladder.html.jinja",
        ("report.css",),
        settings=settings,
        results=climbed.results,
        rungs=climbed.rungs,
        compared=climbed.compared,
        headline=headline(climbed),
        lead=lead(climbed),
        next=next_step(climbed),
        sentences=[sentence(one, settings.story) for one in climbed.rungs],
        axis=axis_around([*bounds, 0.0]),
        drawn={size: staircase(climbed, size) for size in (WIDE, NARROW)},
        wide_size=WIDE,
        narrow_size=NARROW,
        table=[_figures(one) for one in climbed.rungs],
        alpha=ALPHA,
    )


def staircase(climbed: Climb, size: tuple[int, int]) -> str:
    """Each step's score as a bar with its interval, the published figure as an outline beside it."""
    import altair as alt

    places = list(range(1, len(climbed.rungs) + 1))
    chart = alt.Chart(alt.InlineData(values=list(_bars(climbed)))).encode(
        x=alt.X(
            "left:Q",
            title=None,
            scale=alt.Scale(domain=[0.4, len(places) + 0.6], nice=False),
            axis=alt.Axis(values=places, format="d", grid=False),
        ),
        y=alt.Y("top:Q", title="score", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
    )
    ours, theirs = chart.transform_filter("datum.ours"), chart.transform_filter("datum.theirs")
    climbing = chart.transform_filter("datum.kept").encode(x="place:Q")
    layers = alt.layer(
        theirs.mark_rect(fill="transparent", stroke="var(--quiet)", strokeWidth=1).encode(
            x2="right:Q", y2="floor:Q", description="says:N"
        ),
        ours.mark_rect().encode(
            x2="right:Q", y2="floor:Q", description="says:N", fill=alt.Fill("fill:N", scale=None, legend=None)
        ),
        climbing.mark_line(interpolate="step-after", color="var(--ink)", strokeWidth=1, opacity=0.6),
        ours.mark_rule(color="var(--ink)", strokeWidth=1.5).encode(x="middle:Q", y="low:Q", y2="high:Q"),
        theirs.mark_text(dy=-7, color="var(--quiet)", fontSize=11).encode(x="middle:Q", text="label:N"),
        # Of a step that is not run, a word stands where its bar would.
        chart.transform_filter("datum.waits")
        .mark_text(angle=270, align="left", dx=4, color="var(--quiet)", fontSize=11)
        .encode(x="place:Q", text="label:N"),
        chart.transform_filter("datum.crossed")
        .mark_text(dy=-9, color="var(--quiet)", fontSize=13)
        .encode(x="middle:Q", y="high:Q", text=alt.value("×")),
    )
    return to_svg(layers, size)


def _bars(climbed: Climb) -> Iterator[dict[str, Any]]:
    """A row of data for each thing that is drawn: ours from the left of a step's place, theirs to its right."""
    story = climbed.ladder.settings.story
    for place, rung in enumerate(climbed.rungs, start=1):
        whole = rung.row is not None and not rung.row.n_infra
        wide = rung.step.published is None
        if rung.row is not None and whole:
            right = place + (0.34 if wide else 0.02)
            yield {
                "place": place,
                "left": place - 0.34,
                "right": right,
                "middle": (place - 0.34 + right) / 2,
                "floor": 0,
                "top": rung.row.score,
                "low": rung.row.ci_low,
                "high": rung.row.ci_high,
                "fill": FILLS.get(rung.outcome, NEUTRAL),
                "ours": True,
                "kept": not rung.step.rejected,
                "crossed": rung.step.rejected,
                "says": f"{place}. {rung.step.name}: {percent(rung.row.score)}",
            }
        else:
            yield {"place": place, "left": place, "top": 0.02, "waits": True, "label": "not run"}
        if rung.step.published is not None:
            yield {
                "place": place,
                "left": place + 0.06,
                "right": place + 0.34,
                "middle": place + 0.2,
                "floor": 0,
                "top": rung.step.published,
                "theirs": True,
                "label": number(100 * rung.step.published),
                "says": f"{place}. {rung.step.name}: {percent(rung.step.published)} in {story}",
            }


def _bounds(rung: Rung) -> tuple[float, ...]:
    return (rung.difference.estimate.low, rung.difference.estimate.high) if rung.difference else ()


def _figures(rung: Rung) -> dict[str, str]:
    """One line of the table, by column."""
    step, change = rung.step, rung.difference
    row = rung.row if rung.row and not rung.row.n_infra else None
    lacking = f"{rung.row.n_infra} missing" if rung.row else "not run"
    return {
        "step": step.name,
        "combination": step.combination,
        "story": "rejected" if step.rejected else "kept",
        "published": "" if step.published is None else percent(step.published),
        "score": percent(row.score) if row else lacking,
        "its interval": within(row.ci_low, row.ci_high) if row else "",
        "points": points(change.estimate.value) if change else "",
        "their interval": span(change.estimate) if change else "",
        "p Holm": "" if math.isnan(rung.p_holm) else chance(rung.p_holm),
        "won": str(change.gained) if change else "",
        "lost": str(change.lost) if change else "",
        "against": rung.against,
        "changed": ", ".join(rung.changed),
        "tokens": number(row.tokens) if row else "",
        "p50 s": f"{row.latency_p50_s:.2f}" if row else "",
        "we would": KEEP[rung.keep],
    }


def show_ladder(climbed: Climb, written: Path, console: Console) -> None:
    """Print the table, a sentence for every step that does not help, and where to look next."""
    story = climbed.ladder.settings.story
    console.print(_table(climbed))
    console.print()
    console.print(Text(f"{headline(climbed)}. {lead(climbed)}"))
    console.print()
    for place, rung in enumerate(climbed.rungs, start=1):
        if rung.outcome not in ("start", "helps"):
            console.print(Text(f"{place}. {sentence(rung, story)}"))
    console.print()
    console.print(Text(f"Page: {written}"), soft_wrap=True)
    console.print(Text(f"Next: {next_step(climbed)}"))


def _table(climbed: Climb) -> Table:
    """Green and red only for what is more than chance."""
    shown = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("", *SHOWN):
        shown.add_column(column, justify="left" if column == "step" else "right", no_wrap=column != "step")
    for place, rung in enumerate(climbed.rungs, start=1):
        figures = _figures(rung)
        shown.add_row(str(place), *(figures[column] for column in SHOWN), style=STYLES.get(rung.outcome, ""))
    return shown
