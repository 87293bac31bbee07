"""Cross-validated scores of one probe on one set of features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from layerwise.errors import UserError
from layerwise.measures.statistics import Interval, corrected_t_interval, wilson_interval
from layerwise.probes.calibration import cross_fitted_probabilities
from layerwise.probes.crossval import fold_scores
from layerwise.probes.evaluation import (
    BOUNDS,
    FROM_PROBABILITIES,
    are_probabilities,
    check_items,
    metric_names,
    weighted_scores,
)


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Out-of-fold outputs of one probe, and what they score in each fold.

    Attributes:
        y: ``(n,)`` labels.
        folds: ``(repeats, n)`` the fold each item was held out in.
        scores: ``(repeats, n, C or 1)`` outputs of the probe that did not see the item.
        per_fold: ``(repeats · n_folds,)`` by metric; NaN in a fold whose labels cannot give it. Probability metrics of a probe
            with decision values are those of Platt's sigmoids fitted on the other folds.
        groups: ``(n,)`` groups that folds kept whole, or None.
    """

    y: np.ndarray
    folds: np.ndarray
    scores: np.ndarray
    per_fold: Mapping[str, np.ndarray]
    task: str = "classification"
    n_classes: int = 2
    groups: np.ndarray | None = None

    def mean(self, metric: str) -> float:
        """Mean over the folds that can give it; NaN if none can."""
        values = self.per_fold[metric]
        return float(np.nanmean(values)) if not np.isnan(values).all() else np.nan

    def interval(self, metric: str) -> Interval:
        """Of the mean over folds, corrected for overlapping training sets and kept inside the metric's range.

        Folds that all agree leave no spread to measure: accuracy then has Wilson's interval over items or groups, any other
        metric NaN bounds.
        """
        found = fold_interval(self.per_fold[metric], self.folds, BOUNDS[metric])
        if found.low < found.high or np.isnan(found.estimate):
            return found
        if metric == "accuracy":
            units = len(self.y) if self.groups is None else len(np.unique(self.groups))
            return wilson_interval(found.estimate * units, units)
        return Interval(found.estimate, np.nan, np.nan, found.level)

    @property
    def pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """``(repeats · n,)`` labels and their ``(repeats · n, C or 1)`` out-of-fold outputs: validation data to tune on."""
        return np.tile(self.y, len(self.folds)), self.scores.reshape(-1, self.scores.shape[-1])

    def to_metrics(self, prefix: str = "cv") -> dict[str, float]:
        """``cv/accuracy`` and so on, each the mean over folds."""
        return {f"{prefix}/{name}": self.mean(name) for name in self.per_fold}

    def to_frame(self) -> pd.DataFrame:
        """A row per metric, repetition and fold."""
        n_folds = int(self.folds.max()) + 1
        rows = [
            (name, index // n_folds, index % n_folds, value)
            for name, values in self.per_fold.items()
            for index, value in enumerate(values)
        ]
        return pd.DataFrame(rows, columns=["metric", "repeat", "fold", "value"])


def fold_interval(values: np.ndarray, folds: np.ndarray, bounds: tuple[float, float]) -> Interval:
    """Corrected-t interval of ``(repeats · n_folds,)`` scores, clipped to what the metric can be."""
    found = corrected_t_interval(values, 1 / int(folds.max()))
    low, high = np.clip([found.low, found.high], *bounds)
    return Interval(found.estimate, float(low), float(high), found.level)


def scores_by_fold(
    y: np.ndarray,
    scores: np.ndarray,
    folds: np.ndarray,
    task: str = "classification",
    n_classes: int = 2,
    metrics: Iterable[str] | None = None,
) -> dict[str, np.ndarray]:
    """Metrics of each fold of out-of-fold outputs.

    Args:
        y: ``(n,)``.
        scores: ``(repeats, n, C or 1)``.
        folds: ``(repeats, n)``.

    Returns:
        ``(repeats · n_folds,)`` by metric, repetition after repetition.
    """
    wanted = metric_names(task) if metrics is None else tuple(metrics)
    fold_ids = np.arange(int(folds.max()) + 1)[:, None]
    parts = []
    for fold, out in zip(folds, scores, strict=True):
        weights = (fold == fold_ids).astype(np.float64)
        part = weighted_scores(y, out, weights, task, n_classes, metrics=wanted)
        missing = [name for name in wanted if name not in part and name in FROM_PROBABILITIES]
        if missing and not are_probabilities(out):
            probabilities = cross_fitted_probabilities(y, out, fold)
            part.update(weighted_scores(y, probabilities, weights, task, n_classes, metrics=missing))
        parts.append(part)
    return {name: np.concatenate([part[name] for part in parts]) for name in wanted}


def check_labels(y: np.ndarray, task: str) -> None:
    """Raise UserError unless the labels hold something to learn."""
    if len(y) == 0:
        raise UserError("there are no labelled items to fit a probe on.")
    if task == "regression":
        if not np.isfinite(y).all():
            raise UserError(
                f"{int((~np.isfinite(y)).sum())} of {len(y)} targets are NaN or infinite; leave those items out."
            )
        if np.ptp(y) == 0:
            raise UserError(f"all {len(y)} targets are {y[0]:g}: there is nothing to predict.")
    elif len(np.unique(y)) < 2:
        raise UserError(f"all {len(y)} items have the class {y[0]}: a probe needs at least two classes.")


def check_features(X: Any, y: np.ndarray, what: str = "features") -> None:
    """Raise UserError unless there is one row of finite numbers for each label; token-level features are not looked into."""
    if len(X) != len(y):
        raise UserError(f"{what} have {len(X)} rows for {len(y)} labels.")
    if isinstance(X, np.ndarray) and X.dtype.kind == "f" and not np.isfinite(X).all():
        bad = int((~np.isfinite(X)).reshape(len(X), -1).any(1).sum())
        raise UserError(
            f"{what} hold NaN or infinity in {bad} of {len(X)} rows.\n"
            "Collect them in float32 (float16 overflows in some models), or leave those texts out."
        )


def cross_validate(
    estimator: Any,
    X: Any,
    y: np.ndarray,
    folds: np.ndarray,
    task: str = "classification",
    n_classes: int = 2,
    groups: np.ndarray | None = None,
    what: str = "features",
) -> CrossValidation:
    """Fits the estimator once a fold and scores what it says about the items it did not see.

    Args:
        X: ``(n, d)``, or whatever the estimator takes.
        y: ``(n,)`` class ids 0 to ``n_classes - 1``, or targets.
        folds: ``(repeats, n)`` from ``layerwise.data.splits.folds``.
        groups: ``(n,)`` what the folds kept whole.
        what: how errors call the features.

    Raises:
        UserError: on NaN features or targets, one class only, or as many rows as there are not labels.
    """
    check_labels(y, task)
    check_features(X, y, what)
    return validated(y, fold_scores(estimator, X, y, folds)[:, 0], folds, task, n_classes, groups)


def validated(
    y: np.ndarray,
    scores: np.ndarray,
    folds: np.ndarray,
    task: str = "classification",
    n_classes: int = 2,
    groups: np.ndarray | None = None,
) -> CrossValidation:
    """A cross-validation whose ``(repeats, n, C or 1)`` out-of-fold outputs are there already.

    Raises:
        UserError: where an output is not finite, or there are outputs for more or fewer classes.
    """
    check_items(np.tile(y, len(folds)), scores.reshape(-1, scores.shape[-1]), task, n_classes)
    return CrossValidation(y, folds, scores, scores_by_fold(y, scores, folds, task, n_classes), task, n_classes, groups)
