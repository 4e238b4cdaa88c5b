"""The figures that need axes of their own, as SVG that follows the page's colours: score against its price, two axes.

No script draws them, so what a mark says when the mouse rests on it is an SVG title. Knows nothing of pages.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eval.confidence import Stated
from eval.headroom import Place
from eval.summary import Row, ranked
from eval.wording import number, percent
from serve.combination import BASE

WIDE: Final = (860, 380)
NARROW: Final = (340, 300)
"""Drawn twice, because text that is scaled down cannot be read on a telephone; the page shows the one that fits."""


@dataclass(frozen=True, slots=True)
class Price:
    """What an answer costs, as an axis has it."""

    name: str
    of: Callable[[Row], float]
    said: Callable[[Row], str]
    labels: str
    """The format of the axis, as D3 has it."""
    remark: str = ""


TOKENS: Final = Price("tokens per answer", lambda row: row.tokens, lambda row: f"{number(row.tokens)} tokens", ",d")
SECONDS: Final = Price(
    "seconds per answer, median",
    # The clock of a run is rounded, and a logarithm knows no zero.
    lambda row: max(row.latency_p50_s, 0.001),
    lambda row: f"{row.latency_p50_s:.2f} s",
    "~g",
    "Measured by the client with up to %s calls in flight over all combinations: at another load they are others.",
)


def pareto(rows: Sequence[Row], price: Price) -> list[Row]:
    """The rows that no other row beats on score without a higher price; cheapest first."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (price.of(row), -row.score)):
        if not front or row.score > front[-1].score:
            front.append(row)
    return front


def scatter(rows: Sequence[Row], baseline: str, price: Price, size: tuple[int, int]) -> str:
    """Score over price (log scale) with the Pareto line; its points bear the rank of their row."""
    import altair as alt

    prices = [price.of(row) for row in ranked(rows)]
    chart = alt.Chart(alt.InlineData(values=_points(rows, baseline, price))).encode(
        x=alt.X(
            "price:Q",
            title=f"{price.name} (log scale)",
            scale=alt.Scale(type="log", domain=[0.8 * min(prices), 1.25 * max(prices)], nice=False),
            axis=alt.Axis(values=_round_numbers(min(prices), max(prices)), format=price.labels),
        ),
        y=alt.Y("score:Q", title="score", scale=alt.Scale(zero=False, padding=14), axis=alt.Axis(format="%")),
    )
    on_front = chart.transform_filter("datum.front")
    layers = alt.layer(
        on_front.mark_line(color="var(--accent)", strokeWidth=1.5, opacity=0.5),
        on_front.mark_rule(color="var(--accent)", opacity=0.5).encode(y="low:Q", y2="high:Q"),
        chart.mark_point(size=64, stroke="var(--accent)", strokeWidth=1.5, opacity=1).encode(
            fill=alt.condition("datum.adapter", alt.value("var(--accent)"), alt.value("var(--paper)")),
            description="says:N",
        ),
        # Up and left of the front there is nothing, by its definition: the place for its labels.
        chart.mark_text(dx=-6, dy=-8, align="right", color="var(--ink)", fontSize=12).encode(text="rank:N"),
        chart.mark_text(dx=8, dy=9, align="left", color="var(--ink)", fontSize=12).encode(text="name:N"),
    )
    return to_svg(layers, size)


def two_axes(places: Sequence[Place], size: tuple[int, int]) -> str:
    """Context against behaviour: what a combination has to go on, and what it makes of it; ranks as in the table."""
    import altair as alt

    share = alt.Scale(domain=[-0.04, 1.06], nice=False)
    axis = alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format="%")
    chart = alt.Chart(alt.InlineData(values=_placed(places))).encode(
        x=alt.X("behaviour:Q", title="behaviour: right with the evidence alone", scale=share, axis=axis),
        y=alt.Y("context:Q", title="context: evidence in the prompt", scale=share, axis=axis),
    )
    layers = alt.layer(
        chart.mark_point(stroke="var(--accent)", strokeWidth=1.5, opacity=0.6).encode(
            size=alt.Size("score:Q", scale=alt.Scale(domain=[0, 1], range=[30, 900]), legend=None),
            fill=alt.condition("datum.adapter", alt.value("var(--accent)"), alt.value("var(--paper)")),
            description="says:N",
        ),
        chart.mark_text(dx=0, dy=-16, color="var(--ink)", fontSize=12).encode(text="name:N"),
    )
    return to_svg(layers, size)


def coverage(stated: Stated, size: tuple[int, int]) -> str:
    """The share of right answers among the surest, over how many are answered; dashed, were the order ideal."""
    import altair as alt

    right = 1 - stated.ranking.blind
    rows = [{"answered": answered, "right": share} for answered, share in stated.curve]
    ideal = [{"answered": one["answered"], "right": min(1.0, right / one["answered"])} for one in rows]
    lowest = min(one["right"] for one in rows)
    axes = {
        "x": alt.X("answered:Q", title="answered, the surest first", axis=alt.Axis(format="%")),
        "y": alt.Y("right:Q", title="right among them", axis=alt.Axis(format="%")).scale(
            domain=[0.95 * lowest, 1.01], nice=False
        ),
    }
    layers = alt.layer(
        alt.Chart(alt.InlineData(values=ideal)).mark_line(color="var(--quiet)", strokeDash=[4, 4]).encode(**axes),
        alt.Chart(alt.InlineData(values=[{"right": right}])).mark_rule(color="var(--quiet)").encode(y="right:Q"),
        alt.Chart(alt.InlineData(values=rows)).mark_line(color="var(--accent)", strokeWidth=2).encode(**axes),
    )
    return to_svg(layers, size)


def _placed(places: Sequence[Place]) -> list[dict[str, Any]]:
    """The best have their ranks beside them, as long as no better one's is near: texts would lie on each other."""
    rows = []
    named = _apart([(place.behaviour.value, place.context.value) for place in places], 0.05, 0.12)
    for place, free in zip(places, named, strict=True):
        context, behaviour, score = place.context.value, place.behaviour.value, place.row.score
        rows.append(
            {
                "behaviour": behaviour,
                "context": context,
                "score": score,
                "adapter": place.row.adapter != BASE,
                "name": str(place.rank) if free else "",
                "says": f"{place.rank}. {place.row.combination}: context {percent(context)}, behaviour "
                f"{percent(behaviour)}, score {percent(score)}",
            }
        )
    return rows


def _apart(marks: Sequence[tuple[float, float]], width: float, height: float) -> list[bool]:
    """Which marks have room for a label: those near which no earlier one has its own. In shares of the axes."""
    labelled: list[tuple[float, float]] = []
    free = []
    for x, y in marks:
        free.append(not any(abs(x - left) < width and abs(y - low) < height for left, low in labelled))
        labelled += [(x, y)] if free[-1] else []
    return free


def to_svg(chart: Any, size: tuple[int, int]) -> str:
    """A chart in the page's colours, as a picture of this size; a mark's description is shown on hover."""
    import vl_convert

    drawn = chart.properties(width=size[0] - 70, height=size[1] - 60).configure(**STYLE)
    return _titled(vl_convert.vegalite_to_svg(drawn.to_dict()))


AXIS: Final[dict[str, Any]] = {
    "labelColor": "var(--quiet)",
    "titleColor": "var(--quiet)",
    "labelFontSize": 12,
    "titleFontSize": 12,
    "titleFontWeight": "normal",
    "gridColor": "var(--rule)",
    "domain": False,
    "ticks": False,
    "labelPadding": 6,
}
STYLE: Final[dict[str, Any]] = {"font": "inherit", "background": "transparent", "view": {"stroke": None}, "axis": AXIS}


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2, 3, 5, 7, 10, 20 ... as far as the figure goes: Vega's own log ticks leave most of theirs unlabelled."""
    round_ones = [float(f"{n}e{power}") for power in range(-3, 9) for n in (1, 2, 3, 5, 7)]
    return [one for one in round_ones if 0.8 * low <= one <= 1.25 * high]


def _points(rows: Sequence[Row], baseline: str, price: Price) -> list[dict[str, Any]]:
    choices = ranked(rows)
    front = pareto(choices, price)
    across, up = _shares([math.log(price.of(row)) for row in choices]), _shares([row.score for row in choices])
    marks = [mark for row, mark in zip(choices, zip(across, up, strict=True), strict=True) if row in front]
    free = iter(_apart(marks, 0.06, 0.07))
    named = [row for row in choices if row in front and next(free)]
    return [
        {
            "price": price.of(row),
            "score": row.score,
            "low": row.ci_low,
            "high": row.ci_high,
            "says": f"{row.combination}: {percent(row.score)}, {price.said(row)}",
            "rank": str(rank) if row in named else "",
            "name": "baseline" if row.combination == baseline else "",
            "adapter": row.adapter != BASE,
            "front": row in front,
        }
        for rank, row in enumerate(choices, start=1)
    ]


def _shares(values: Sequence[float]) -> list[float]:
    """How far each lies between the lowest and the highest."""
    low, high = min(values), max(values)
    return [(value - low) / ((high - low) or 1) for value in values]


def _titled(svg: str) -> str:
    """Give each mark its description as a title, which browsers show on hover."""
    return re.sub(r'<path aria-label="([^"]*)"([^>]*)/>', r'<path aria-label="\1"\2><title>\1</title></path>', svg)
