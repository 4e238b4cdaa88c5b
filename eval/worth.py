"""What answers are worth: from which share of right ones on they pay, and what those of a run bring.

    break-even   p* = F / (S + F)     a right answer brings S, a wrong one costs F

The same stakes stand in a task as `enough`, where the verdict heeds them. Knows nothing of how answers came about.
"""

from collections.abc import Iterator
from dataclasses import replace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.confidence import find_stated, told, worth
from eval.folder import Results
from eval.record import RunError
from eval.summary import Row, ranked, summarise
from eval.task import Stakes
from eval.wording import percent, within


def stakes_of(right: float | None, wrong: float | None, passed_on: float, results: Results | None) -> Stakes:
    """The stakes that were typed, or those of the run's task. RunError with a sentence where there are none."""
    if right is not None and wrong is not None:
        if right <= 0 or wrong <= 0 or passed_on < 0:
            raise RunError("--right and --wrong are above 0, and --passed-on is not below: a loss is written as a cost")
        return Stakes(right=right, wrong=wrong, passed_on=passed_on)
    known = results.config.task.enough if results else None
    if isinstance(known, Stakes) and right is None and wrong is None:
        return known
    raise RunError(
        "say what answers are worth: --right 20 --wrong 88, or in the run's task.yaml enough: {right: 20, wrong: 88}"
    )


def break_even(stakes: Stakes) -> Iterator[str]:
    """The stakes in words.

    >>> print(*break_even(Stakes(right=20, wrong=88)), sep="\\n")
    A right answer brings 20, a wrong one costs 88: answers pay from 81.5% right ones on.
    """
    yield (
        f"A right answer brings {stakes.right:g}, a wrong one costs {stakes.wrong:g}: answers pay from "
        f"{percent(stakes.break_even)} right ones on."
    )
    if stakes.passed_on:
        yield (
            f"A question passed on costs {stakes.passed_on:g}: answer it where the chance of being right is at least "
            f"{percent(stakes.sure_enough)}."
        )


def show_worth(stakes: Stakes, results: Results | None, console: Console) -> None:
    """Print it; of a run, what each combination brings, and what it would when it answered only when sure."""
    for sentence in break_even(stakes):
        console.print(Text(sentence))
    if results is None:
        return
    rows = summarise(results)
    console.print()
    console.print(_table(stakes, ranked(rows)))
    staked = replace(results, config=replace(results.config, task=replace(results.config.task, enough=stakes)))
    for one in find_stated(staked, rows):
        console.print()
        console.print(Text(" ".join(told(one))))


def _table(stakes: Stakes, rows: list[Row]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("combination", "score", "95% interval", "net per question", "95% interval", "pays"):
        table.add_column(heading, justify="left" if heading in ("combination", "pays") else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.combination,
            percent(row.score),
            within(row.ci_low, row.ci_high),
            worth(stakes.net(row.score)),
            f"{worth(stakes.net(row.ci_low))} to {worth(stakes.net(row.ci_high))}",
            _pays(stakes, row),
        )
    return table


def _pays(stakes: Stakes, row: Row) -> str:
    """By its own interval; the best of many was lucky too, and `enough` in the task corrects for that."""
    if row.ci_low > stakes.break_even:
        return "yes"
    return "no" if row.ci_high < stakes.break_even else "perhaps"
