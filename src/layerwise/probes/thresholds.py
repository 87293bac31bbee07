"""The cut on a two-class probe's belief that does best on validation items, for accuracy and for F1 separately."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layerwise.errors import UserError
from layerwise.measures.classification import count_scores
from layerwise.probes.evaluation import belief, default_threshold


@dataclass(frozen=True)
class Thresholds:
    """Beliefs above which the second class is predicted; finite, so that they can be written as JSON."""

    accuracy: float
    f1: float


def tune_thresholds(y: np.ndarray, scores: np.ndarray) -> Thresholds:
    """The best of all cuts between the scores of validation items (out-of-fold ones as a rule); test items play no part.

    Every distinct rule is tried: below all scores, between any two neighbours, above all. Among equally good cuts the one
    nearest to the default is taken, the default itself where it is among them. Where all scores are equal the choice is to
    predict one class for everything, the one the validation labels favour.

    Args:
        y: ``(n,)`` 0 or 1.
        scores: ``(n,)``, ``(n, 1)`` decision values, or ``(n, 2)`` outputs.

    Returns:
        Thresholds on ``belief(scores)`` for accuracy and macro F1.

    Raises:
        UserError: without items, or with labels of one class only.
    """
    y = np.asarray(y)
    scores = np.asarray(scores, dtype=np.float64).reshape(len(y), -1)
    if len(np.unique(y)) != 2:
        raise UserError(
            f"a threshold needs validation items of two classes, got {len(np.unique(y))} in {len(y)} items."
        )
    default = default_threshold(scores)
    distinct, position = np.unique(belief(scores), return_inverse=True)
    counts = np.stack([np.bincount(position[y == k], minlength=len(distinct)) for k in (0, 1)])
    # Column j of `above`: items of each class whose score is above the j lowest distinct scores.
    above = counts.sum(1, keepdims=True) - np.concatenate([np.zeros((2, 1)), np.cumsum(counts, axis=1)], axis=1)
    support = np.broadcast_to(counts.sum(1), (len(distinct) + 1, 2))
    claimed = np.stack([len(y) - above.sum(0), above.sum(0)], axis=1)
    hits = np.stack([support[:, 0] - above[0], above[1]], axis=1)
    quality = count_scores(hits, support, claimed)
    margin = max(1.0, float(distinct[-1] - distinct[0]))
    edges = np.concatenate([[distinct[0] - margin], distinct, [distinct[-1] + margin]])
    return Thresholds(*(_nearest_cut(quality[name], edges, default) for name in ("accuracy", "f1")))


def _nearest_cut(quality: np.ndarray, edges: np.ndarray, default: float) -> float:
    """A cut inside the best of the gaps ``edges[j]..edges[j + 1]`` that lies nearest to the default."""
    lower, upper = edges[:-1], edges[1:]
    distance = np.maximum(np.maximum(lower - default, default - upper), 0)
    best = np.flatnonzero(quality >= quality.max() - 1e-12)
    gap = best[distance[best].argmin()]
    if lower[gap] <= default < upper[gap]:
        return default
    middle = lower[gap] + (upper[gap] - lower[gap]) / 2
    # Between neighbouring floats the middle rounds to one of them, and a score equal to the cut counts as below it.
    return float(middle if middle < upper[gap] else lower[gap])
