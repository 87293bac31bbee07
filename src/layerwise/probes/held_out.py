"""The one score of a chosen probe on items that took no part in choosing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from layerwise.measures.statistics import Interval
from layerwise.probes.calibration import Platt
from layerwise.probes.evaluation import (
    FROM_PROBABILITIES,
    are_probabilities,
    evaluate,
    predictions,
    score_intervals,
    why_undefined,
)
from layerwise.probes.thresholds import Thresholds


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a probe scores on held-out items.

    Attributes:
        intervals: bootstrap interval by metric, over items or whole groups; its estimate is the score.
        tuned: accuracy and f1 at the thresholds tuned for each on validation data; empty without thresholds.
        undefined: why, by metric, where a score is NaN.
        predicted: ``(n,)`` class ids at the default threshold, or predicted targets.
        probabilities: ``(n, C)``, by calibration where the probe has decision values; None where it has neither, or for targets.
        confusion: ``(C, C)`` counts of true (rows) against predicted classes; None for targets.
    """

    intervals: Mapping[str, Interval]
    tuned: Mapping[str, float] = field(default_factory=dict)
    undefined: Mapping[str, str] = field(default_factory=dict)
    predicted: np.ndarray = field(default_factory=lambda: np.zeros(0))
    probabilities: np.ndarray | None = None
    confusion: np.ndarray | None = None

    def to_metrics(self, prefix: str = "test") -> dict[str, float]:
        """``test/accuracy``, its bounds ``test/accuracy_low`` and ``test/accuracy_high``, and so on; NaN left out."""
        values: dict[str, float] = {}
        for name, interval in self.intervals.items():
            values |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
        values |= {f"{name}_tuned": value for name, value in self.tuned.items()}
        return {f"{prefix}/{name}": value for name, value in values.items() if not np.isnan(value)}

    def to_frame(self) -> pd.DataFrame:
        """A row per metric: metric, score, low, high, and the reason where it is undefined."""
        rows = [
            (name, interval.estimate, interval.low, interval.high, self.undefined.get(name, ""))
            for name, interval in self.intervals.items()
        ]
        return pd.DataFrame(rows, columns=["metric", "score", "low", "high", "undefined"])


def held_out(
    y: np.ndarray,
    scores: np.ndarray,
    task: str = "classification",
    n_classes: int = 2,
    thresholds: Thresholds | None = None,
    calibration: Platt | None = None,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> HeldOut:
    """Scores outputs on held-out items; classes are predicted by the probe's own rule, calibration only gives probabilities.

    Args:
        y: ``(n,)``.
        scores: ``(n, C or 1)`` the probe's outputs, uncalibrated.
        thresholds: tuned on the same kind of outputs for validation items, two classes.
        calibration: fitted on decision values of validation items; not used where the outputs are probabilities.
        groups: ``(n,)`` whose items are not independent.
    """
    y, scores = np.asarray(y), np.asarray(scores, dtype=np.float64).reshape(len(y), -1)
    intervals = score_intervals(y, scores, task, n_classes, groups=groups, seed=seed)
    probabilities, predicted, confusion = None, scores[:, 0], None
    if task != "regression":
        predicted = predictions(scores, n_classes)
        confusion = confusion_matrix(y, predicted, labels=list(range(n_classes)))
        if are_probabilities(scores):
            probabilities = scores
        elif calibration is not None:
            probabilities = calibration.probabilities(scores)
            intervals |= score_intervals(
                y, probabilities, task, n_classes, groups=groups, metrics=FROM_PROBABILITIES, seed=seed
            )
    tuned = {}
    if thresholds is not None:
        for name in ("accuracy", "f1"):
            tuned[name] = evaluate(y, scores, task, n_classes, getattr(thresholds, name))[name]
    estimates = {name: interval.estimate for name, interval in intervals.items()}
    undefined = why_undefined(y, estimates, n_classes)
    return HeldOut(intervals, tuned, undefined, predicted, probabilities, confusion)
