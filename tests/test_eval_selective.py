"""What a stated confidence is worth: planted ones are told from each other, and no threshold flatters itself."""

import json
import math
from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.__main__ import main
from eval.analysis import analyse
from eval.confidence import NOTE, Stated, find_stated, told
from eval.folder import Results
from eval.report import save
from eval.selective import (
    BIN,
    aurc,
    best_threshold,
    calibration_error,
    policy,
    ranking,
    reliability,
    risks,
    steps,
)
from eval.summary import summarise
from eval.task import Stakes
from eval.worth import break_even, stakes_of
from serve.combination import Combination
from tests.eval_simulation import grid_of, repeated, simulate

GUIDE = Stakes(right=20, wrong=0.95 * 40 + 0.05 * 1000)
"""OpenAI's optimisation guide: a case solved brings $20; a failure costs $40 in 95 % and $1,000 in 5 %."""


def test_the_area_is_what_one_counts_by_hand() -> None:
    # One wrong of 1, 2, 3, 4 answered: 0, 0, 1/3, 1/4.
    assert aurc([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1]) == pytest.approx((0 + 0 + 1 / 3 + 1 / 4) / 4)
    # The wrong one surest: 1, 1/2, 1/3, 1/4; and last: only 1/4.
    assert aurc([0.6, 0.7, 0.9, 0.8], [1, 1, 0, 1]) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert aurc([1, 1, 0, 1], [1, 1, 0, 1]) == pytest.approx(1 / 16)


@given(st.lists(st.tuples(st.sampled_from([0.3, 0.9]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=5))
def test_equal_confidences_count_as_the_mean_of_every_order_among_them(pairs: list[tuple[float, float]]) -> None:
    sure, right = [one for one, _ in pairs], [one for _, one in pairs]

    broken = [risks(np.array(sure) + 1e-6 * np.array(order), right) for order in permutations(range(len(pairs)))]

    assert risks(sure, right) == pytest.approx(np.mean(broken, axis=0))


def test_a_confidence_that_says_nothing_has_the_share_of_wrong_answers() -> None:
    seen = ranking([0.7] * 40, [1.0, 0.0] * 20)

    assert (seen.aurc.value, seen.blind) == (pytest.approx(0.5), 0.5)
    assert seen.skill.value == pytest.approx(0)


@pytest.mark.parametrize("kind", ["perfect", "useless", "inverted"])
def test_perfect_useless_and_inverted_confidences_are_told_apart(kind: str) -> None:
    draw = np.random.default_rng(1)
    right = (draw.random(200) < 0.6).astype(float)
    noise = draw.random(200)
    sure = {"perfect": right, "useless": noise, "inverted": 1 - right}[kind]

    skill = ranking(sure.tolist(), right.tolist()).skill

    if kind == "perfect":
        assert skill.value == pytest.approx(1)
    elif kind == "useless":
        assert skill.low < 0 < skill.high
    else:
        assert skill.high < -0.5


def test_answers_that_are_all_right_leave_nothing_to_sort_out() -> None:
    seen = ranking([0.1, 0.9, 0.5], [1.0, 1.0, 1.0])

    assert (seen.aurc.value, seen.ideal) == (0, 0)
    assert math.isnan(seen.skill.value)


def test_the_interval_of_the_area_counts_clusters_not_items() -> None:
    draw = np.random.default_rng(2)
    sure, right = draw.random(20), (draw.random(20) < 0.5).astype(float)
    fivefold = [np.repeat(one, 5).tolist() for one in (sure, right)]
    pages = [str(n // 5) for n in range(100)]

    alone, together = ranking(*fivefold).aurc, ranking(*fivefold, pages).aurc

    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_a_step_of_the_curve_answers_whole_ties() -> None:
    table = steps([0.9] * 4 + [0.5] * 6, [1.0] * 4 + [0.0] * 6)

    assert [(one.threshold, one.answered.hits) for one in table] == [(0.5, 10), (0.9, 4)]
    assert [one.right.value for one in table] == [0.4, 1.0]


@given(st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), min_size=1, max_size=300))
def test_bins_hold_every_answer_once_and_never_part_equals(sure: list[float]) -> None:
    bins = reliability(sure, [1.0] * len(sure))

    assert sum(one.n for one in bins) == len(sure)
    assert all(before.high < after.low for before, after in pairwise(bins))
    assert len(bins) == 1 or all(one.n >= BIN for one in bins)


def test_a_confidence_that_is_what_it_says_has_a_small_error_and_one_that_boasts_a_large_one() -> None:
    draw = np.random.default_rng(3)
    sure = draw.random(2000)
    right = (draw.random(2000) < sure).astype(float).tolist()

    honest = calibration_error(reliability(sure.tolist(), right))
    boasting = calibration_error(reliability((0.8 + 0.2 * sure).tolist(), right))

    assert honest < 0.05
    assert boasting == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize(
    ("sure", "right", "expected"),
    [
        ([0.9, 0.8, 0.4, 0.2], [1, 1, 0, 1], 0.8),  # the wrong one costs what three right ones bring
        ([0.9, 0.9, 0.2], [1, 0, 1], math.inf),  # of equals both or none, and one right does not pay for one wrong
        ([0.9, 0.8], [1, 1], 0.8),
        ([0.9, 0.8], [0, 0], math.inf),
        ([0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 1, 1, 1], 0.5),  # ends even: of equals the lowest
    ],
)
def test_the_threshold_is_where_answering_brings_most(sure: list[float], right: list[float], expected: float) -> None:
    assert best_threshold(sure, right, Stakes(right=1, wrong=3)) == expected


def test_when_passing_on_is_dear_more_is_answered() -> None:
    sure, right = [0.9, 0.8, 0.7, 0.6], [1, 1, 0, 0]

    thresholds = [best_threshold(sure, right, Stakes(right=1, wrong=3, passed_on=cost)) for cost in (0, 2, 4)]

    assert thresholds == [0.8, 0.8, 0.6]


def test_a_confidence_that_knows_turns_a_loss_into_a_gain() -> None:
    draw = np.random.default_rng(4)
    sure = draw.random(600)
    right = (draw.random(600) < sure).astype(float)

    found = policy(sure.tolist(), right.tolist(), GUIDE)

    assert found is not None
    assert found.threshold == pytest.approx(GUIDE.sure_enough, abs=0.1)
    assert found.everything.high < 0 < found.net.value
    assert found.gain.p < 0.001


def test_a_threshold_does_not_flatter_itself() -> None:
    """A confidence that says nothing, at stakes at which answering breaks even: chosen and judged on the same questions
    it would always bring something; on others it brings nothing."""
    stakes, draw = Stakes(right=1, wrong=1), np.random.default_rng(5)
    flattered, honest = [], []
    for _ in range(150):
        sure, right = draw.random(60), (draw.random(60) < 0.5).astype(float)
        threshold = best_threshold(sure, right, stakes)
        flattered.append(np.where(sure >= threshold, 2 * right - 1, 0).mean())
        found = policy(sure.tolist(), right.tolist(), stakes)
        assert found is not None
        honest.append(found.net.value)

    assert np.mean(flattered) > 0.08
    assert abs(np.mean(honest)) < 3 * np.std(honest) / math.sqrt(150)


def test_one_cluster_can_choose_nothing_for_another() -> None:
    assert policy([0.5, 0.6], [1.0, 0.0], GUIDE, ["page", "page"]) is None


def test_the_guides_own_figures() -> None:
    # Of 1,000 cases 815 solved at $20 = 16,300; 185 failed: 7,030 + 9,250 = 16,280; net +$20.
    assert 1000 * GUIDE.net(0.815) == pytest.approx(20)
    assert 1000 * GUIDE.net(0.815) == pytest.approx(815 * 20 - (175.75 * 40 + 9.25 * 1000))
    assert GUIDE.break_even == pytest.approx(88 / 108)
    assert "answers pay from 81.5% right ones on" in next(break_even(GUIDE))


def test_passing_on_for_nothing_leaves_the_break_even_and_at_the_cost_of_an_error_everything_is_answered() -> None:
    assert Stakes(right=20, wrong=88).sure_enough == GUIDE.break_even
    assert replace(GUIDE, passed_on=88).sure_enough == 0
    assert replace(GUIDE, passed_on=200).sure_enough == 0


def test_the_calculator_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worth", "--right", "20", "--wrong", "88", "--passed-on", "8"]) == 0
    assert main(["worth", "--right", "20"]) == 1

    said = capsys.readouterr()
    assert "81.5%" in said.out
    assert "at least 74.1%" in said.out
    assert "--right 20 --wrong 88" in said.err


GRID = grid_of(["base", "tuned"], ["none", "dense"], ["vote"], "base:none:vote")


def stating(sure_of: str, stakes: Stakes | None = GUIDE, skipped: str = "") -> Results:
    """A run in which `tuned` states a confidence: the truth with some noise, noise alone, or the contrary."""
    results = simulate(GRID, lambda cell, part: 0.7, 200, 0)
    draw = np.random.default_rng(6)

    def noted(right: float) -> dict[str, float]:
        noise = draw.random()
        return {NOTE: {"knows": 0.5 * right + 0.5 * noise, "guesses": noise, "misleads": 1 - right}[sure_of]}

    records = {
        cell: {
            item: replace(one, notes=noted(one.scores["exact"])) if cell.adapter == "tuned" and item != skipped else one
            for item, one in found.items()
        }
        for cell, found in results.records.items()
    }
    return replace(
        results, records=records, config=replace(results.config, task=replace(results.config.task, enough=stakes))
    )


def stated_in(results: Results) -> tuple[Stated, ...]:
    return find_stated(results, summarise(results))


@pytest.mark.parametrize(
    ("sure_of", "expected"),
    [
        ("knows", "is right more often where it is surer"),
        ("guesses", "cannot be told from chance"),
        ("misleads", "misleads"),
    ],
)
def test_a_run_says_what_its_confidence_is_worth(sure_of: str, expected: str) -> None:
    found = stated_in(stating(sure_of))

    assert {Combination.parse(one.combination).adapter for one in found} == {"tuned"}
    assert all(expected in " ".join(told(one)) for one in found)


def test_the_policy_is_said_in_one_sentence_with_both_net_values() -> None:
    sentence = list(told(stated_in(stating("knows"))[0]))[1]

    assert sentence.startswith("Answering only where confidence is at least 0.")
    assert "of those right, net value +" in sentence
    assert "for answering all" in sentence


def test_stakes_that_no_answer_meets_pass_everything_on() -> None:
    found = stated_in(stating("guesses", Stakes(right=1, wrong=1000)))[0]

    assert found.policy is not None
    assert found.policy.threshold is None
    assert "No threshold pays: passing everything on brings +0.00" in " ".join(told(found))


def test_without_stakes_there_is_a_curve_and_no_threshold() -> None:
    found = stated_in(stating("knows", None))[0]

    assert found.policy is None
    assert found.curve[-1] == (1.0, pytest.approx(1 - found.ranking.blind))


def test_who_states_it_for_some_answers_only_is_left_out() -> None:
    assert stated_in(stating("knows", skipped="q7")) == ()


def test_each_repeat_is_an_answer_of_its_own() -> None:
    first, cell = stating("knows"), Combination.parse("tuned:none:vote")
    unsure = {item: replace(one, notes={NOTE: 0.0}) for item, one in first.records[cell].items()}
    second = replace(first, records={**first.records, cell: unsure})

    found = next(one for one in stated_in(repeated(first, second)) if one.combination == str(cell))

    assert found.n == 400


def test_the_report_and_its_file_have_it_and_without_a_confidence_neither_does(tmp_path: Path) -> None:
    page = save(analyse(stating("knows")), tmp_path).read_text()
    silent = save(analyse(simulate(GRID, lambda cell, part: 0.7, 30, 0)), tmp_path / "silent").read_text()

    written = json.loads((tmp_path / "confidence.json").read_text())
    assert 'id="confidence"' in page
    assert [one["combination"] for one in written] == [one.combination for one in analyse(stating("knows")).stated]
    assert 'id="confidence"' not in silent
    assert not (tmp_path / "silent" / "confidence.json").exists()


def test_the_stakes_of_the_task_are_those_of_its_run_unless_others_are_typed() -> None:
    results = stating("knows")

    assert stakes_of(None, None, 0, results) == GUIDE
    assert stakes_of(1, 2, 0.5, results) == Stakes(right=1, wrong=2, passed_on=0.5)
