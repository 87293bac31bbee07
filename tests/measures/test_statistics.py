from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats

from layerwise.measures.similarity import cosine
from layerwise.measures.statistics import (
    benjamini_hochberg,
    bootstrap,
    corrected_t_interval,
    corrected_t_test,
    holm,
    mcnemar_p,
    paired_bootstrap,
    permutation_p,
    wilson_interval,
)


def mean_of(values: np.ndarray):
    return lambda weights: {"mean": weights @ values / weights.sum(1)}


def test_bootstrap_agrees_with_scipy_bca():
    values = np.random.default_rng(0).exponential(size=150)
    ours = bootstrap(mean_of(values), len(values), resamples=20_000)["mean"]
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    assert ours.estimate == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    """Accuracy of 200 items that are right with probability 0.8, 300 times."""
    rng = np.random.default_rng(7)
    hits = 0
    for trial in range(300):
        interval = bootstrap(mean_of((rng.random(200) < 0.8).astype(float)), 200, resamples=1000, seed=trial)["mean"]
        hits += interval.low <= 0.8 <= interval.high
    assert 0.92 <= hits / 300 <= 0.97


@pytest.mark.parametrize("groups", [4, 6, 10])
def test_bootstrap_covers_the_truth_with_few_groups_too(groups):
    """Accuracy of groups of 24 items, 500 times; plain percentile bounds would hold .5 in 84, 87 and 91 % of them."""
    rng = np.random.default_rng(groups)
    hits = rng.binomial(24, 0.5, size=(500, groups)) / 24
    found = [bootstrap(mean_of(row), groups, resamples=1000, seed=trial)["mean"] for trial, row in enumerate(hits)]
    assert 0.925 <= np.mean([one.low <= 0.5 <= one.high for one in found]) <= 0.975


def test_paired_bootstrap_of_few_groups_finds_what_is_not_there_as_rarely_as_it_says():
    rng = np.random.default_rng(4)
    found = [paired_bootstrap(mean_of(rng.normal(size=5)), 5, resamples=1000)["mean"] for _ in range(400)]
    assert 0.02 <= np.mean([one.p < 0.05 for one in found]) <= 0.08
    assert all((one.p < 0.05) == (one.low > 0 or one.high < 0) for one in found)


def test_clusters_of_equal_items_count_once():
    """Ten copies of each item carry no more information than one: the interval must not shrink."""
    rng = np.random.default_rng(3)
    single = rng.normal(size=60)
    copies, groups = np.repeat(single, 10), np.repeat(np.arange(60), 10)
    alone = bootstrap(mean_of(single), 60)["mean"]
    clustered = bootstrap(mean_of(copies), 600, groups=groups)["mean"]
    naive = bootstrap(mean_of(copies), 600)["mean"]
    assert clustered.high - clustered.low == pytest.approx(alone.high - alone.low, rel=0.05)
    assert naive.high - naive.low < 0.5 * (alone.high - alone.low)


def test_clustered_bootstrap_covers_correlated_items():
    rng = np.random.default_rng(11)
    groups = np.repeat(np.arange(50), 6)
    hits = 0
    for trial in range(300):
        values = np.repeat(rng.normal(size=50), 6) + 0.3 * rng.normal(size=300)
        interval = bootstrap(mean_of(values), 300, groups=groups, resamples=1000, seed=trial)["mean"]
        hits += interval.low <= 0 <= interval.high
    assert 0.915 <= hits / 300 <= 0.975


def test_bootstrap_repeats_itself_and_follows_its_seed():
    values = np.random.default_rng(0).normal(size=80)
    assert bootstrap(mean_of(values), 80, seed=4) == bootstrap(mean_of(values), 80, seed=4)
    assert bootstrap(mean_of(values), 80, seed=4) != bootstrap(mean_of(values), 80, seed=5)


def test_bootstrap_in_chunks_is_as_good(monkeypatch):
    values = np.random.default_rng(0).normal(size=100)
    whole = bootstrap(mean_of(values), 100, resamples=4000)["mean"]
    monkeypatch.setattr("layerwise.measures.statistics.WEIGHTS_AT_ONCE", 100 * 64)
    chunked = bootstrap(mean_of(values), 100, resamples=4000)["mean"]
    assert (chunked.low, chunked.high) == pytest.approx((whole.low, whole.high), abs=0.02)


def test_one_item_or_one_group_gives_no_interval():
    interval = bootstrap(mean_of(np.ones(5)), 5, groups=np.zeros(5))["mean"]
    assert interval.estimate == 1
    assert np.isnan([interval.low, interval.high]).all()


def test_bootstrap_of_a_mostly_undefined_statistic_is_undefined():
    def rare(weights):
        return {"x": np.where(weights[:, 0] > 2, 1.0, np.nan)}

    assert np.isnan(bootstrap(rare, 20)["x"].low)


def test_bootstrap_speed():
    values = (np.random.default_rng(0).random(1000) < 0.8).astype(float)
    bootstrap(mean_of(values), 1000)
    times = []
    for seed in range(5):
        start = time.perf_counter()
        bootstrap(mean_of(values), 1000, seed=seed)
        times.append(time.perf_counter() - start)
    # 40 ms on an idle core; the bound leaves room for a busy machine.
    assert min(times) < 0.5


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 17), (80, 100)])
def test_wilson_is_scipys(k, n):
    theirs = stats.binomtest(k, n).proportion_ci(method="wilson")
    ours = wilson_interval(k, n)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_corrected_t_closed_form():
    values = np.array([0.7, 0.8, 0.75, 0.9, 0.85])
    half = stats.t.ppf(0.975, 4) * values.std(ddof=1) * np.sqrt(1 / 5 + 1 / 4)
    interval = corrected_t_interval(values, 1 / 4)
    assert interval.low == pytest.approx(values.mean() - half)
    assert interval.high == pytest.approx(values.mean() + half)


def test_corrected_t_without_overlap_is_the_ordinary_one():
    values = np.random.default_rng(0).normal(size=12)
    ordinary = stats.ttest_1samp(values, 0).confidence_interval()
    ours = corrected_t_interval(values, 0)
    assert (ours.low, ours.high) == pytest.approx((ordinary.low, ordinary.high))


def test_corrected_t_leaves_undefined_folds_out():
    full, holes = np.array([1.0, 2.0, 3.0]), np.array([1.0, np.nan, 2.0, 3.0])
    assert corrected_t_interval(holes, 0.25) == corrected_t_interval(full, 0.25)
    assert np.isnan(corrected_t_interval(np.array([1.0]), 0.25).low)
    assert np.isnan(corrected_t_interval(np.array([np.nan]), 0.25).estimate)


def test_permutation_p_counts_the_observed_and_ties():
    null = np.array([0.5, 0.6, 0.7, 0.9])
    assert permutation_p(0.95, null) == pytest.approx(1 / 5)
    assert permutation_p(0.7, null) == pytest.approx(3 / 5)


def test_paired_bootstrap_agrees_with_its_interval_and_with_scipy():
    """p is below 0.05 exactly where the 95 % interval leaves out 0, and that of scipy's bootstrap where nothing is skewed."""
    rng = np.random.default_rng(5)
    for shift in np.linspace(-0.4, 0.4, 17):
        values = rng.normal(shift, 1, size=80)
        found = paired_bootstrap(mean_of(values), 80)["mean"]
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
        assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.05)
        assert found.difference == pytest.approx(values.mean())


def test_paired_bootstrap_finds_what_is_not_there_as_rarely_as_it_says():
    rng = np.random.default_rng(2)
    false = [
        paired_bootstrap(mean_of(rng.exponential(size=60) - 1), 60, resamples=1000)["mean"].p < 0.05 for _ in range(400)
    ]
    assert 0.02 <= np.mean(false) <= 0.09


def test_paired_bootstrap_at_its_ends():
    assert paired_bootstrap(mean_of(np.zeros(20)), 20)["mean"].p == 1
    assert paired_bootstrap(mean_of(np.ones(20)), 20, resamples=1000)["mean"].p == pytest.approx(2 / 1001)
    assert np.isnan(paired_bootstrap(mean_of(np.ones(1)), 1)["mean"].p)


def test_paired_bootstrap_draws_groups_whole():
    """Ten copies of each item are no more evidence than one."""
    single = np.random.default_rng(1).normal(0.2, 1, size=40)
    copies = mean_of(np.repeat(single, 10))
    alone = paired_bootstrap(mean_of(single), 40)["mean"].p
    assert paired_bootstrap(copies, 400, groups=np.repeat(np.arange(40), 10))["mean"].p == pytest.approx(
        alone, abs=0.03
    )
    assert paired_bootstrap(copies, 400)["mean"].p < 0.1 * alone


def test_corrected_t_test_is_scipys_without_overlap_and_weaker_with_it():
    values = np.random.default_rng(0).normal(0.5, 1, size=12)
    assert corrected_t_test(values, 0).p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    statistic = values.mean() / np.sqrt((1 / 12 + 1 / 4) * values.var(ddof=1))
    found = corrected_t_test(np.append(values, np.nan), 1 / 4)
    assert found.p == pytest.approx(2 * stats.t.sf(statistic, 11))
    assert found.p > corrected_t_test(values, 0).p
    assert (found.low, found.high) == (
        corrected_t_interval(values, 1 / 4).low,
        corrected_t_interval(values, 1 / 4).high,
    )


def test_corrected_t_test_without_spread():
    assert corrected_t_test(np.zeros(5), 1 / 4).p == 1
    assert np.isnan(corrected_t_test(np.full(5, 0.5), 1 / 4).p)
    assert np.isnan(corrected_t_test(np.array([0.1]), 1 / 4).p)


def test_mcnemar_counts_only_where_they_differ():
    a = np.array([True] * 50 + [True] * 9 + [False] * 2 + [False] * 30)
    b = np.array([True] * 50 + [False] * 9 + [True] * 2 + [False] * 30)
    assert mcnemar_p(a, b) == pytest.approx(stats.binom.cdf(2, 11, 0.5) * 2)
    assert mcnemar_p(a, b) == mcnemar_p(b, a) == mcnemar_p(a[50:61], b[50:61])
    assert mcnemar_p(a, a) == 1


def test_corrections_for_many_tests():
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005])
    np.testing.assert_allclose(
        holm(p), [0.03, 0.06, np.nan, 0.06, 0.02]
    )  # by hand: 4·.005, 3·.01, 2·.03, then never less
    there = ~np.isnan(p)
    np.testing.assert_allclose(benjamini_hochberg(p)[there], stats.false_discovery_control(p[there]))
    assert np.isnan(benjamini_hochberg(p)[2])
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1]
    assert len(holm(np.empty(0))) == 0


def test_corrections_and_mcnemar_give_the_figures_of_statsmodels():
    """statsmodels 0.15.0: multipletests(p, method="holm"), "fdr_bh"; mcnemar([[50, b], [c, 30]], exact=True)."""
    p = np.array([0.0003, 0.041, 0.0119, 0.5, 0.0061, 0.0061, 0.93, 0.027, 0.0125, 0.2])
    held = [0.003, 0.164, 0.0833, 1, 0.0549, 0.0549, 1, 0.135, 0.0833, 0.6]
    np.testing.assert_allclose(holm(p), held)
    found = [0.003, 0.041 / 0.7, 0.025, 0.5 / 0.9, 0.061 / 3, 0.061 / 3, 0.93, 0.045, 0.025, 0.25]
    np.testing.assert_allclose(benjamini_hochberg(p), found)
    for only_a, only_b, expected in ((9, 2, 0.0654296875), (25, 10, 0.016673847800120715), (1, 0, 1), (40, 41, 1)):
        counts = [50, only_a, only_b, 30]
        a, b = np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)
        assert mcnemar_p(a, b) == pytest.approx(expected)


def test_cosine():
    assert cosine(np.array([1.0, 0]), np.array([1.0, 1])) == pytest.approx(np.sqrt(0.5))
    many = cosine(np.eye(3), np.array([0, 2.0, 0]))
    assert many.tolist() == [0, 1, 0]
    assert np.isnan(cosine(np.zeros(2), np.ones(2)))
