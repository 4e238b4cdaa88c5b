"""Questions that were asked several times: what a figure says of answers, it says of every one of them."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from eval.analysis import analyse
from eval.blame import blame, look
from eval.folder import Results
from eval.gate import Ceiling, Gates, judge
from eval.record import Record
from eval.summary import ranked, summarise
from eval.tally import weakest
from serve.combination import GOLD, NONE, Combination
from tests.eval_simulation import Chance, grid_of, repeated, simulate

ALONE = grid_of(["base"], ["none"], ["direct"], "base:none:direct")
SEARCHING = grid_of(["base"], ["none", "dense"], ["direct"], "base:none:direct")
JUDGED = grid_of(["base"], ["none", "gold"], ["direct"], "base:none:direct")
N = 64


def right(cell: Combination, part: str) -> float:
    return 1.0


def right_but_for(retriever: str, *parts: str) -> Chance:
    """Never right in these slices with this retriever, and otherwise always."""
    return lambda cell, part: 0.0 if cell.retriever == retriever and part in parts else 1.0


def edited(results: Results, change: Callable[[Record], Record]) -> Results:
    """The run, had every record been another."""
    records = {cell: {item: change(one) for item, one in found.items()} for cell, found in results.records.items()}
    return replace(results, records=records)


def timed(seconds: float, in_flight: float = 1) -> Results:
    """A pass in which every answer takes as long as every other one."""
    asked = simulate(ALONE, right, N, 0)
    return edited(asked, lambda one: replace(one, seconds=seconds, in_flight=in_flight))


def test_where_the_first_answers_are_all_right_nothing_is_the_weakest() -> None:
    """`none` is the best and misses some at first; `dense`, the best that searches, misses more, but only when asked again."""
    first = simulate(SEARCHING, right_but_for(NONE, "count"), N, 0)
    second = simulate(SEARCHING, right_but_for("dense", "fact", "code", "clash", "updated"), N, 0)
    results = repeated(first, second)
    rows = summarise(results)

    assert [row.retriever for row in ranked(rows)] == [NONE, "dense"]
    assert weakest(results, rows, blame(look(results))) is None
    assert analyse(results).verdict.blame is None
