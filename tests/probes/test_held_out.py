from __future__ import annotations

import numpy as np
import pytest

from layerwise.probes.calibration import fit_platt
from layerwise.probes.evaluation import CLASSIFICATION, evaluate
from layerwise.probes.held_out import held_out
from layerwise.probes.thresholds import tune_thresholds


def two_parts(shift: float = 0.0):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    scores = rng.normal(size=400) + 2 * y - 1 + shift
    return y[:300], scores[:300], y[300:], scores[300:]


def test_tuned_thresholds_repair_a_shifted_probe():
    y_dev, dev, y_test, test = two_parts(shift=3)
    result = held_out(y_test, test, thresholds=tune_thresholds(y_dev, dev))
    metrics = result.to_metrics()
    assert metrics["test/accuracy"] < 0.6
    assert metrics["test/accuracy_tuned"] > 0.75
    assert metrics["test/f1_tuned"] > 0.75


def test_calibration_gives_probabilities_and_changes_no_prediction():
    y_dev, dev, y_test, test = two_parts(shift=1)
    plain = held_out(y_test, test)
    calibrated = held_out(y_test, test, calibration=fit_platt(y_dev, dev))
    assert set(calibrated.intervals) == set(CLASSIFICATION)
    assert plain.probabilities is None
    assert calibrated.intervals["accuracy"] == plain.intervals["accuracy"]
    assert calibrated.intervals["log_loss"].estimate == pytest.approx(
        evaluate(y_test, calibrated.probabilities)["log_loss"]
    )


def test_confusion_counts_and_rows():
    y_test, test = two_parts()[2:]
    result = held_out(y_test, test)
    assert result.confusion.sum() == 100
    assert np.diag(result.confusion).sum() / 100 == pytest.approx(result.intervals["accuracy"].estimate)
    assert np.array_equal(result.predicted, test > 0)
    assert set(result.to_frame()["metric"]) == set(result.intervals)


def test_what_is_undefined_is_left_out_of_the_metrics_and_explained():
    result = held_out(np.ones(10, int), np.linspace(-1, 1, 10))
    assert "test/auroc" not in result.to_metrics()
    reason = result.to_frame().set_index("metric").loc["auroc", "undefined"]
    assert reason == "no item of class 0 among the 10 labels"


def test_targets():
    rng = np.random.default_rng(0)
    y = rng.normal(size=80)
    result = held_out(y, (y + 0.5 * rng.normal(size=80))[:, None], "regression")
    assert result.confusion is None
    assert 0.5 < result.to_metrics()["test/r2_low"] < result.to_metrics()["test/r2"]


def test_groups_widen_the_interval():
    rng = np.random.default_rng(0)
    y, groups = np.repeat(rng.integers(0, 2, 20), 10), np.repeat(np.arange(20), 10)
    scores = np.repeat(rng.normal(size=20), 10) + np.repeat(y[::10] - 0.5, 10)
    wide, narrow = held_out(y, scores, groups=groups).intervals, held_out(y, scores).intervals
    assert wide["accuracy"].high - wide["accuracy"].low > 2 * (narrow["accuracy"].high - narrow["accuracy"].low)
