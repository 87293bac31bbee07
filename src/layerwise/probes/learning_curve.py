"""How a probe's score grows with the number of training items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from layerwise.data.splits import folds
from layerwise.errors import UserError
from layerwise.measures.statistics import corrected_t_interval
from layerwise.probes.crossval import take_rows
from layerwise.probes.evaluation import BOUNDS, check_metric, default_metric, weighted_scores
from layerwise.probes.outputs import outputs
from layerwise.probes.validation import check_features, check_labels

TEST_FOLDS = 5
N_SIZES = 8


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Scores at growing training sizes.

    Attributes:
        sizes: ``(S,)`` training items.
        scores: ``(S, repeats)``; NaN where the training items of a repetition hold one class only.
        n_test: items each repetition is scored on.
    """

    metric: str
    sizes: np.ndarray
    scores: np.ndarray
    n_test: int

    def to_frame(self) -> pd.DataFrame:
        """A row per size: size, mean, low, high over repetitions, repeats that gave a score."""
        rows = []
        for size, scores in zip(self.sizes, self.scores, strict=True):
            interval = corrected_t_interval(scores, self.n_test / size)
            low, high = np.clip([interval.low, interval.high], *BOUNDS[self.metric])
            rows.append((int(size), interval.estimate, low, high, int((~np.isnan(scores)).sum())))
        return pd.DataFrame(rows, columns=["size", "mean", "low", "high", "repeats"])


def learning_curve(
    estimator: Any,
    X: np.ndarray,
    y: np.ndarray,
    sizes: Sequence[int] | None = None,
    repeats: int = 5,
    task: str = "classification",
    n_classes: int = 2,
    groups: np.ndarray | None = None,
    metric: str | None = None,
    seed: int = 0,
) -> LearningCurve:
    """Fits on growing parts of the same training items and scores each on the same fifth held out, repeatedly.

    Within a repetition a larger training set holds the smaller ones, classes in proportion; repetitions differ in what is
    held out and in the order. Items of one group are never on both sides.

    Args:
        sizes: training items; by default eight sizes in equal ratios up to four fifths of all items.

    Raises:
        UserError: for a size below two or above the training items there are, and as ``cross_validate``.
    """
    metric = default_metric(task) if metric is None else check_metric(metric, task)
    check_labels(y, task)
    check_features(X, y)
    held_out = folds(y, groups, TEST_FOLDS, repeats, seed, task) == 0
    largest = int((~held_out).sum(1).min())
    if sizes is None:
        sizes = np.unique(np.geomspace(min(max(10, 2 * n_classes), largest), largest, N_SIZES).astype(int)).tolist()
    wrong = [size for size in sizes if not 2 <= size <= largest]
    if wrong or not len(sizes):
        raise UserError(
            f"training sizes must lie between 2 and {largest} (four fifths of {len(y)} items), got {wrong or 'none'}."
        )
    scores = np.full((len(sizes), repeats), np.nan)
    for repeat, test in enumerate(held_out):
        order = _nested_order(np.flatnonzero(~test), y, task, np.random.default_rng([seed, repeat]))
        for row, size in enumerate(sizes):
            chosen = order[:size]
            if len(np.unique(y[chosen])) < (2 if task == "regression" else n_classes):
                continue
            out = outputs(clone(estimator).fit(take_rows(X, chosen), y[chosen]), take_rows(X, np.flatnonzero(test)))
            weights = np.ones((1, int(test.sum())))
            value = weighted_scores(y[test], out, weights, task, n_classes, metrics=[metric]).get(metric)
            if value is None:
                raise UserError(f"{metric} needs probabilities, which this probe does not give; choose another metric.")
            scores[row, repeat] = value[0]
    return LearningCurve(metric, np.array(sizes), scores, int(held_out.sum(1).max()))


def _nested_order(rows: np.ndarray, y: np.ndarray, task: str, rng: np.random.Generator) -> np.ndarray:
    """``rows`` in an order of which every beginning has the classes in proportion."""
    rows = rng.permutation(rows)
    if task == "regression":
        return rows
    _, label, counts = np.unique(y[rows], return_inverse=True, return_counts=True)
    rank = np.empty(len(rows))
    for k, count in enumerate(counts):
        rank[label == k] = (np.arange(count) + rng.random()) / count
    return rows[np.argsort(rank, kind="stable")]
