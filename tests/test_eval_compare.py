"""Two runs side by side: what changed is found, what did not is not, and what cannot be compared is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.compare import compare, conclusion, notes
from eval.folder import Results
from eval.summary import clusters, scores
from retrieval.stats import holm, paired
from serve.combination import Combination
from tests.eval_simulation import grid_of, simulate
from tests.eval_stub import Stub, planted, serving, write_world

GRID = grid_of(["base", "tuned"], ["none", "gold"], ["direct", "brief"], "base:none:direct")
TUNED = Combination.parse("tuned:none:direct")


def run(tuned: float = 0.3, n: int = 120, seed: int = 0) -> Results:
    """The adapter's chance of a right answer is this, everything else's 0.3."""
    return simulate(GRID, lambda cell, part: tuned if cell.adapter == "tuned" else 0.3, n, seed)


def without(results: Results, cell: Combination, *ids: str) -> Results:
    kept = {item: record for item, record in results.records[cell].items() if item not in ids}
    return replace(results, records={**results.records, cell: kept})


def with_task(results: Results, **changes: object) -> Results:
    return replace(results, config=replace(results.config, task=replace(results.config.task, **changes)))  # type: ignore[arg-type]


def with_first(results: Results, **changes: object) -> Results:
    first, *others = results.examples
    return replace(results, examples=(replace(first, **changes), *others))  # type: ignore[arg-type]


def test_what_changed_is_clear_and_what_did_not_is_not() -> None:
    compared = compare(run(0.3), run(0.8))

    assert {one.combination for one in compared.changes if one.direction} == {
        str(cell) for cell in GRID.cells if cell.adapter == "tuned"
    }
    for one in compared.changes:
        if one.after.adapter == "base":
            assert (one.gained, one.lost, one.difference.estimate.value) == ((), (), 0)
        else:
            assert one.difference.estimate.value > 0
    assert "of 8 combinations, 4 are better (most: tuned:" in conclusion(compared)
    assert conclusion(compared).endswith("; 4 cannot be told from before.")


def test_the_way_back_is_as_long_and_its_gains_are_losses() -> None:
    there, back = compare(run(0.3), run(0.8)), compare(run(0.8), run(0.3))
    returned = {one.combination: one for one in back.changes}

    for one in there.changes:
        assert one.difference.estimate.value == -returned[one.combination].difference.estimate.value
        assert (one.gained, one.lost) == (returned[one.combination].lost, returned[one.combination].gained)
    assert "4 are worse (most: tuned:" in conclusion(back)


def test_figures_are_those_of_the_paired_statistics_corrected_for_all_compared() -> None:
    before, after = run(0.3, seed=1), run(0.5, seed=2)
    changes = compare(before, after).changes
    one = next(one for one in changes if one.combination == str(TUNED))
    ids = [example.id for example in after.examples]
    ours, theirs, alike = scores(after, TUNED), scores(before, TUNED), clusters(after)

    assert one.difference == paired([ours[i] for i in ids], [theirs[i] for i in ids], [alike[i] for i in ids])
    assert (len(one.gained), len(one.lost)) == (one.difference.gained, one.difference.lost)
    assert [change.p_holm for change in changes] == holm([change.difference.p for change in changes])


def test_of_twenty_pairs_of_equal_runs_at_most_two_show_a_difference() -> None:
    pairs = [compare(run(seed=2 * seed), run(seed=2 * seed + 1)) for seed in range(20)]

    assert sum(any(one.direction for one in compared.changes) for compared in pairs) <= 2
    assert "no combination can be told from before" in conclusion(pairs[0])


def test_equal_answers_are_called_equal() -> None:
    assert conclusion(compare(run(), run())) == ("On 120 questions of both runs every answer scores the same in both.")


def test_questions_of_one_run_only_are_left_out_and_counted() -> None:
    small, large = run(0.3, n=80), run(0.8, n=120)
    ids = {example.id for example in small.examples}
    compared = compare(small, without(large, TUNED, "q100"))

    assert (compared.questions, compared.alone, compared.left_out) == (80, (0, 40), {})
    assert all(one.difference.n == 80 and {*one.gained, *one.lost} <= ids for one in compared.changes)
    assert "Left out: 0 questions only in the first run, 40 only in the second." in [*notes(compared)]


def test_combinations_with_gaps_or_in_one_run_only_are_named_not_compared() -> None:
    lonely = Combination.parse("base:none:direct")
    before, after = run(), without(run(), TUNED, "q3")
    before = replace(before, records={cell: found for cell, found in before.records.items() if cell != lonely})
    with_baseline = replace(before.config.grid, baseline="base:none:brief")
    before = replace(before, config=replace(before.config, grid=with_baseline))

    compared = compare(before, after)

    assert compared.left_out == {
        str(lonely): "only in the second run",
        str(TUNED): "answers are missing in the second run",
    }
    assert len(compared.changes) == len(GRID.cells) - 2
    assert f"Not compared, only in the second run: {lonely}" in [*notes(compared)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda one: with_task(one, primary="format"), "ranked by 'exact', the second by 'format'"),
        (
            lambda one: with_task(
                one,
                scorers={**one.config.task.scorers, "exact": replace(one.config.task.scorers["exact"], loose=True)},
            ),
            "'exact' is not the same scorer in both runs",
        ),
        (lambda one: with_first(one, question="Who?"), "1 of 40 questions with the same id differ between the runs"),
        (lambda one: with_first(one, answers=("Somebody else",)), "differ between the runs, e.g. q0"),
        (
            lambda one: replace(one, examples=tuple(replace(each, id=f"x{each.id}") for each in one.examples)),
            "no question in common",
        ),
    ],
)
def test_runs_whose_scores_mean_different_things_are_refused(
    change: Callable[[Results], Results], sentence: str
) -> None:
    before = run(n=40)

    with pytest.raises(RuntimeError, match=sentence):
        compare(before, change(before))


def test_the_command_prints_the_table_and_ends_with_what_can_be_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for name, effect in (("before", 0.0), ("after", 0.6)):
        with serving(Stub(planted({"adapter": effect}))) as stub:
            grid = write_world(tmp_path / name, stub.url, n=60, retrievers=["none"])
            folders.append(str(tmp_path / name / "out"))
            assert main(["run", str(grid), "--out", folders[-1]]) == 0
    capsys.readouterr()

    assert main(["compare", *folders]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0].split()[:3] == ["combination", "before", "after"]
    assert "tuned:none:direct: gained q" in said
    assert "On 60 questions of both runs" in said
    assert main(["compare", folders[0], str(tmp_path / "nowhere")]) == 1
    assert "there is no run here" in capsys.readouterr().err


def test_help_ends_with_a_line_to_paste(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--help"])

    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("example: python -m eval compare ")
