"""The formulas against published implementations, and against chance itself."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import normal_power
from statsmodels.stats.proportion import proportion_confint

from retrieval.power import design_effect, items_needed, smallest_difference
from retrieval.resampling import SAMPLES, bca
from retrieval.stats import (
    ALPHA,
    Estimate,
    benjamini_hochberg,
    bonett_price,
    change,
    holm,
    mcnemar,
    mean,
    paired,
    per,
    quantile,
    sign_flip,
    t_interval,
    tied,
    wilson,
)

EXACT = 1e-9
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

    assert mcnemar(gained, lost) == pytest.approx(theirs, abs=EXACT)
    assert sign_flip([1.0] * gained + [-1.0] * lost) == pytest.approx(theirs, abs=EXACT)


@settings(max_examples=8)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_corrections_are_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=EXACT)
    assert benjamini_hochberg(p_values) == pytest.approx(multipletests(p_values, method="fdr_bh")[1], abs=EXACT)


@given(values)
def test_the_t_interval_is_scipys(sample: list[float]) -> None:
    if np.ptp(sample) < 1e-3:
        return
    theirs = scipy_stats.ttest_1samp(sample, 0).confidence_interval(0.95)

    ours = t_interval(sample)

    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=EXACT, abs=EXACT)


placed = st.tuples(st.floats(-1, 1).map(lambda x: round(x, 3)), st.sampled_from("abcde"))


@settings(max_examples=30)
@given(st.lists(placed, min_size=6, max_size=40))
def test_the_clustered_t_interval_is_statsmodels(items: list[tuple[float, str]]) -> None:
    sample, clusters = [value for value, _ in items], [name for _, name in items]
    if len(set(clusters)) < 2 or np.ptp(sample) < 1e-3:
        return
    groups = np.unique(clusters, return_inverse=True)[1]
    model = OLS(sample, np.ones(len(sample)))
    theirs = model.fit(cov_type="cluster", cov_kwds={"groups": groups, "df_correction": True}, use_t=True)

    ours = t_interval(sample, clusters)

    assert (ours.low, ours.high) == pytest.approx(theirs.conf_int(ALPHA)[0], rel=EXACT, abs=EXACT)


@settings(max_examples=40)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=30), st.integers(0, 99))
def test_clusters_of_one_are_no_clusters(scores: list[float], seed: int) -> None:
    draw = np.random.default_rng(seed)
    names, other = [f"d{n}" for n in range(len(scores))], draw.permutation(scores).tolist()
    whole = [float(score > 0.5) for score in scores]

    assert t_interval(scores, names) == t_interval(scores)
    assert mean(scores, names) == mean(scores)
    assert mean(whole, names) == mean(whole)
    assert paired(scores, other, names) == paired(scores, other)
    assert paired(whole, whole[::-1], names) == paired(whole, whole[::-1])


def test_more_of_the_same_tells_nothing_new() -> None:
    after, before = [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    clusters = [*"abcdefgh"] * 5

    once, believed = paired(after, before), paired(after * 5, before * 5)
    copied = paired(after * 5, before * 5, clusters)

    assert copied.p == pytest.approx(once.p, abs=EXACT)
    assert copied.estimate.high - copied.estimate.low >= once.estimate.high - once.estimate.low
    assert believed.estimate.low > 0 > copied.estimate.low
    assert mean(after * 5, clusters).low < wilson(6, 8).low


def test_one_cluster_tells_nothing() -> None:
    assert mean([1.0, 1.0, 0.0], ["a"] * 3) == Estimate(pytest.approx(2 / 3), 0.0, 1.0)
    assert paired([1.0, 0.5], [0.0, 0.0], ["a", "a"]).estimate == Estimate(0.75, -1.0, 1.0)
    assert paired([1.0] * 9, [0.0] * 9, ["a"] * 9).p == 1


def test_a_label_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match="3 values have 2 cluster labels"):
        mean([1.0, 0.0, 1.0], ["a", "b"])


@settings(max_examples=15)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 9)), min_size=5, max_size=40))
def test_the_bootstrap_is_scipys(items: list[tuple[float, float]]) -> None:
    tops, bottoms = np.array(items).T.round(3)
    if np.ptp(tops / bottoms) < 1e-3:
        return
    theirs = scipy_stats.bootstrap(
        (tops, bottoms),
        lambda top, bottom, axis: top.sum(axis=axis) / bottom.sum(axis=axis),
        n_resamples=SAMPLES,
        paired=True,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval

    assert bca(tops, bottoms) == pytest.approx((theirs.low, theirs.high), abs=EXACT)


def test_what_one_right_answer_costs() -> None:
    draw = np.random.default_rng(3)
    right = (draw.random(200) < 0.5).astype(float)
    tokens = draw.gamma(4, 50, 200)

    price = per(tokens.tolist(), right.tolist())

    assert price.value == pytest.approx(tokens.sum() / right.sum())
    assert price.low < price.value < price.high
    assert (1 / price.high, 1 / price.low) == pytest.approx(bca(right, tokens), rel=0.03)
    assert per([10.0] * 20, [0.0] * 20) == Estimate(math.inf, pytest.approx(10 / wilson(0, 20).high), math.inf)


@given(st.integers(5, 2000), st.floats(0.02, 0.9), st.floats(0.05, 0.99), st.integers(1, 47))
def test_the_smallest_difference_has_its_power_in_statsmodels(n: int, spread: float, power: float, tests: int) -> None:
    seen = smallest_difference(n, spread, tests, power)

    theirs = normal_power(seen / spread**0.5, n, ALPHA / (2 * tests), alternative="larger")

    assert theirs == pytest.approx(power, abs=EXACT)
    assert items_needed(seen, spread, tests, power) in (n, n + 1)
    assert design_effect([1] * n, correlation=0.5) == 1


@given(values, st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))
def test_quantiles_are_type_7(sample: list[float], share: float) -> None:
    ordered = sorted(sample)
    place = (len(ordered) - 1) * share
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)

    assert quantile(sample, share) == pytest.approx(ordered[low] + (place - low) * (ordered[high] - ordered[low]))


@settings(max_examples=15)
@given(st.lists(st.sampled_from([-1.0, -0.5, 0.25, 0.5, 1.0]), min_size=3, max_size=9))
def test_sign_flips_agree_with_trying_all_of_them(differences: list[float]) -> None:
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(differences))).reshape(len(differences), -1)
    sums = np.abs(signs.T @ np.array(differences))
    exact = (sums >= abs(sum(differences)) - 1e-9).mean()

    assert sign_flip(differences) == pytest.approx(exact, abs=EXACT)


def test_flips_that_cannot_be_counted_are_drawn() -> None:
    differences = np.random.default_rng(4).normal(0.2, 1, 40).round(5).tolist()
    theirs = scipy_stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(5)
    ).pvalue

    assert sign_flip(differences) == pytest.approx(theirs, abs=0.02)


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
    assert found.estimate.value == pytest.approx(0.2375)
    steadied = t_interval([*[a - b for a, b in zip(after, before, strict=True)], 0.5, -0.5])
    assert (found.estimate.low + found.estimate.high) / 2 == pytest.approx(steadied.value)
    assert found.p < 0.01


def test_rare_changes_do_not_make_an_interval_of_no_width() -> None:
    same = paired([0.4, 0.6] * 10, [0.4, 0.6] * 10)
    once = paired([0.7, 0.6] + [0.4] * 18, [0.4, 0.6] + [0.4] * 18)

    assert same.estimate.low < 0 < same.estimate.high
    assert once.estimate.low < 0.05 < once.estimate.high


def test_an_interaction_may_be_twice_as_large_as_a_change() -> None:
    once, twice = change([0.5, 0.0, -0.5, 1.0]), change([1.0, 0.0, -1.0, 2.0], most=2)

    assert twice.p == once.p
    assert (twice.estimate.value, twice.estimate.low) == (2 * once.estimate.value, 2 * once.estimate.low)


def test_only_what_is_clearly_worse_is_not_tied() -> None:
    best = [1.0] * 30 + [0.0] * 10
    near, far = [1.0] * 28 + [0.0] * 12, [1.0] * 10 + [0.0] * 30

    assert tied(best, [near, far]) == [True, False]
    assert tied(best, [near, far], ["a", "b"] * 20) == [True, True], "two clusters tell nothing apart"


def test_a_mean_of_right_and_wrong_has_wilsons_interval_and_a_graded_one_students() -> None:
    assert mean([1.0, 0.0, 1.0]) == wilson(2, 3)
    assert mean([0.4, 0.5, 0.6]).value == 0.5
    assert mean([0.5, 0.0, 1.0]) == Estimate(0.5, 0.0, 1.0), "no mean of shares lies further out"
    assert mean([1.0] * 18 + [0.5] * 2).low < t_interval([1.0] * 18 + [0.5] * 2).low, "a few items decide the error too"
    assert math.isnan(mean([]).value)


def _within(estimate: object, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high  # type: ignore[attr-defined]
