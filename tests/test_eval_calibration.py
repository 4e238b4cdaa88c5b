"""Kappa, corrected rates and Bradley-Terry, held against other programs and against planted truths."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa

from eval.judging.calibration import Calibration, _kappa, calibrate, corrected, kappa
from eval.judging.pairwise import Choice, Contest, bias, standing, strengths
from retrieval.stats import Estimate, Share, wilson


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_kappa_and_its_error_are_those_of_other_programs(ordered: bool, seed: int) -> None:
    draw = np.random.default_rng(seed)
    judges, apart = draw.integers(1, 6, 70), draw.integers(-1, 3, 70)
    people = np.clip(judges + apart, 1, 5)
    said = [(str(one), str(other)) for one, other in zip(judges, people, strict=True)]
    table = np.zeros((5, 5))
    for judge, person in said:
        table[int(judge) - 1, int(person) - 1] += 1
    weights = 1 - np.subtract.outer(range(5), range(5)) ** 2 / 16 if ordered else np.eye(5)

    theirs = cohens_kappa(table, wt="quadratic" if ordered else None)
    scheme = "quadratic" if ordered else None

    assert kappa(said, ordered).value == pytest.approx(cohen_kappa_score(judges, people, weights=scheme), abs=1e-9)
    assert _kappa(table, weights) == pytest.approx((theirs.kappa, theirs.std_kappa), abs=1e-9)


def test_agreement_on_one_thing_alone_tells_nothing() -> None:
    found = calibrate([("yes", "yes")] * 50)

    assert math.isnan(found.kappa.value)
    assert not found.enough


def test_ten_of_ten_leave_a_doubt() -> None:
    found = kappa([("yes", "yes")] * 5 + [("no", "no")] * 5)

    assert found.value == 1.0
    assert found.low < 0.8


@pytest.mark.parametrize(("true", "sensitivity", "specificity"), [(0.9, 0.9, 0.9), (0.3, 0.7, 0.95), (1.0, 0.95, 0.8)])
@pytest.mark.parametrize(("n", "labels"), [(100, 30), (500, 100)])
def test_corrected_rates_hold_the_truth(
    true: float, sensitivity: float, specificity: float, n: int, labels: int
) -> None:
    """300 draws: an interval that held 95 of 100 would be seen below 91.5 in one of 100 tests."""
    draw, held = np.random.default_rng(0), 0
    for _ in range(300):
        said = draw.binomial(n, true * sensitivity + (1 - true) * (1 - specificity))
        known = Calibration(
            labels=2 * labels,
            kappa=Estimate(0, 0, 0),
            sensitivity=Share(int(draw.binomial(labels, sensitivity)), labels),
            specificity=Share(int(draw.binomial(labels, specificity)), labels),
        )
        found = corrected(wilson(said, n), known)
        assert found
        held += found.low <= true <= found.high

    assert held / 300 > 0.915


def test_a_judge_like_a_coin_corrects_nothing() -> None:
    coin = calibrate([(judge, person) for judge in ("yes", "no") for person in ("yes", "no")] * 10)

    assert corrected(wilson(5, 10), coin) is None


def test_a_perfect_judge_with_few_labels_still_leaves_a_doubt() -> None:
    few = calibrate([("yes", "yes")] * 10 + [("no", "no")] * 10)
    found, seen = corrected(wilson(80, 100), few), wilson(80, 100)

    assert found
    assert found.value == pytest.approx(0.8)
    assert found.low < seen.low
    assert found.high > seen.high


@pytest.mark.parametrize("seed", range(4))
def test_bradley_terry_is_the_most_likely_one(seed: int) -> None:
    """By the likelihood itself, handed to a general optimiser."""
    draw, count = np.random.default_rng(seed), 5
    wins = draw.integers(1, 20, (count, count)).astype(float) / 2
    np.fill_diagonal(wins, 0)

    def against(logs: np.ndarray) -> float:
        apart = np.subtract.outer(logs, logs)
        return float((wins * np.log1p(np.exp(-apart))).sum())

    best = np.exp(minimize(against, np.zeros(count), tol=1e-12).x)

    assert strengths(wins) == pytest.approx(best / best.sum(), abs=1e-5)


def contests(chances: list[float], questions: int, seed: int, first: float = 0.0) -> list[Contest]:
    """Verdicts by planted strengths; with the chance `first` a judge only looks at the place."""
    draw, found = np.random.default_rng(seed), []
    for question in range(questions):
        for one, other in combinations(range(len(chances)), 2):
            wins = draw.random() < chances[one] / (chances[one] + chances[other])
            said: tuple[Choice, Choice] = ("A", "B") if wins else ("B", "A")
            said = ("A", "A") if draw.random() < first else said
            found.append(Contest(one=one, other=other, cluster=f"q{question}", first=said[0], second=said[1]))
    return found


def test_planted_strengths_come_back_within_their_intervals() -> None:
    chances, held = [1.0, 2.0, 4.0], 0
    truth = [sum(a / (a + b) for b in chances if b != a) / 2 for a in chances]
    for seed in range(20):
        held += sum(
            one.low <= true <= one.high
            for one, true in zip(standing(3, contests(chances, 60, seed)), truth, strict=True)
        )

    assert held >= 50  # of 60; 95 in 100 would be 57


def test_one_who_never_loses_has_a_finite_strength() -> None:
    always = [Contest(one=0, other=1, cluster=f"q{n}", first="A", second="B") for n in range(10)]

    best, worst = standing(2, always)

    assert best.value == pytest.approx(10.5 / 11)
    assert best.value + worst.value == pytest.approx(1)
    assert best.low < 0.85
    assert best.high < 1


def test_a_judge_that_looks_at_the_place_is_found_out() -> None:
    found = bias(contests([1.0, 1.0], 400, seed=1, first=0.5))

    assert found.flipped.low < 0.5 < found.flipped.high
    assert found.first.low < 0.75 < found.first.high


def test_equal_texts_say_nothing_about_a_bias() -> None:
    same = Contest(one=0, other=1, cluster="q", first="tie", second="tie", same=True)

    assert math.isnan(bias([same]).flipped.value)
