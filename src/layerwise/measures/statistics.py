"""Intervals and p-values: how sure a number is. Pure functions of arrays, seeded, vectorised over resamples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 2000
# Few enough that what is computed from them stays in the processor's cache.
WEIGHTS_AT_ONCE = 200_000
JACKKNIFE_BLOCKS = 500

Statistic = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; NaN bounds where the data do not give one."""

    estimate: float
    low: float
    high: float
    level: float = 0.95


def bootstrap(
    statistic: Statistic,
    n: int,
    groups: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Bias-corrected and accelerated bootstrap intervals of everything a statistic returns (Efron 1987).

    Items are drawn with replacement, or whole groups where items of one group are not independent. A resample is
    given to the statistic as how often it holds each item, so one call serves many resamples. Where all resamples agree, or
    bias and acceleration are undefined, the interval is the percentile one.

    Args:
        statistic: from ``(B, n)`` float weights to named ``(B,)`` values; NaN where a resample leaves it undefined.
        n: number of items.
        groups: ``(n,)`` group of each item, or None.

    Returns:
        An interval by name. Its bounds are NaN if fewer than two groups (items) exist or over half of the resamples are undefined.
    """
    unit = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1].ravel()
    units = int(unit.max()) + 1 if n else 0
    estimates = {name: float(values[0]) for name, values in statistic(np.ones((1, n))).items()}
    if units < 2:
        return {name: Interval(value, np.nan, np.nan, level) for name, value in estimates.items()}
    rng = np.random.default_rng(seed)
    step = max(1, WEIGHTS_AT_ONCE // n)
    draws = _gather(statistic, (_spread(_resample(rng, units, b), unit, groups) for b in _sizes(resamples, step)))
    # Leaving out blocks of units in place of single ones gives the same acceleration and bounds the cost.
    block = rng.permutation(units) * min(units, JACKKNIFE_BLOCKS) // units
    kept = 1.0 - np.eye(int(block.max()) + 1)[:, block]
    left_out = _gather(statistic, (_spread(kept[i : i + step], unit, groups) for i in range(0, len(kept), step)))
    return {
        name: Interval(value, *_bca(value, draws[name], left_out[name], level), level)
        for name, value in estimates.items()
    }


def _sizes(total: int, step: int) -> list[int]:
    return [min(step, total - start) for start in range(0, total, step)]


def _resample(rng: np.random.Generator, units: int, b: int) -> np.ndarray:
    """``(b, units)`` how often each unit was drawn in each of b resamples."""
    drawn = rng.integers(0, units, size=(b, units)) + units * np.arange(b)[:, None]
    return np.bincount(drawn.ravel(), minlength=b * units).reshape(b, units).astype(np.float64)


def _spread(weights: np.ndarray, unit: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    return weights if groups is None else weights[:, unit]


def _gather(statistic: Statistic, chunks) -> dict[str, np.ndarray]:  # type: ignore[no-untyped-def]  # a generator of (b, n)
    parts = [statistic(weights) for weights in chunks]
    return {name: np.concatenate([np.asarray(part[name], dtype=np.float64) for part in parts]) for name in parts[0]}


def _bca(estimate: float, draws: np.ndarray, left_out: np.ndarray, level: float) -> tuple[float, float]:
    defined = draws[~np.isnan(draws)]
    if np.isnan(estimate) or 2 * len(defined) < len(draws):
        return np.nan, np.nan
    tail = np.array([(1 - level) / 2, (1 + level) / 2])
    # Ties count half, or a discrete statistic such as accuracy would look biased.
    below = np.mean(defined < estimate) + np.mean(defined == estimate) / 2
    deviation = np.nanmean(left_out) - left_out if not np.isnan(left_out).all() else np.zeros(1)
    spread = np.nansum(deviation**2)
    if 0 < below < 1 and spread > 0:
        bias = stats.norm.ppf(below)
        acceleration = np.nansum(deviation**3) / (6 * spread**1.5)
        z = bias + stats.norm.ppf(tail)
        tail = stats.norm.cdf(bias + z / (1 - acceleration * z))
    low, high = np.quantile(defined, tail)
    return float(low), float(high)


def wilson_interval(successes: float, n: int, level: float = 0.95) -> Interval:
    """Interval of a proportion that stays inside [0, 1] and is not empty at 0 or n successes (Wilson 1927)."""
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, level)
    z = stats.norm.ppf((1 + level) / 2)
    p = successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # Rounding must not put a bound past an estimate of 0 or 1.
    return Interval(p, float(np.clip(centre - half, 0, p)), float(np.clip(centre + half, p, 1)), level)


def corrected_t_interval(values: np.ndarray, test_to_train: float, level: float = 0.95) -> Interval:
    """Interval of a cross-validated mean, its variance corrected for training sets that overlap (Nadeau & Bengio 2003).

    The variance of the mean of J scores is taken as ``(1 / J + test_to_train) * s²`` in place of ``s² / J``, with J − 1
    degrees of freedom; J counts all folds of all repetitions.

    Args:
        values: ``(J,)`` scores of folds, or differences of scores on the same folds; NaN entries are left out.
        test_to_train: size of a test fold over the size of its training part, ``1 / (n_folds - 1)`` in k-fold cross-validation.

    Returns:
        The interval, with NaN bounds where fewer than two scores are defined.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return Interval(np.nan, np.nan, np.nan, level)
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, np.nan, np.nan, level)
    error = np.sqrt((1 / len(values) + test_to_train) * values.var(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * error)
    return Interval(mean, mean - half, mean + half, level)


def permutation_p(observed: float, null: np.ndarray) -> float:
    """Share of permuted scores at least as high as the observed one, which counts as a permutation itself (Phipson & Smyth 2010)."""
    null = np.asarray(null, dtype=np.float64)
    # Rounding alone must not make a permuted score that equals the observed one look lower.
    return float((1 + np.sum(null >= observed - 1e-12)) / (1 + null.size))
