"""Questions that were asked several times: what a figure says of answers, it says of every one of them."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from eval.analysis import analyse
from eval.blame import blame, look
from eval.folder import Results, whole_records
from eval.gate import Ceiling, Gates, judge
from eval.record import Record
from eval.summary import ranked, summarise
from eval.tally import weakest
from eval.task import ScorerSettings
from serve.combination import NONE, Combination
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


def scored(results: Results, **scores: float) -> Results:
    """A pass in which these scores are every answer's."""
    return edited(results, lambda one: replace(one, scores={**one.scores, **scores}))


def timed(seconds: float, in_flight: float = 1) -> Results:
    """A pass in which every answer takes as long as every other one."""
    return edited(simulate(ALONE, right, N, 0), lambda one: replace(one, seconds=seconds, in_flight=in_flight))


def test_where_the_first_answers_are_all_right_nothing_is_the_weakest() -> None:
    """`none` is best and misses some at first; `dense`, the best that searches, misses more, but only asked again."""
    first = simulate(SEARCHING, right_but_for(NONE, "count"), N, 0)
    second = simulate(SEARCHING, right_but_for("dense", "fact", "code", "clash", "updated"), N, 0)
    results = repeated(first, second)
    rows = summarise(results)

    assert [row.retriever for row in ranked(rows)] == [NONE, "dense"]
    assert weakest(results, rows, blame(look(results)), rows[0]) is None
    assert analyse(results).verdict.blame is None


def test_no_figure_turns_on_which_answer_came_first() -> None:
    """A run that was broken off and went on has its answers in another order."""
    results = repeated(*(simulate(SEARCHING, lambda cell, part: 0.5, N, seed) for seed in range(3)))
    asked = {cell: found.keys() for cell, found in results.records.items()}
    late = results.answers[::-1]

    other = replace(results, answers=late, records=whole_records(asked, late, repeats=3))

    assert summarise(other) == summarise(results)


def test_the_latency_of_95_in_100_is_that_of_answers_and_of_no_means() -> None:
    results = repeated(timed(1), timed(1), timed(10))

    row, judged = summarise(results)[0], judge(Gates(latency_p95_s=Ceiling(at_most=5)), results)

    assert (row.latency_p50_s, row.latency_p95_s) == (1, 10)
    assert judged.failed == ("latency_p95_s",)


def test_an_answer_costs_what_the_engine_spent_on_it_under_the_load_it_was_asked_under() -> None:
    """A second alone, or eight beside seven others: a second of the machine either way."""
    row = summarise(repeated(timed(1), timed(8, in_flight=8)))[0]

    assert row.minutes_per_1000 == pytest.approx(1000 / 60)


def test_a_reply_of_several_that_misses_the_form_is_a_format_failure() -> None:
    kept = simulate(ALONE, right, N, 0)

    row = summarise(repeated(kept, scored(kept, format=0.0), kept))[0]

    assert row.others["format"] == pytest.approx(2 / 3)
    assert row.n_format_fail == N


def test_an_abstention_when_asked_again_is_counted_among_the_answers() -> None:
    plain = simulate(ALONE, right, N, 0)
    task = plain.config.task
    scorers = {**task.scorers, "knows": ScorerSettings(kind="abstains")}
    asked = replace(plain, config=replace(plain.config, task=replace(task, scorers=scorers)))
    first, second = scored(asked, knows=1.0), scored(asked, knows=0.0)

    assert summarise(repeated(first, second))[0].others["knows_false"] == 0.5


def test_what_is_got_right_when_asked_again_is_not_suspect() -> None:
    """Nobody ever gets `fact` right; `code` is right the second time."""
    first = simulate(JUDGED, lambda cell, part: float(part not in ("fact", "code")), N, 0)
    second = simulate(JUDGED, lambda cell, part: float(part != "fact"), N, 0)
    results = repeated(first, second)

    told = blame(look(results))[results.baseline]

    assert {one.slice for one in results.examples if told[one.id] == "suspect"} == {"fact"}


@pytest.mark.parametrize(
    ("missed", "said"), [(("fact", "code"), "Make answers steadier"), ((), "Nothing is left to win")]
)
def test_nothing_is_left_to_win_only_where_every_answer_is_right(missed: tuple[str, ...], said: str) -> None:
    first = simulate(SEARCHING, right_but_for(NONE, "fact", "code", "clash"), N, 0)
    second = simulate(SEARCHING, right_but_for("dense", *missed), N, 0)

    assert analyse(repeated(first, second)).next_step.sentence.startswith(said)
