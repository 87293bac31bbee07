"""Two sets of answers to the same items: how far apart, how sure that is, and how large.

What is general of these (bootstrap, McNemar, Holm, Wilson) is in :mod:`layerwise.measures.statistics`; here it is put together
for pairs, beside the tests and effect sizes that only pairs have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layerwise.errors import UserError
from layerwise.measures.statistics import (
    Comparison,
    Interval,
    bootstrap,
    mcnemar_p,
    paired_bootstrap,
    wilson_interval,
)

EXACT_UP_TO = 14  # pairs that differ: 2^14 sign patterns are fewer than it takes to estimate a small p-value well
PERMUTATIONS = 20_000
SIGNS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class PairedResult:
    """The mean of one column of values less that of another, over the same items.

    n: items on which both are defined. difference, low, high: mean of ``b - a`` and its interval. p: two-sided, by ``test``.
    effect: Cohen's h where both are shares, else d of the differences; ``effect_name`` says which.
    only_a, only_b: of yes-or-no values, on how many items a alone and b alone says yes.
    """

    n: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p: float
    test: str
    effect: float
    effect_name: str
    only_a: int | None = None
    only_b: int | None = None


def compare_paired(
    a: np.ndarray,
    b: np.ndarray,
    groups: np.ndarray | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedResult:
    """Whether ``b`` is above or below ``a`` on the same items, item by item.

    Of independent yes-or-no values: McNemar's exact test, Newcombe's interval, Cohen's h. Of others: the permutation test of
    signs (exact for few), the BCa bootstrap, Cohen's d of the differences. Over whole groups where items of one belong together.

    Args:
        a, b: ``(n,)`` values of the two, bool or float; items where either is NaN are left out.
        groups: ``(n,)`` group of each item, or None.
    """
    a, b, groups = _both(a, b, groups)
    n = len(a)
    if n == 0:
        nan = np.nan
        return PairedResult(0, nan, nan, nan, nan, nan, nan, "none: no item has both", nan, "none")
    mean_a, mean_b = float(a.mean()), float(b.mean())
    if is_binary(a, b):
        only_a, only_b = int(np.sum((a == 1) & (b == 0))), int(np.sum((a == 0) & (b == 1)))
        h = cohen_h(mean_a, mean_b)
        interval: Interval | Comparison
        if groups is None:
            interval = newcombe_interval(a, b, level)
            p, test = mcnemar_p(a == 1, b == 1), "exact McNemar"
        else:
            interval = _mean_bootstrap(b - a, groups, resamples, level, seed)
            p, test = sign_permutation_p(b - a, groups, seed=seed), "sign permutation over groups"
        low, high = max(interval.low, -1.0), min(interval.high, 1.0)
        return PairedResult(n, mean_a, mean_b, mean_b - mean_a, low, high, p, test, h, "Cohen's h", only_a, only_b)
    drawn = _mean_bootstrap(b - a, groups, resamples, level, seed)
    test = "sign permutation" if groups is None else "sign permutation over groups"
    p = sign_permutation_p(b - a, groups, seed=seed)
    return PairedResult(n, mean_a, mean_b, mean_b - mean_a, drawn.low, drawn.high, p, test, cohen_d(b - a), "Cohen's d")


def _both(a: np.ndarray, b: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise UserError(f"a paired comparison needs two values for each item, got shapes {a.shape} and {b.shape}.")
    there = ~(np.isnan(a) | np.isnan(b))
    return a[there], b[there], None if groups is None else np.asarray(groups)[there]


def is_binary(*values: np.ndarray) -> bool:
    """Whether all values are 0 or 1."""
    return all(bool(np.isin(value, (0.0, 1.0)).all()) for value in values)


def _mean_bootstrap(
    values: np.ndarray, groups: np.ndarray | None, resamples: int, level: float, seed: int
) -> Comparison:
    def mean(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"mean": weights @ values / weights.sum(1)}

    return paired_bootstrap(mean, len(values), groups, resamples, level, seed)["mean"]


def sign_permutation_p(
    differences: np.ndarray, groups: np.ndarray | None = None, permutations: int = PERMUTATIONS, seed: int = 0
) -> float:
    """Two-sided p-value that the two of each pair are exchangeable: how often random signs give as large a mean (Fisher 1935).

    All sign patterns where at most ``EXACT_UP_TO`` items (groups) differ, else random ones, among which the observed one counts
    (Phipson & Smyth 2010). The items of a group change sign together.

    Args:
        differences: ``(n,)`` of the pairs; NaN entries are left out.
    """
    values = np.asarray(differences, dtype=np.float64)
    there = ~np.isnan(values)
    if groups is not None:
        unit = np.unique(np.asarray(groups)[there], return_inverse=True)[1].ravel()
        values = np.bincount(unit, weights=values[there]).astype(np.float64)
    else:
        values = values[there]
    values = values[values != 0]
    if len(values) == 0:
        return 1.0 if there.any() else np.nan
    observed = abs(values.sum())
    # Rounding alone must not make a pattern that equals the observed one look smaller.
    threshold = observed - 1e-12 * np.abs(values).sum()
    n = len(values)
    if n <= EXACT_UP_TO:
        every = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(np.mean(np.abs(every @ values) >= threshold))
    rng = np.random.default_rng(seed)
    as_large, step = 0, max(1, SIGNS_AT_ONCE // n)
    for start in range(0, permutations, step):
        drawn = rng.integers(0, 2, size=(min(step, permutations - start), n), dtype=np.int8)
        as_large += int(np.sum(np.abs((2.0 * drawn - 1) @ values) >= threshold))
    return (1 + as_large) / (1 + permutations)


def newcombe_interval(a: np.ndarray, b: np.ndarray, level: float = 0.95) -> Interval:
    """Interval of the difference ``b - a`` of two paired shares that stays inside [-1, 1] (Newcombe 1998, method 10).

    It is put together from the Wilson intervals of the two, and narrowed by their correlation.

    Args:
        a, b: ``(n,)`` 0 or 1, the same items.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    n = len(a)
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, level)
    both, only_a, only_b = float(np.sum(a * b)), float(np.sum(a * (1 - b))), float(np.sum((1 - a) * b))
    neither = n - both - only_a - only_b
    one, other = wilson_interval(both + only_a, n, level), wilson_interval(both + only_b, n, level)
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    cross = both * neither - only_a * only_b
    cross = max(cross - n / 2, 0.0) if cross > 0 else cross
    phi = cross / np.sqrt(margins) if margins > 0 else 0.0
    difference = other.estimate - one.estimate

    def half(first: float, second: float) -> float:
        return float(np.sqrt(max(first**2 - 2 * phi * first * second + second**2, 0.0)))

    below = half(other.estimate - other.low, one.high - one.estimate)
    above = half(other.high - other.estimate, one.estimate - one.low)
    return Interval(difference, max(difference - below, -1.0), min(difference + above, 1.0), level)


def cohen_h(share_a: float, share_b: float) -> float:
    """Effect size of two shares, ``2 asin √b − 2 asin √a``: .2 is small, .5 medium, .8 large (Cohen 1988)."""
    return float(2 * np.arcsin(np.sqrt(share_b)) - 2 * np.arcsin(np.sqrt(share_a)))


def cohen_d(differences: np.ndarray) -> float:
    """Effect size of paired differences, their mean over their standard deviation (Cohen 1988, d_z); 0 where all are 0.

    NaN for fewer than two differences, or where all are one number that is not 0.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return np.nan
    spread = float(values.std(ddof=1))
    if spread <= 1e-12 * np.abs(values).max():
        return 0.0 if not values.any() else np.nan
    return float(values.mean() / spread)


def agreement_rate(a: np.ndarray, b: np.ndarray, level: float = 0.95) -> Interval:
    """Share of items on which two answers are the same, with Wilson's interval."""
    same = np.asarray(a) == np.asarray(b)
    return wilson_interval(float(same.sum()), len(same), level)


def cohen_kappa(a: np.ndarray, b: np.ndarray, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Agreement of two answers beyond what their own frequencies give by chance (Cohen 1960), with a bootstrap interval in [-1, 1].

    1 is full agreement, 0 that of chance. NaN where both give one and the same answer to every item: chance then agrees fully.

    Args:
        a, b: ``(n,)`` answers of any comparable type; missing ones are to be left out before.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 1:
        raise UserError(f"kappa needs two answers for each item, got shapes {a.shape} and {b.shape}.")
    if len(a) == 0:
        return Interval(np.nan, np.nan, np.nan, level)
    answers = np.unique(np.concatenate([a, b]))
    is_a, is_b = (a[:, None] == answers).astype(np.float64), (b[:, None] == answers).astype(np.float64)
    same = (a == b).astype(np.float64)

    def kappa(weights: np.ndarray) -> dict[str, np.ndarray]:
        total = weights.sum(1)
        by_chance = ((weights @ is_a) * (weights @ is_b)).sum(1) / total**2
        with np.errstate(divide="ignore", invalid="ignore"):
            return {"kappa": np.where(by_chance < 1, (weights @ same / total - by_chance) / (1 - by_chance), np.nan)}

    found = bootstrap(kappa, len(a), resamples=resamples, level=level, seed=seed)["kappa"]
    return Interval(found.estimate, max(found.low, -1.0), min(found.high, 1.0), level)
