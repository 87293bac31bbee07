from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from layerwise.errors import UserError
from layerwise.probes.evaluation import evaluate
from layerwise.probes.thresholds import Thresholds, tune_thresholds


def brute_force(y: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    cuts = [*np.unique(scores), scores.min() - 1]
    return (
        max(accuracy_score(y, scores > cut) for cut in cuts),
        max(f1_score(y, scores > cut, average="macro", zero_division=0) for cut in cuts),
    )


@pytest.mark.parametrize("seed", range(8))
def test_no_cut_does_better(seed):
    rng = np.random.default_rng(seed)
    y = (rng.random(90) < rng.uniform(0.1, 0.9)).astype(int)
    scores = np.round(rng.normal(size=90) + y * rng.uniform(-1, 2), 1)
    found = tune_thresholds(y, scores)
    accuracy, f1 = brute_force(y, scores)
    assert evaluate(y, scores, threshold=found.accuracy)["accuracy"] == pytest.approx(accuracy)
    assert evaluate(y, scores, threshold=found.f1)["f1"] == pytest.approx(f1)


def test_accuracy_and_f1_part_ways_on_rare_classes():
    rng = np.random.default_rng(0)
    y = (np.arange(400) < 40).astype(int)
    scores = rng.normal(size=400) + y
    found = tune_thresholds(y, scores)
    assert found.f1 < found.accuracy
    assert evaluate(y, scores, threshold=found.f1)["f1"] > evaluate(y, scores, threshold=found.accuracy)["f1"] + 0.05


def test_default_is_kept_where_nothing_does_better():
    y = np.array([0, 0, 1, 1])
    assert tune_thresholds(y, np.array([-2.0, -1, 1, 2])) == Thresholds(0.0, 0.0)
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    assert tune_thresholds(y, probabilities) == Thresholds(0.5, 0.5)


def test_ties_are_not_split():
    """Three items share a score: no cut may call one of them positive and another negative."""
    y, scores = np.array([0, 1, 0, 1, 1]), np.array([0.0, 1, 1, 1, 2])
    cut = tune_thresholds(y, scores - 5).accuracy
    assert set((scores - 5 > cut).astype(int)[1:4]) == {1}


@pytest.mark.parametrize("majority", [0, 1])
def test_constant_scores_predict_the_validation_majority_whatever_the_test_labels(majority):
    """The probing pipeline predicted the test label itself here, and so reported a perfect F1."""
    y_validation = np.array([majority] * 7 + [1 - majority] * 3)
    cut = tune_thresholds(y_validation, np.full(10, 0.4)).accuracy
    for y_test in (np.array([0, 1, 0, 1]), np.array([1, 0, 1, 0]), np.array([1, 1, 1, 0])):
        scores = evaluate(y_test, np.full(4, 0.4), threshold=cut)
        assert scores["accuracy"] == pytest.approx(np.mean(y_test == majority))
        assert scores["f1"] < 0.7


def test_neighbouring_floats_are_told_apart():
    low = 0.3
    high = np.nextafter(low, 1)
    cut = tune_thresholds(np.array([0, 1]), np.array([low, high])).accuracy
    assert low <= cut < high


def test_thresholds_are_plain_json():
    found = tune_thresholds(np.array([1, 1, 0]), np.array([1.0, 2.0, 3.0]))
    assert json.loads(json.dumps(asdict(found), allow_nan=False)) == asdict(found)


def test_one_class_is_refused():
    with pytest.raises(UserError, match="two classes, got 1 in 3 items"):
        tune_thresholds(np.ones(3, int), np.arange(3.0))
