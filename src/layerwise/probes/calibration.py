"""Probabilities for probes that only have decision values: Platt's sigmoid, fitted on out-of-fold scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from layerwise.errors import UserError

STEPS = 100


@dataclass(frozen=True)
class Platt:
    """``P(class | decision value) = sigmoid(slope · value + intercept)``, one sigmoid for two classes, one a class for more."""

    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """``(n, C)`` probabilities of ``(n, C or 1)`` decision values; those of more than two classes are scaled to sum to 1."""
        values = expit(_columns(scores) * np.array(self.slopes) + np.array(self.intercepts))
        if values.shape[1] == 1:
            return np.concatenate([1 - values, values], axis=1)
        # All sigmoids can underflow together; then nothing is known.
        total = values.sum(1, keepdims=True)
        return np.where(total > 0, values / np.where(total > 0, total, 1), 1 / values.shape[1])


def _columns(scores: np.ndarray) -> np.ndarray:
    """``(n, 1)`` for two classes, else ``(n, C)``."""
    scores = np.asarray(scores, dtype=np.float64)
    scores = scores[:, None] if scores.ndim == 1 else scores
    return scores[:, 1:] - scores[:, :1] if scores.shape[1] == 2 else scores


def fit_platt(y: np.ndarray, scores: np.ndarray) -> Platt:
    """Fits Platt's sigmoids (Platt 1999, with his smoothed targets, so that separable scores stay finite).

    Args:
        y: ``(n,)`` class ids of items the scores were not fitted on.
        scores: ``(n,)`` or ``(n, 1)`` decision values of two classes, or ``(n, C)``.

    Raises:
        UserError: with labels of one class only.
    """
    return _fit(np.asarray(y), _columns(scores), np.ones((1, len(y))))[0]


def cross_fitted_probabilities(y: np.ndarray, scores: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """``(n, C)`` probabilities of out-of-fold decision values, each fold's by sigmoids fitted on the other folds.

    Args:
        scores: ``(n,)`` or ``(n, C or 1)`` out-of-fold decision values.
        folds: ``(n,)`` fold of each item.
    """
    ids = np.unique(folds)
    columns = _columns(scores)
    fitted = _fit(np.asarray(y), columns, (folds != ids[:, None]).astype(np.float64))
    probabilities = np.empty((len(columns), max(columns.shape[1], 2)))
    for fold, platt in zip(ids, fitted, strict=True):
        probabilities[folds == fold] = platt.probabilities(columns[folds == fold])
    return probabilities


def _fit(y: np.ndarray, columns: np.ndarray, weights: np.ndarray) -> list[Platt]:
    """A Platt for each row of ``weights (B, n)``."""
    if len(np.unique(y)) < 2:
        raise UserError(
            f"probabilities need labels of two classes to be calibrated on, got one class in {len(y)} items."
        )
    truths = [y == 1] if columns.shape[1] == 1 else [y == k for k in range(columns.shape[1])]
    fits = np.stack([_sigmoids(columns[:, k], truth, weights) for k, truth in enumerate(truths)])
    return [Platt(tuple(fits[:, b, 0].tolist()), tuple(fits[:, b, 1].tolist())) for b in range(len(weights))]


def _sigmoids(values: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``(B, 2)`` slope and intercept of the sigmoid fitted under each row of weights, by damped Newton steps."""
    positives, negatives = weights @ truth, weights @ ~truth
    target = np.where(truth, ((positives + 1) / (positives + 2))[:, None], (1 / (negatives + 2))[:, None])
    centre, scale = values.mean(), values.std()
    design = np.stack([(values - centre) / (scale if scale > 0 else 1.0), np.ones(len(values))])
    parameters = np.stack([np.zeros(len(weights)), np.log((positives + 1) / (negatives + 1))], axis=1)

    def loss(parameters: np.ndarray) -> np.ndarray:
        logits = parameters @ design
        return (weights * (np.logaddexp(0, logits) - target * logits)).sum(1)

    current = loss(parameters)
    for _ in range(STEPS):
        probability = expit(parameters @ design)
        gradient = (weights * (probability - target)) @ design.T
        curvature = np.einsum("bn,in,jn->bij", weights * probability * (1 - probability), design, design)
        step = np.linalg.solve(curvature + 1e-10 * np.eye(2), gradient[:, :, None])[:, :, 0]
        length = np.ones((len(weights), 1))
        for _ in range(30):
            worse = loss(parameters - length * step) > current
            if not worse.any():
                break
            length[worse] /= 2
        parameters = np.where(worse[:, None], parameters, parameters - length * step)
        current = loss(parameters)
        if np.abs(gradient).max() < 1e-8 * weights.sum(1).max():
            break
    slope = parameters[:, 0] / (scale if scale > 0 else 1.0)
    return np.stack([slope, parameters[:, 1] - slope * centre], axis=1)
