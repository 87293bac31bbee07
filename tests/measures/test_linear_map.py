from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from layerwise.measures.linear_map import PENALTIES, Moments, fit_map


def moments(x: np.ndarray, y: np.ndarray, pieces: int = 3) -> Moments:
    found = Moments(x.shape[1], y.shape[1])
    for a, b in zip(np.array_split(x, pieces), np.array_split(y, pieces), strict=True):
        found.add(torch.from_numpy(a), torch.from_numpy(b))
    return found


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)) + 5
    return x, x @ rng.normal(size=(6, 4)) + rng.normal(size=4) + 0.8 * rng.normal(size=(300, 4))


def test_it_is_ridge_with_the_best_penalty(data) -> None:
    x, y = data
    found, r2, penalty = fit_map(moments(x[:200], y[:200]), moments(x[200:], y[200:]))
    scale = ((x[:200] - x[:200].mean(0)) ** 2).sum() / 6
    fits = {one: Ridge(alpha=one * scale).fit(x[:200], y[:200]) for one in PENALTIES}
    scores = {
        one: r2_score(y[200:], fit.predict(x[200:]), multioutput="variance_weighted") for one, fit in fits.items()
    }
    assert penalty == max(scores, key=lambda one: scores[one])
    assert r2 == pytest.approx(scores[penalty], abs=1e-9)
    np.testing.assert_allclose(found(x[200:]), fits[penalty].predict(x[200:]), atol=1e-9)


def test_an_exact_map_is_found(data) -> None:
    x, _ = data
    weight = np.random.default_rng(1).normal(size=(6, 3))
    found, r2, _ = fit_map(moments(x[:200], x[:200] @ weight), moments(x[200:], x[200:] @ weight))
    assert r2 == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found.weight, weight, atol=1e-4)
    np.testing.assert_allclose(found(x[:5]), x[:5] @ weight, atol=1e-3)
