from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from layerwise.measures.regression import regression_scores


def sample(n: int = 120):
    rng = np.random.default_rng(0)
    y = np.round(rng.normal(size=n), 1)
    return y, np.round(y + rng.normal(size=n), 1)


def test_scores_are_sklearns_and_scipys():
    y, predicted = sample()
    ours = {name: value[0] for name, value in regression_scores(y, predicted, np.ones((1, len(y)))).items()}
    assert ours["mse"] == pytest.approx(sk.mean_squared_error(y, predicted))
    assert ours["mae"] == pytest.approx(sk.mean_absolute_error(y, predicted))
    assert ours["r2"] == pytest.approx(sk.r2_score(y, predicted))
    assert ours["pearson"] == pytest.approx(stats.pearsonr(y, predicted).statistic)
    assert ours["spearman"] == pytest.approx(stats.spearmanr(y, predicted).statistic)


def test_weights_are_repeated_items():
    y, predicted = sample()
    weights = np.random.default_rng(1).integers(0, 3, size=(4, len(y))).astype(float)
    ours = regression_scores(y, predicted, weights)
    for row, weight in enumerate(weights.astype(int)):
        a, b = np.repeat(y, weight), np.repeat(predicted, weight)
        assert ours["r2"][row] == pytest.approx(sk.r2_score(a, b))
        assert ours["pearson"][row] == pytest.approx(stats.pearsonr(a, b).statistic)
        assert ours["spearman"][row] == pytest.approx(stats.spearmanr(a, b).statistic)


def test_constants_are_undefined_and_silent():
    y, predicted = sample()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flat_target = regression_scores(np.full(120, 0.1), predicted, np.ones((1, 120)))
        flat_guess = regression_scores(y, np.full(120, 0.1), np.ones((1, 120)))
    assert np.isnan([flat_target[name][0] for name in ("r2", "pearson", "spearman")]).all()
    assert np.isnan([flat_guess[name][0] for name in ("pearson", "spearman")]).all()
    assert flat_guess["r2"][0] == pytest.approx(sk.r2_score(y, np.full(120, 0.1)))
