from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.svm import LinearSVC

from layerwise.errors import UserError
from layerwise.probes.calibration import cross_fitted_probabilities, fit_platt
from layerwise.probes.evaluation import evaluate


@pytest.mark.parametrize("n_classes", [2, 3])
def test_sigmoids_are_sklearns(n_classes):
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, 300)
    x = rng.normal(size=(300, 4)) + 0.8 * np.eye(4)[y]
    svm = LinearSVC().fit(x[:150], y[:150])
    reference = CalibratedClassifierCV(FrozenEstimator(svm), method="sigmoid", ensemble=False).fit(x[150:], y[150:])
    decision = svm.decision_function(x[150:])
    ours = fit_platt(y[150:], decision).probabilities(decision)
    assert np.allclose(ours, reference.predict_proba(x[150:]), atol=2e-4)


def test_recovers_the_sigmoid_scores_were_drawn_from():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=20_000) * 3 + 100
    y = (rng.random(20_000) < expit(0.7 * (scores - 101))).astype(int)
    platt = fit_platt(y, scores)
    assert platt.slopes[0] == pytest.approx(0.7, rel=0.05)
    assert -platt.intercepts[0] / platt.slopes[0] == pytest.approx(101, abs=0.1)
    assert evaluate(y, platt.probabilities(scores))["ece"] < 0.02


def test_separable_scores_stay_finite_and_short_of_certain():
    y = np.array([0] * 10 + [1] * 10)
    probabilities = fit_platt(y, np.where(y, 1e6, -1e6)).probabilities(np.array([1e6]))
    assert 0.8 < probabilities[0, 1] < 1


def test_constant_scores_give_the_base_rate():
    y = np.array([0] * 30 + [1] * 10)
    assert fit_platt(y, np.full(40, 3.0)).probabilities(np.array([3.0]))[0, 1] == pytest.approx(0.25, abs=0.02)


def test_extreme_values_of_many_classes_sum_to_one():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    platt = fit_platt(y, rng.normal(size=(60, 3)) + 3 * np.eye(3)[y])
    probabilities = platt.probabilities(np.full((1, 3), -1e9))
    assert probabilities.sum() == pytest.approx(1)


def test_two_columns_are_read_as_their_difference():
    rng = np.random.default_rng(0)
    y, scores = rng.integers(0, 2, 50), rng.normal(size=(50, 2))
    assert fit_platt(y, scores) == fit_platt(y, scores[:, 1] - scores[:, 0])


def test_each_fold_is_calibrated_by_the_others():
    rng = np.random.default_rng(0)
    y, folds = rng.integers(0, 2, 60), np.arange(60) % 3
    scores = rng.normal(size=60) + y
    probabilities = cross_fitted_probabilities(y, scores, folds)
    for fold in range(3):
        here = folds == fold
        expected = fit_platt(y[~here], scores[~here]).probabilities(scores[here])
        assert np.allclose(probabilities[here], expected, atol=1e-5)
    flipped = y.copy()
    flipped[folds == 0] = 1 - flipped[folds == 0]
    assert np.array_equal(cross_fitted_probabilities(flipped, scores, folds)[folds == 0], probabilities[folds == 0])


def test_one_class_is_refused():
    with pytest.raises(UserError, match="two classes"):
        fit_platt(np.zeros(5, int), np.arange(5.0))
