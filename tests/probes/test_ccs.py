from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from layerwise.errors import UserError
from layerwise.probes.ccs import CCSProbe, contrast_loss

WIDTH = 24


@pytest.fixture(scope="module")
def contrast():
    """Pairs (n, 2, WIDTH) whose truth lies on a known direction; the negation's wording moves all of its side."""
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=400)
    direction, wording = rng.normal(size=(2, WIDTH))
    direction /= np.linalg.norm(direction)
    shared = rng.normal(size=(400, 1, WIDTH))
    sign = np.stack([2 * truth - 1, 1 - 2 * truth], axis=1)[..., None]
    noise = 0.3 * rng.normal(size=(400, 2, WIDTH))
    X = shared + 3 * sign * direction + noise + 5 * wording * np.array([0, 1])[None, :, None] + 20
    return X.astype(np.float32), truth, direction


@pytest.mark.parametrize("method", ["ccs", "tpc"])
def test_finds_the_direction_of_truth_without_labels(method, contrast):
    X, truth, direction = contrast
    probe = CCSProbe(method=method).fit(X[:300])
    cosine = probe.coef_[0] @ direction / np.linalg.norm(probe.coef_)
    accuracy = np.mean(probe.predict(X[300:]) == truth[300:])
    assert max(accuracy, 1 - accuracy) > 0.95
    if method == "ccs":
        assert abs(cosine) > 0.5  # the shared variation bends a discriminating direction away from the mean difference


@pytest.mark.parametrize("method", ["ccs", "tpc"])
def test_labels_set_the_sign_and_nothing_else(method, contrast):
    X, truth, _ = contrast
    found = CCSProbe(method=method).fit(X)
    right, wrong = (CCSProbe(method=method).fit(X, labels) for labels in (truth, 1 - truth))
    assert right.score(X, truth) > 0.95
    assert wrong.score(X, truth) < 0.05
    np.testing.assert_allclose(right.coef_, -wrong.coef_)
    np.testing.assert_allclose(np.abs(found.coef_), np.abs(right.coef_))


def test_a_direction_known_exactly_is_recovered():
    rng = np.random.default_rng(3)
    truth = rng.integers(2, size=1500)
    direction = rng.normal(size=WIDTH)
    direction /= np.linalg.norm(direction)
    X = rng.normal(size=(1500, 2, WIDTH)) * 0.5 + np.stack([2 * truth - 1, 1 - 2 * truth], 1)[..., None] * direction
    probe = CCSProbe().fit(X, truth)
    # A linear separator of isotropic classes is parallel to their difference.
    assert probe.coef_[0] @ direction / np.linalg.norm(probe.coef_) > 0.95


def test_coefficients_give_the_probability_of_a_statement_alone(contrast):
    X, truth, _ = contrast
    probe = CCSProbe().fit(X, truth)
    alone = probe.predict_proba(X[:, 0])[:, 1]
    np.testing.assert_allclose(alone, 1 / (1 + np.exp(-(X[:, 0] @ probe.coef_[0] + probe.intercept_[0]))), atol=1e-5)
    assert np.mean((alone > 0.5) == truth) > 0.9


def test_the_best_of_the_starts_is_kept(contrast):
    probe = CCSProbe(tries=6, epochs=200).fit(contrast[0])
    assert probe.losses_.shape == (6,)
    assert probe.loss_ == probe.losses_.min()


def test_the_loss_is_that_of_the_paper():
    first, second = torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [-2.0]])
    sure = 1 / (1 + np.exp(-2.0))
    assert contrast_loss(first, second).item() == pytest.approx((0.25 + (1 - sure) ** 2) / 2)


def test_pairs_may_be_two_arrays_and_the_seed_decides(contrast):
    X, truth, _ = contrast
    stacked, apart = CCSProbe(epochs=50).fit(X, truth), CCSProbe(epochs=50).fit((X[:, 0], X[:, 1]), truth)
    np.testing.assert_array_equal(stacked.coef_, apart.coef_)
    other = CCSProbe(epochs=50, random_state=1).fit(X, truth)
    assert np.abs(other.coef_ - stacked.coef_).max() > 1e-6


def test_saved_state_and_scikit_learn(contrast):
    X, truth, _ = contrast
    names = np.array(["false", "true"])[truth]
    probe = CCSProbe(epochs=50).fit(X, names)
    again = CCSProbe.from_state(*probe.state())
    np.testing.assert_array_equal(again.predict_proba(X), probe.predict_proba(X))
    assert again.predict(X).tolist() == probe.predict(X).tolist()
    search = GridSearchCV(clone(probe), {"tries": [1, 3]}, cv=3).fit(X, names)
    assert search.best_score_ > 0.9


@pytest.mark.parametrize(
    ("settings", "X", "y", "message"),
    [
        ({}, np.zeros((8, 5)), None, "pairs of a statement and its negation"),
        ({}, np.zeros((8, 3, 5)), None, "pairs of a statement and its negation"),
        ({}, (np.zeros((8, 5)), np.zeros((7, 5))), None, "both sides of the pairs need one shape"),
        ({}, np.zeros((1, 2, 5)), None, "at least two pairs, got 1"),
        ({}, np.full((8, 2, 5), np.nan), None, "row 0 of the features"),
        ({}, np.zeros((8, 2, 5)), np.zeros(8), "the labels have 1"),
        ({}, np.zeros((8, 2, 5)), np.arange(7), "8 pairs, but 7 labels"),
        ({"method": "pca"}, np.zeros((8, 2, 5)), None, "unknown method 'pca'"),
        ({"tries": 0}, np.zeros((8, 2, 5)), None, "tries must be above 0"),
    ],
)
def test_mistakes_are_told(settings, X, y, message):
    with pytest.raises(UserError, match=message):
        CCSProbe(**settings).fit(X, y)


def test_another_width_is_told(contrast):
    with pytest.raises(UserError, match="fitted on 24 features a side"):
        CCSProbe(epochs=1).fit(contrast[0]).predict(np.zeros((3, 2, 5)))
