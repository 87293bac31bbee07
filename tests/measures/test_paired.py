from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from layerwise.errors import UserError
from layerwise.measures.paired import (
    agreement_rate,
    cohen_d,
    cohen_h,
    cohen_kappa,
    compare_paired,
    newcombe_interval,
    sign_permutation_p,
)


def answers(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    counts = (both, only_a, only_b, neither)
    return np.repeat([1.0, 1.0, 0.0, 0.0], counts), np.repeat([1.0, 0.0, 1.0, 0.0], counts)


def test_shares_are_compared_by_mcnemar_exactly():
    a, b = answers(20, 12, 2, 16)
    found = compare_paired(a, b)
    assert found.p == pytest.approx(stats.binomtest(2, 14).pvalue)
    assert (found.only_a, found.only_b, found.n, found.test) == (12, 2, 50, "exact McNemar")
    assert found.difference == pytest.approx(-0.2)
    assert found.effect == pytest.approx(2 * np.arcsin(np.sqrt(0.44)) - 2 * np.arcsin(np.sqrt(0.64)))
    assert found.effect_name == "Cohen's h"


@pytest.mark.parametrize(
    ("pattern", "bounds"),
    [
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        ((20, 12, 2, 16), (0.0562, 0.3292)),
        ((35, 14, 0, 1), (0.1461, 0.4175)),
        ((18, 14, 0, 18), (0.1441, 0.3963)),
        ((2, 97, 1, 0), (0.8721, 0.9854)),
    ],
)
def test_newcombe_gives_the_published_interval(pattern: tuple[int, int, int, int], bounds: tuple[float, float]) -> None:
    """Newcombe 1998, Statistics in Medicine 17:2635, table III, method 10."""
    b, a = answers(*pattern)
    found = newcombe_interval(a, b)
    assert (found.low, found.high) == pytest.approx(bounds, abs=6e-5)


def test_newcombe_stays_inside_and_covers():
    for pattern in ((10, 0, 0, 0), (0, 0, 0, 10), (0, 10, 0, 0), (0, 0, 10, 0), (3, 1, 0, 0)):
        found = newcombe_interval(*answers(*pattern))
        assert -1 <= found.low <= found.estimate <= found.high <= 1
        assert found.low < found.high
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        common = rng.random(60) < 0.5
        a = np.where(common, rng.random(60) < 0.9, rng.random(60) < 0.5).astype(float)
        b = np.where(common, rng.random(60) < 0.8, rng.random(60) < 0.3).astype(float)
        interval = newcombe_interval(a, b)
        hits += interval.low <= -0.15 <= interval.high
    assert 0.935 <= hits / 1000 <= 0.975


def test_permutation_agrees_with_scipy():
    rng = np.random.default_rng(1)
    few = rng.normal(0.4, 1, 11)
    exact = stats.permutation_test((few,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_permutation_p(few) == pytest.approx(exact.pvalue)
    many = rng.normal(0.15, 1, 100)
    drawn = stats.permutation_test((many,), np.mean, permutation_type="samples", n_resamples=20_000, rng=2)
    assert sign_permutation_p(many) == pytest.approx(drawn.pvalue, abs=0.01)
    assert sign_permutation_p(many) == sign_permutation_p(many)


def test_permutation_of_groups_turns_whole_groups():
    values, groups = np.array([1.0, 2.0, -1.0, 3.0, 0.5, 0.5]), np.array(["x", "x", "y", "y", "z", "z"])
    sums = np.array([3.0, 2.0, 1.0])
    every = [abs(np.dot(signs, sums)) for signs in product((-1, 1), repeat=3)]
    assert sign_permutation_p(values, groups) == pytest.approx(np.mean(np.array(every) >= 6))


def test_permutation_of_nothing_different_is_one_and_of_nothing_is_unknown():
    assert sign_permutation_p(np.zeros(5)) == 1.0
    assert np.isnan(sign_permutation_p(np.full(3, np.nan)))
    assert sign_permutation_p(np.array([0.1, 0.2, -0.3])) == 1.0  # the observed mean is 0 up to rounding


def test_permutation_finds_what_is_not_there_as_rarely_as_it_says():
    rng = np.random.default_rng(3)
    found = [sign_permutation_p(rng.standard_t(3, 25), permutations=999, seed=i) for i in range(400)]
    assert 0.03 <= np.mean(np.array(found) < 0.05) <= 0.075


def test_numbers_are_compared_by_bootstrap_permutation_and_d():
    rng = np.random.default_rng(5)
    a = rng.normal(size=80)
    b = a + rng.normal(0.3, 1, 80)
    found = compare_paired(a, b)
    theirs = stats.bootstrap((b - a,), np.mean, n_resamples=10_000, method="BCa", rng=1).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert found.effect == pytest.approx((b - a).mean() / (b - a).std(ddof=1))
    assert found.test == "sign permutation"
    assert compare_paired(b, a).difference == pytest.approx(-found.difference)


def test_equal_answers_differ_by_nothing():
    same = np.random.default_rng(0).normal(size=30)
    found = compare_paired(same, same)
    assert (found.difference, found.low, found.high, found.p, found.effect) == (0, 0, 0, 1, 0)
    right = (same > 0).astype(float)
    found = compare_paired(right, right)
    assert (found.difference, found.p, found.effect, found.only_a, found.only_b) == (0, 1, 0, 0, 0)
    assert found.low <= 0 <= found.high


def test_items_that_one_lacks_are_left_out_and_groups_are_kept_whole():
    a, b = np.array([1.0, np.nan, 0.0, 1.0]), np.array([1.0, 1.0, np.nan, 0.0])
    assert compare_paired(a, b).n == 2
    assert compare_paired(a[:0], b[:0]).n == 0
    grouped = compare_paired(*answers(4, 4, 0, 4), groups=np.repeat([0, 1, 2], 4))
    assert grouped.test == "sign permutation over groups"
    assert grouped.p == 1.0  # one group of three differs
    with pytest.raises(UserError, match="two values for each item"):
        compare_paired(a, b[:2])


def test_effect_sizes():
    assert cohen_h(0.5, 0.5) == 0
    assert cohen_h(0.25, 0.75) == pytest.approx(np.pi / 3)
    assert cohen_d(np.zeros(4)) == 0
    assert np.isnan(cohen_d(np.full(4, 0.1)))
    assert np.isnan(cohen_d(np.array([1.0])))


def test_kappa_agrees_with_scikit_learn_and_stays_inside():
    rng = np.random.default_rng(0)
    a = rng.choice(["yes", "no", "maybe"], 120)
    b = np.where(rng.random(120) < 0.6, a, rng.choice(["yes", "no", "maybe"], 120))
    found = cohen_kappa(a, b)
    assert found.estimate == pytest.approx(cohen_kappa_score(a, b))
    assert -1 <= found.low < found.estimate < found.high <= 1
    assert cohen_kappa(a, a).estimate == 1
    assert np.isnan(cohen_kappa(np.ones(5), np.ones(5)).estimate)
    assert agreement_rate(a, b).estimate == pytest.approx(np.mean(a == b))
    with pytest.raises(UserError, match="kappa needs"):
        cohen_kappa(a, b[:3])
