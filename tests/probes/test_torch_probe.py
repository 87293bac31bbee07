from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

from layerwise.errors import UserError
from layerwise.probes.torch_probe import TorchProbe


class Bilinear(nn.Module):
    def __init__(self, in_features: int, rank: int = 4) -> None:
        super().__init__()
        self.down = nn.Linear(in_features, rank)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.down(x).square().sum(1) + self.bias


class Normed(nn.Module):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, out_features)
        )

    def forward(self, x):
        return self.layers(x)


class Silent(nn.Module):
    def forward(self, x):
        return x


class Wide(nn.Module):
    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, 7)

    def forward(self, x):
        return self.linear(x)


@pytest.fixture(scope="module")
def ring():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(400, 2)).astype(np.float32)
    return X, (np.linalg.norm(X, axis=1) > 1.2).astype(int)


def test_a_module_of_ones_own_learns(ring):
    X, y = ring
    probe = TorchProbe(Bilinear, {"rank": 3}, learning_rate=1e-2).fit(X[:300], y[:300])
    assert probe.score(X[300:], y[300:]) > 0.9
    assert probe.module_.down.out_features == 3


def test_buffers_belong_to_the_best_weights_and_dropout_is_off_when_predicting(ring):
    X, y = ring
    classes = y + 2 * (X[:, 0] > 0)
    probe = TorchProbe(Normed, learning_rate=3e-2, patience=3).fit(X, classes)
    assert probe.predict_proba(X).shape == (400, 4)
    np.testing.assert_array_equal(probe.predict_proba(X), probe.predict_proba(X))
    again = TorchProbe.from_state(*probe.state(), module=Normed)
    np.testing.assert_array_equal(again.predict_proba(X), probe.predict_proba(X))


def test_regression_and_seeds(ring):
    X, _ = ring
    target = 30 + np.linalg.norm(X, axis=1) ** 2
    first = TorchProbe(Bilinear, task="regression", learning_rate=3e-2).fit(X, target)
    assert first.score(X, target) > 0.9
    second = TorchProbe(Bilinear, task="regression", learning_rate=3e-2).fit(X, target)
    np.testing.assert_array_equal(first.predict(X), second.predict(X))


def test_the_description_holds_no_code(ring):
    described, _ = TorchProbe(Bilinear, {"rank": 3}, max_epochs=1).fit(*ring).state()
    assert "module" not in described["params"]
    assert described["params"]["params"] == {"rank": 3}


def test_works_inside_scikit_learn(ring):
    search = GridSearchCV(TorchProbe(Bilinear, max_epochs=2), {"params": [{"rank": 1}, {"rank": 2}]}, cv=2).fit(*ring)
    assert search.best_params_["params"]["rank"] in (1, 2)
    assert clone(TorchProbe(Bilinear)).module is Bilinear


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (TorchProbe(Wide), r"scores of the shape \(64, 1\), got \(64, 7\)"),
        (TorchProbe(Silent), "Silent has no parameters"),
        (TorchProbe(Bilinear, {"depth": 2}), "Bilinear cannot be made with in_features, depth"),
        (TorchProbe(dict), "dict is no torch module class"),
        (TorchProbe(lambda: {}), "gave a dict, a torch module was expected"),
    ],
)
def test_mistakes_are_told(probe, message, ring):
    with pytest.raises(UserError, match=message):
        probe.fit(*ring)
