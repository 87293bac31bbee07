from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from layerwise.measures.classification import (
    brier_losses,
    calibration_error,
    class_counts,
    count_scores,
    log_losses,
    rank_scores,
)

ONES = np.ones((1, 200))


def sample(n_classes: int, seed: int = 0, n: int = 200):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    logits = rng.normal(size=(n, n_classes)) + np.eye(n_classes)[y]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return y, np.round(probabilities, 2) + 0.0, rng.integers(0, 4, size=(6, n)).astype(float)


def sklearn_counts(y, predicted, weight=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, recall, f1, _ = sk.precision_recall_fscore_support(
            y, predicted, average="macro", sample_weight=weight, zero_division=0
        )
        return {
            "accuracy": sk.accuracy_score(y, predicted, sample_weight=weight),
            "balanced_accuracy": sk.balanced_accuracy_score(y, predicted, sample_weight=weight),
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "mcc": sk.matthews_corrcoef(y, predicted, sample_weight=weight),
        }


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_counts_are_sklearns(n_classes):
    y, probabilities, weights = sample(n_classes)
    predicted = probabilities.argmax(1)
    ours = count_scores(*class_counts(y, predicted, n_classes, np.concatenate([ONES, weights])))
    for row, weight in enumerate([None, *weights]):
        for name, value in sklearn_counts(y, predicted, weight).items():
            assert ours[name][row] == pytest.approx(value), name


@pytest.mark.parametrize(
    ("y", "predicted"),
    [
        ([0, 0, 1, 1], [0, 0, 0, 0]),
        ([1, 1, 1], [1, 1, 1]),
        ([1, 1, 1], [0, 0, 0]),
        ([0, 2, 2, 0], [0, 2, 0, 2]),
        ([0, 2, 2, 0], [1, 1, 1, 1]),
    ],
)
def test_absent_and_constant_classes_are_sklearns_and_silent(y, predicted):
    y, predicted = np.array(y), np.array(predicted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = count_scores(*class_counts(y, predicted, 3, np.ones((1, len(y)))))
    for name, value in sklearn_counts(y, predicted).items():
        assert ours[name][0] == pytest.approx(value), name


def test_no_item_is_undefined_not_zero():
    scores = count_scores(*class_counts(np.array([0, 1]), np.array([0, 1]), 2, np.array([[0.0, 0.0]])))
    assert all(np.isnan(value[0]) for value in scores.values())


def test_rank_metrics_are_sklearns_with_ties_and_weights():
    y, probabilities, weights = sample(2)
    ours = rank_scores(y == 1, probabilities[:, 1], weights)
    for row, weight in enumerate(weights):
        assert ours["auroc"][row] == pytest.approx(sk.roc_auc_score(y, probabilities[:, 1], sample_weight=weight))
        assert ours["average_precision"][row] == pytest.approx(
            sk.average_precision_score(y, probabilities[:, 1], sample_weight=weight)
        )


@pytest.mark.parametrize("positive", [np.zeros(4, bool), np.ones(4, bool)])
def test_rank_metrics_of_one_class_are_undefined(positive):
    found = rank_scores(positive, np.arange(4.0), np.ones((1, 4)))
    assert np.isnan([found["auroc"][0], found["average_precision"][0]]).all()


def test_constant_scores_rank_nothing():
    y = np.array([0, 1, 1, 0, 1])
    found = rank_scores(y == 1, np.zeros(5), np.ones((1, 5)))
    assert found["auroc"][0] == 0.5
    assert found["average_precision"][0] == pytest.approx(0.6)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_losses_are_sklearns(n_classes):
    y, _, _ = sample(n_classes)
    probabilities = np.random.default_rng(1).dirichlet(np.ones(n_classes), size=200)
    labels = list(range(n_classes))
    assert log_losses(y, probabilities).mean() == pytest.approx(sk.log_loss(y, probabilities, labels=labels))
    sklearns = sk.brier_score_loss(y, probabilities[:, 1] if n_classes == 2 else probabilities, labels=labels)
    assert brier_losses(y, probabilities).mean() == pytest.approx(sklearns)


def test_certain_and_wrong_is_finite():
    assert np.isfinite(log_losses(np.array([0]), np.array([[0.0, 1.0]]))).all()


@pytest.mark.parametrize("equal_mass", [False, True])
def test_calibration_error_is_the_loop_over_bins(equal_mass):
    rng = np.random.default_rng(0)
    claimed = rng.random(300)
    observed = rng.random(300) < claimed**2
    if equal_mass:
        order = np.argsort(claimed)
        bins = [order[k * 20 : (k + 1) * 20] for k in range(15)]
    else:
        bins = [np.flatnonzero((claimed > k / 15) & (claimed <= (k + 1) / 15)) for k in range(15)]
    expected = sum(len(b) / 300 * abs(claimed[b].mean() - observed[b].mean()) for b in bins if len(b))
    assert calibration_error(claimed, observed, np.ones((1, 300)), equal_mass)[0] == pytest.approx(expected)


def test_calibration_error_of_the_truth_is_small_and_of_overconfidence_is_not():
    rng = np.random.default_rng(0)
    claimed = rng.random(20_000)
    observed = rng.random(20_000) < claimed
    assert calibration_error(claimed, observed, np.ones((1, 20_000)))[0] < 0.02
    assert calibration_error(np.ones(100), np.arange(100) < 70, np.ones((1, 100)))[0] == pytest.approx(0.3)
