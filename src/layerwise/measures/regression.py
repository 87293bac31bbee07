"""Regression scores as pure functions of arrays, weighted so that many subsets are scored in one call.

``weights (B, n)`` say how often each item counts in each of B resamples or folds; every function returns ``(B,)``.
"""

from __future__ import annotations

import numpy as np


def regression_scores(y: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """mse, mae, r2, pearson and spearman, each ``(B,)``.

    R² is NaN where all targets of a subset are equal, a correlation also where all predictions are.
    """
    total = weights.sum(1)
    error = y - predicted
    mse = weights @ error**2 / total
    _, spread = _centred(y[None], weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(spread > 0, 1 - mse * total / spread, np.nan)
    return {
        "mse": mse,
        "mae": weights @ np.abs(error) / total,
        "r2": r2,
        "pearson": _pearson(y[None], predicted[None], weights),
        "spearman": _pearson(_ranks(y, weights), _ranks(predicted, weights), weights),
    }


def _centred(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``values (1 or B, n)`` less their weighted mean, and the ``(B,)`` weighted sum of squares of what is left."""
    total = weights.sum(1, keepdims=True)
    centred = values - (weights * values).sum(1, keepdims=True) / total
    spread = (weights * centred**2).sum(1)
    # A constant leaves rounding errors, not zeros, after its mean is taken away.
    rounding = (1e-13 * np.abs(values).max()) ** 2 * total[:, 0]
    return centred, np.where(spread > rounding, spread, 0.0)


def _pearson(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Correlation of ``a`` and ``b``, each ``(1 or B, n)``, under each row of weights; NaN where either is constant."""
    (a, spread_a), (b, spread_b) = _centred(a, weights), _centred(b, weights)
    scale = np.sqrt(spread_a) * np.sqrt(spread_b)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(scale > 0, np.clip((weights * a * b).sum(1) / scale, -1, 1), np.nan)


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``(B, n)`` mid-ranks each item has among the weighted items."""
    distinct, position = np.unique(values, return_inverse=True)
    order = np.argsort(position, kind="stable")
    starts = np.searchsorted(position[order], np.arange(len(distinct)))
    held = np.add.reduceat(weights[:, order], starts, axis=1)
    return (np.cumsum(held, axis=1) - held / 2)[:, position]
