"""A plan as a terminal shows it: what would be asked, what it takes, what it could show, what to do next.

Knows nothing of how any of it was computed.
"""

import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.plan import ALIKE, Contrast, Plan
from eval.screening import USUAL
from eval.wording import counted, lasting, number
from retrieval.power import fewest_clusters

SHOWN: Final = 30
"""Contrasts that fit a screen: the levers, then the combinations that are hardest to tell from the baseline."""


def show_plan(plan: Plan, command: Sequence[str], console: Console) -> None:
    """Print the plan, and the command that carries it out."""
    for sentence in said(plan):
        console.print(Text(sentence))
    for heading, contrasts in (("too few records to tell", plan.guessed), ("as the records tell", plan.measured)):
        if contrasts:
            console.print()
            shown = sorted(contrasts, key=lambda one: (one.discordance is not None, -one.smallest))[:SHOWN]
            console.print(_table(heading, [one for one in contrasts if one in shown]))
            if len(shown) < len(contrasts):
                console.print(Text(f"and {len(contrasts) - len(shown)} more, none of them larger", style="dim"))
    console.print()
    for sentence in warned(plan):
        console.print(Text(sentence))
    console.print(Text(f"Next:   {shlex.join(command)}"), soft_wrap=True)


def said(plan: Plan) -> Iterator[str]:
    """What would be asked, and what it takes."""
    yield f"{counted(plan.cells, 'combination')}, {counted(plan.questions, 'question')}: {plan.answers:,} answers."
    stale = f" ({plan.stale:,} out of date are asked again)" if plan.stale else ""
    share = f"{100 * plan.kept / plan.answers:.0f} %"
    yield f"{plan.kept:,} ({share}) have a record already; {counted(plan.left, 'answer')} to ask{stale}."
    if plan.stopped is not None:
        usual, most = (f"{100 * share:.0f}" for share in USUAL)
        yield (
            f"Screening has stopped {counted(plan.stopped, 'combination')} so far. The answers to ask are the most it "
            f"can take: of all answers of 2,000 simulated grids it took {usual} of 100 on average, and {most} or fewer "
            "in nine grids of ten."
        )
    if not plan.left:
        yield "Nothing is left to ask: a run starts no engine and only reports."
    elif plan.seconds is None or plan.prompt_tokens is None:
        yield "Time and prompt tokens: unknown, no earlier record of this run tells."
    else:
        tokens = f"{number(plan.prompt_tokens)} prompt tokens"
        yield (
            f"About {lasting(plan.seconds)} at {plan.concurrency} in flight, without the engine's start, and {tokens}, "
            "as in the earlier records."
        )


def warned(plan: Plan) -> Iterator[str]:
    """What the figures rest on, and what they miss."""
    if not (contrasts := (*plan.measured, *plan.guessed)):
        yield "The grid has the baseline alone: nothing is compared with it."
        return
    needed = fewest_clusters(max(one.family for one in contrasts))
    if plan.clusters < needed:
        yield (
            f"Warning: {counted(plan.clusters, 'cluster')} can show no gain at all in so many comparisons, however "
            f"large: at least {needed} must differ. Ask about more documents, or name smaller units in `meta.cluster`."
        )
    if plan.guessed and plan.clusters < plan.questions:
        yield (
            f"The questions are in {counted(plan.clusters, 'cluster')}; without records, differences within one are "
            f"taken to correlate by {ALIKE}."
        )
    if plan.measured and plan.seen < plan.questions:
        yield (
            f"The records tell of {plan.seen} of {counted(plan.questions, 'question')}, in the order of the file: the "
            "others may be harder to tell apart."
        )
    most = max(one.more for one in contrasts)
    if most:
        short = sum(one.more > 0 for one in contrasts)
        yield (
            f"This set is too small for 5 points in {short} of {counted(len(contrasts), 'line')}: up to "
            f"{counted(most, 'more question')} would show them."
        )


def _table(heading: str, contrasts: Sequence[Contrast]) -> Table:
    table = Table(
        box=None,
        header_style="dim",
        pad_edge=False,
        padding=(0, 2, 0, 0),
        title=f"smallest difference that comes out clear (power 80 %), {heading}",
        title_justify="left",
        title_style="",
    )
    for name in ("contrast", "corrected for", "disagree", "points", "more questions for 5 points"):
        table.add_column(name, justify="left" if name == "contrast" else "right", no_wrap=True)
    for one in contrasts:
        table.add_row(
            one.name,
            str(one.family),
            "" if one.discordance is None else f"{100 * one.discordance:.0f} %",
            f"{100 * one.smallest:.1f}",
            f"{one.more:,}" if one.more else "enough",
        )
    return table
