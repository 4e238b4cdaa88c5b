"""The formulas against published implementations, and against chance itself."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from retrieval.stats import Estimate, bonett_price, holm, mcnemar, mean, paired, quantile, sign_flip, t_interval, wilson

values = st.lists(st.floats(-5, 5).map(lambda x: round(x, 3)), min_size=2, max_size=30)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_statsmodels(case: tuple[int, int]) -> None:
    successes, n = case

    ours = wilson(successes, n)

    assert (ours.low, ours.high) == pytest.approx(proportion_confint(successes, n, method="wilson"), abs=1e-12)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_statsmodels(gained: int, lost: int) -> None:
    theirs = their_mcnemar([[7, gained], [lost, 9]], exact=True).pvalue

    assert mcnemar(gained, lost) == pytest.approx(theirs)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


@given(values)
def test_the_t_interval_is_scipys(sample: list[float]) -> None:
    if np.ptp(sample) < 1e-3:
        return
    theirs = scipy_stats.ttest_1samp(sample, 0).confidence_interval(0.95)

    ours = t_interval(sample)

    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


@given(values, st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))
def test_quantiles_are_type_7(sample: list[float], share: float) -> None:
    ordered = sorted(sample)
    place = (len(ordered) - 1) * share
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)

    assert quantile(sample, share) == pytest.approx(ordered[low] + (place - low) * (ordered[high] - ordered[low]))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from([-1.0, -0.5, 0.25, 0.5, 1.0]), min_size=3, max_size=9))
def test_sign_flips_agree_with_trying_all_of_them(differences: list[float]) -> None:
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(differences))).reshape(len(differences), -1)
    sums = np.abs(signs.T @ np.array(differences))
    exact = (sums >= abs(sum(differences)) - 1e-9).mean()

    assert sign_flip(differences) == pytest.approx(exact, abs=0.02)


@given(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 60)))
def test_bonett_price_is_walds_interval_after_one_more_gain_and_one_more_loss(counts: tuple[int, int, int]) -> None:
    gained, lost, same = counts
    differences = np.repeat([1, -1, 0], [gained + 1, lost + 1, same])
    theirs = scipy_stats.norm(differences.mean(), differences.std() / len(differences) ** 0.5).interval(0.95)

    ours = bonett_price(gained, lost, gained + lost + same) if sum(counts) else None

    assert ours is None or (ours.low, ours.high) == pytest.approx((max(-1, theirs[0]), min(1, theirs[1])))


def test_intervals_contain_the_truth_about_as_often_as_they_say() -> None:
    draw = np.random.default_rng(1)
    runs = 3000
    for n, chance in ((20, 0.95), (100, 0.95), (300, 0.5)):
        hits = [_within(wilson(int(k), n), chance) for k in draw.binomial(n, chance, runs)]
        assert 0.92 <= np.mean(hits) <= 0.98, f"Wilson, n={n}, p={chance}"
    for n, up, down in ((30, 0.03, 0.02), (100, 0.03, 0.02), (200, 0.25, 0.1)):
        counts = draw.multinomial(n, [up, down, 1 - up - down], runs)
        hits = [_within(bonett_price(int(g), int(lost), n), up - down) for g, lost, _ in counts]
        assert np.mean(hits) >= 0.94, f"Bonett-Price, n={n}, {up} against {down}"


def test_equal_ways_are_told_apart_in_at_most_one_of_twenty_comparisons() -> None:
    draw = np.random.default_rng(2)
    found = 0
    for _ in range(1000):
        scores = draw.random((2, 60)) < 0.6
        found += paired(scores[0].astype(float).tolist(), scores[1].astype(float).tolist()).p < 0.05

    assert found / 1000 <= 0.06


def test_a_graded_score_is_compared_with_t_and_sign_flips() -> None:
    after, before = [0.5, 0.75, 1.0, 0.8] * 5, [0.25, 0.75, 0.5, 0.6] * 5

    found = paired(after, before)

    assert (found.gained, found.lost, found.n) == (15, 0, 20)
    assert found.estimate == t_interval([a - b for a, b in zip(after, before, strict=True)])
    assert found.p < 0.01


def test_a_mean_of_right_and_wrong_has_wilsons_interval_and_a_graded_one_students() -> None:
    assert mean([1.0, 0.0, 1.0]) == wilson(2, 3)
    assert mean([0.4, 0.5, 0.6]) == t_interval([0.4, 0.5, 0.6])
    assert mean([0.5, 0.0, 1.0]) == Estimate(0.5, 0.0, 1.0), "no mean of shares lies further out"
    assert math.isnan(mean([]).value)


def _within(estimate: object, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high  # type: ignore[attr-defined]
