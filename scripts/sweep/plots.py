"""The two pictures of a sweep: score against loss, and score against rows, in the manner of the evaluation's report.

Knows nothing of pages.
"""

from collections.abc import Sequence
from typing import Any

from eval.plots import to_svg
from eval.wording import percent
from scripts.sweep.checkpoints import Checkpoint
from scripts.sweep.outcome import Outcome

Size = tuple[int, int]


def score_by_loss(outcome: Outcome, size: Size) -> str:
    """Every checkpoint with a loss; filled is the end of a training, hollow a snapshot. The loss has a log scale."""
    points = [
        {**_point(outcome, one), "loss": one.eval_loss, "training": one.variant.name}
        for one in outcome.checkpoints
        if one.eval_loss
    ]
    if not points:
        return ""
    import altair as alt

    chart = alt.Chart(alt.InlineData(values=points)).encode(
        x=alt.X(
            "loss:Q",
            title="evaluation loss (log scale)",
            scale=alt.Scale(type="log", nice=False, padding=12),
            axis=alt.Axis(tickCount=5, format="~g", grid=False),
        ),
        y=_score(alt),
    )
    layers = alt.layer(
        # A training's snapshots, joined in the order in which they were made.
        chart.mark_line(color="var(--accent)", strokeWidth=1, opacity=0.35).encode(
            detail="training:N", order="steps:Q"
        ),
        _marks(alt, chart),
    )
    return to_svg(layers, size)


def score_by_rows(outcome: Outcome, size: Size) -> str:
    """The learning curves with their intervals; nothing where all variants learn from the same rows."""
    points = [
        {**_point(outcome, one), "curve": label}
        for label, curve in outcome.curves().items()
        for one in curve
        if len(curve) > 1
    ]
    if not points:
        return ""
    import altair as alt

    rows = sorted({point["rows"] for point in points})
    chart = alt.Chart(alt.InlineData(values=points)).encode(
        x=alt.X(
            "rows:Q",
            title="rows learnt from (log scale)",
            scale=alt.Scale(type="log", nice=False, padding=16),
            axis=alt.Axis(values=rows, format="d", grid=False),
        ),
        y=_score(alt),
    )
    layers = alt.layer(
        chart.mark_line(color="var(--accent)", strokeWidth=1.5, opacity=0.5).encode(detail="curve:N"),
        chart.mark_rule(color="var(--accent)", opacity=0.5).encode(y="low:Q", y2="high:Q"),
        _marks(alt, chart),
    )
    return to_svg(layers, size)


def _score(alt: Any) -> Any:
    return alt.Y("score:Q", title="score", scale=alt.Scale(zero=False, padding=14), axis=alt.Axis(format="%"))


def _marks(alt: Any, chart: Any) -> Any:
    return chart.mark_point(size=64, stroke="var(--accent)", strokeWidth=1.5, opacity=1).encode(
        fill=alt.condition("datum.final", alt.value("var(--accent)"), alt.value("var(--paper)")), description="says:N"
    )


def _point(outcome: Outcome, one: Checkpoint) -> dict[str, Any]:
    score = outcome.target.of(one.name)
    loss = "" if one.eval_loss is None else f", loss {one.eval_loss:.4f}"
    return {
        "rows": one.rows,
        "steps": one.steps,
        "score": score.value,
        "low": score.low,
        "high": score.high,
        "final": one.final,
        "says": f"{one.name}: {percent(score.value)}{loss}",
    }


def drawn(outcome: Outcome, sizes: Sequence[Size]) -> dict[str, list[str]]:
    """Each picture in each size, by its caption; without those that would be empty."""
    captions = {
        "Filled: the end of a training; hollow: a snapshot on its way, joined to the next.": score_by_loss,
        "Lines are 95% intervals over questions.": score_by_rows,
    }
    pictures = {caption: [draw(outcome, size) for size in sizes] for caption, draw in captions.items()}
    return {caption: found for caption, found in pictures.items() if all(found)}
