from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from layerwise.errors import UserError
from layerwise.probes.code_length import code_length


class Oracle(ClassifierMixin, BaseEstimator):
    """Reads the label from the first feature and is certain of it."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return np.eye(len(self.classes_))[np.searchsorted(self.classes_, X[:, 0].astype(int))]


class Uniform(Oracle):
    def predict_proba(self, X):
        return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))


def labelled(n: int = 800, n_classes: int = 2, strength: float = 2.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % n_classes)
    return rng.normal(size=(n, 5)) + strength * np.eye(5)[y], y


@pytest.mark.parametrize("n_classes", [2, 4])
def test_a_perfect_predictor_pays_for_the_first_block_alone(n_classes):
    y = np.random.default_rng(0).permutation(np.arange(1000) % n_classes)
    found = code_length(Oracle(), y[:, None].astype(float), y, n_classes, fractions=(0.1, 0.2, 0.5, 1))
    assert found.ends == (100, 200, 500, 1000)
    assert found.bits[0] == 100 * np.log2(n_classes)
    assert found.total == pytest.approx(found.bits[0], abs=0.1)
    assert found.compression == pytest.approx(10, rel=1e-3)


def test_a_uniform_predictor_compresses_nothing():
    y = np.arange(600) % 2
    found = code_length(Uniform(), y[:, None], y)
    assert found.total == pytest.approx(600)
    assert found.compression == pytest.approx(1)


def test_blocks_end_at_the_papers_fractions():
    y = np.arange(100_000) % 2
    found = code_length(Uniform(), y[:, None], y)
    assert found.ends == (100, 200, 400, 800, 1600, 3200, 6250, 12500, 25000, 50000, 100000)


def test_small_sets_join_the_smallest_blocks():
    X, y = labelled(40)
    found = code_length(LogisticRegression(), X, y)
    assert found.ends == (4, 5, 10, 20, 40)
    frame = found.to_frame()
    assert frame["items"].sum() == 40
    assert frame["trained_on"].tolist() == [0, 4, 5, 10, 20]


def test_the_class_shares_alone_cost_their_entropy():
    rng = np.random.default_rng(0)
    y = (rng.random(20_000) < 0.1).astype(int)
    found = code_length(DummyClassifier(strategy="prior"), np.zeros((20_000, 1)), y)
    share = y.mean()
    entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    assert found.total / 20_000 == pytest.approx(entropy, rel=0.02)


def test_signal_compresses_and_noise_or_control_labels_do_not():
    X, y = labelled()
    signal = code_length(LogisticRegression(), X, y)
    control = code_length(LogisticRegression(), X, np.random.default_rng(1).permutation(y))
    assert signal.compression > 2
    assert control.compression < 1.02
    assert signal.to_metrics()["code/bits"] == signal.total


def test_decision_values_are_calibrated_and_cost_about_as_much():
    X, y = labelled(2000)
    logistic, svm = code_length(LogisticRegression(), X, y), code_length(LinearSVC(), X, y)
    assert svm.total == pytest.approx(logistic.total, rel=0.1)


def test_a_class_not_seen_yet_costs_finitely_many_bits():
    X, y = labelled(300, n_classes=5)
    y[y == 4] = 0
    y[np.flatnonzero(y == 0)[:2]] = 4
    found = code_length(LogisticRegression(), X, y, 5)
    assert np.isfinite(found.bits).all()


def test_groups_are_not_split_between_blocks():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 5)
    y = rng.integers(0, 2, 60)[groups]
    X = np.eye(60)[groups]
    found = code_length(LogisticRegression(C=100.0), X, y, groups=groups)
    assert all(end % 5 == 0 for end in found.ends)
    # Group identity is all there is, so nothing learnt helps with the next groups; split groups would leak their labels.
    assert found.compression < 1.05
    assert code_length(LogisticRegression(C=100.0), X, y).compression > 1.3


def test_the_same_seed_gives_the_same_bits():
    X, y = labelled()
    assert code_length(LogisticRegression(), X, y, seed=3) == code_length(LogisticRegression(), X, y, seed=3)
    assert code_length(LogisticRegression(), X, y, seed=3) != code_length(LogisticRegression(), X, y, seed=4)


def test_too_few_items_are_refused():
    with pytest.raises(UserError, match="at least 8 items for 2 classes, got 6"):
        code_length(LogisticRegression(), np.zeros((6, 1)), np.arange(6) % 2)
    with pytest.raises(UserError, match="all 9 items have the class 0"):
        code_length(LogisticRegression(), np.zeros((9, 1)), np.zeros(9, int))
