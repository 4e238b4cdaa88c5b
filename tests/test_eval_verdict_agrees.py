"""What a verdict says agrees with the scores beside it: in graded scores, in clusters, and where tests disagree."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from eval.analysis import Analysis, analyse
from eval.finding import find
from eval.folder import Results
from eval.gate import Floor, Gates, judge
from eval.summary import summarise
from eval.task import ScorerSettings
from serve.combination import Combination
from tests.eval_simulation import grid_of, simulate

Table = Mapping[str, Sequence[float]]
"""Combination -> the score of each question."""


def run(table: Table, baseline: str, kind: str = "exact", sizes: int = 1) -> Results:
    """These scores, as if they had been measured; so many questions in a row share a document."""
    cells = [Combination.parse(name) for name in table]
    levels = [
        list(dict.fromkeys(getattr(one, factor) for one in cells)) for factor in ("adapter", "retriever", "strategy")
    ]
    results = simulate(grid_of(*levels, baseline), lambda *_: 0.0, len(table[baseline]), seed=0)
    examples = tuple(
        replace(one, meta={**one.meta, "cluster": str(place // sizes)}) for place, one in enumerate(results.examples)
    )
    records = {
        cell: {
            one.id: replace(results.records[cell][one.id], scores={"exact": score, "format": 1.0})
            for one, score in zip(examples, table[str(cell)], strict=True)
        }
        for cell in cells
    }
    task = replace(results.config.task, scorers={**results.config.task.scorers, "exact": ScorerSettings(kind=kind)})
    config = replace(results.config, task=task)
    return replace(results, config=config, examples=examples, records=records, failures={cell: {} for cell in cells})


def found(table: Table, baseline: str = "base:none:direct", kind: str = "exact", sizes: int = 1) -> Analysis:
    return analyse(run(table, baseline, kind, sizes))


@pytest.fixture
def graded() -> Analysis:
    """Half of the questions have their evidence found; with it, every answer is nearly as good as it can be."""
    rough = [0.02 * (place % 5) for place in range(100)]
    return found(
        {
            "base:none:direct": [0.1 + one for one in rough],
            "base:dense:direct": [(0.9 if place % 2 else 0.15) + one for place, one in enumerate(rough)],
            "base:gold:direct": [0.91 + one for one in rough],
        },
        kind="f1",
    )


def test_of_graded_scores_what_is_lacking_is_parted_at_the_oracles_score(graded: Analysis) -> None:
    step, best = graded.next_step, graded.rows[0]

    assert step.fault == "retrieval"
    assert {int(item[1:]) % 2 for item in step.items} == {0}
    assert len(step.items) > 40
    assert step.at_most is not None
    assert 0.3 < step.at_most < 1 - best.score


def test_of_graded_scores_the_sentences_do_not_contradict_each_other(graded: Analysis) -> None:
    said = " ".join(graded.said)

    assert graded.next_step.at_most is not None
    assert f"Evidence that was not found is {len(graded.next_step.items)} questions of that" in said
    assert f"alone can bring {100 * graded.next_step.at_most:+.1f} points at most" in said


def test_a_place_on_the_two_axes_is_a_mean_of_graded_scores(graded: Analysis) -> None:
    (place,) = [one for one in graded.places if one.row.retriever == "dense"]

    assert place.behaviour.value == pytest.approx(0.95)


def test_a_lever_without_which_it_is_clearly_worse_is_named_though_it_does_nothing_on_average() -> None:
    analysis = analyse(
        simulate(
            grid_of(["base", "tuned"], ["none", "dense"], ["direct"], "base:none:direct"),
            lambda cell, _: {"base:none": 0.3, "base:dense": 0.5, "tuned:none": 0.02, "tuned:dense": 0.8}[
                f"{cell.adapter}:{cell.retriever}"
            ],
            n=300,
            seed=0,
        )
    )

    assert analysis.verdict.lever == "combination"


@pytest.mark.parametrize(
    ("better", "sizes", "kind"),
    [([0.52] * 40, 1, "f1"), ([float(place % 20 == 0) for place in range(120)], 20, "exact")],
)
def test_nothing_is_adopted_whose_interval_has_zero_in_it(better: list[float], sizes: int, kind: str) -> None:
    worse = [0.5] * 40 if kind == "f1" else [0.0] * 120

    analysis = found({"base:none:direct": worse, "base:none:brief": better}, kind=kind, sizes=sizes)

    row = next(one for one in analysis.rows if one.strategy == "brief")
    assert row.delta_ci_low is not None
    assert row.delta_ci_low < 0
    assert row.p_holm is not None
    assert row.p_holm < 0.05
    assert analysis.verdict.decision == "not decisive"


def test_a_clear_gain_is_adopted_though_another_that_may_be_chance_is_a_little_larger() -> None:
    base, doubtful, sure = [0.0] * 100, [0.0] * 100, [0.0] * 100
    base[:50] = [1.0] * 50
    doubtful[17:80] = [1.0] * 63  # 30 gained, 17 lost
    sure[:62] = [1.0] * 62  # 12 gained

    analysis = found({"base:none:direct": base, "base:none:doubtful": doubtful, "base:none:sure": sure})

    assert analysis.verdict.decision == "adopt"
    assert analysis.verdict.best == "base:none:sure"
    assert analysis.verdict.blame is not None
    assert analysis.verdict.blame.combination == "base:none:sure"
    assert "base:none:direct" not in analysis.verdict.tied


@pytest.mark.parametrize(
    ("others", "judged"),
    [
        (["doubtful", "sure"], "base:none:sure (the verdict adopts it)"),
        (["doubtful"], "base:none:doubtful (it scores highest, the verdict adopts none)"),
        (["worse"], "base:none:direct (it scores highest, the verdict adopts none)"),
    ],
)
def test_gates_that_name_no_combination_judge_whom_the_verdict_is_about(others: list[str], judged: str) -> None:
    right = {"direct": (0, 50), "doubtful": (17, 80), "sure": (0, 62), "worse": (0, 40)}
    table = {
        f"base:none:{name}": [float(right[name][0] <= n < right[name][1]) for n in range(100)]
        for name in ["direct", *others]
    }
    results = run(table, "base:none:direct")

    judgement = judge(Gates(score=Floor(at_least=0)), results)

    best = analyse(results).best
    assert best is not None
    assert judgement.combination == best.combination
    assert judgement.sentence == f"For {judged}, the gate holds."


@pytest.mark.parametrize(("gained", "n", "sizes"), [(5, 5, 1), (5, 12, 1), (60, 100, 20)])
def test_more_questions_are_more_than_were_asked(gained: int, n: int, sizes: int) -> None:
    better = [1.0] * gained + [0.0] * (n - gained)
    results = run({"base:none:direct": [0.0] * n, "base:none:brief": better}, "base:none:direct", sizes=sizes)

    finding = find(results, summarise(results), ())

    assert finding is not None
    assert finding.more_questions is not None
    assert finding.more_questions > n


def test_shares_of_faults_are_over_clusters_as_scores_are() -> None:
    right = [float(place // 20 < 3) for place in range(100)]  # two of five documents fail altogether

    analysis = found(
        {"base:none:direct": [0.0] * 100, "base:dense:direct": right, "base:gold:direct": [1.0] * 100}, sizes=20
    )

    row = analysis.rows[0]
    tally = next(one for one in analysis.tallies if one.combination == row.combination)
    assert (tally.right.estimate.low, tally.right.estimate.high) == pytest.approx((row.ci_low, row.ci_high))
    assert analysis.next_step.ci == pytest.approx((1 - row.ci_high, 1 - row.ci_low))


def test_few_questions_do_not_prove_that_retrieval_has_nothing_left_to_bring() -> None:
    dense = [1.0] * 13 + [0.0] * 7
    gold = [1.0] * 9 + [0.0] * 4 + [1.0] * 7

    said = " ".join(found({"base:none:direct": [0.0] * 20, "base:dense:direct": dense, "base:gold:direct": gold}).said)

    assert "little left to bring" not in said
    assert "these questions cannot tell" in said
