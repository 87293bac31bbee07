"""Probes of a person's own, named by path."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.tree import DecisionTreeClassifier

from layerwise.errors import UserError
from layerwise.probes.build import build
from layerwise.probes.config import Custom
from layerwise.probes.crossval import fold_scores
from layerwise.probes.custom import find_class

FILE = """
import torch
from sklearn.linear_model import LogisticRegression

class Strong(LogisticRegression):
    def __init__(self, C=1e-6):
        super().__init__(C=C)

class Linear(torch.nn.Module):
    def __init__(self, in_features, out_features):
        super().__init__()
        self.map = torch.nn.Linear(in_features, out_features)
    def forward(self, x):
        return self.map(x)

class Nothing:
    pass

value = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "probes_of_mine.py"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def rows():
    X = np.random.default_rng(0).standard_normal((60, 4))
    return X, (X[:, 0] + X[:, 2] > 0).astype(int)


def test_an_installed_estimator_gets_the_seed_and_its_parameters(rows):
    path = "sklearn.tree.DecisionTreeClassifier"
    probe = build(Custom(path, {"max_depth": 2}), "classification", seed=5)
    assert isinstance(probe, DecisionTreeClassifier)
    assert (probe.max_depth, probe.random_state) == (2, 5)


def test_an_estimator_in_a_file(file, rows):
    X, y = rows
    probe = build(Custom(f"{file}:Strong"), "classification")
    assert np.abs(clone(probe).fit(X, y).coef_).max() < 1e-3
    assert fold_scores(probe, X, y, np.arange(60) % 3).shape == (1, 1, 60, 2)


def test_a_torch_module_is_trained(file, rows):
    X, y = rows
    probe = build(Custom(f"{file}:Linear", {"learning_rate": 0.05}), "classification", seed=1)
    assert (probe.learning_rate, probe.params) == (0.05, {})
    assert clone(probe).fit(X, y).score(X, y) > 0.85


def test_a_copy_of_a_file_is_the_same_module(file, tmp_path):
    copy = tmp_path / "copy.py"
    copy.write_text(FILE)
    assert find_class(f"{file}:Strong") is find_class(f"{copy}:Strong")
    copy.write_text(FILE + "\nother = 1\n")
    assert find_class(f"{file}:Strong") is not find_class(f"{copy}:Strong")


@pytest.mark.parametrize(
    ("path", "params", "message"),
    [
        ("nowhere.py:Probe", {}, "no file nowhere.py"),
        ("no_such_package.Probe", {}, "cannot import 'no_such_package'"),
        ("{file}:Strnog", {}, "has no class 'Strnog'. Did you mean 'Strong'?"),
        ("{file}:value", {}, "has no class 'value'"),
        ("{file}:Nothing", {}, "neither a scikit-learn estimator nor a torch module"),
        ("{file}:Strong", {"c": 1.0}, "cannot be made: .*'c'"),
    ],
)
def test_what_cannot_be_found_or_made_is_refused(path, params, message, file):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        build(Custom(path.format(file=file), params), "classification")


def test_a_file_that_fails_says_how(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("raise RuntimeError('no licence')")
    with pytest.raises(UserError, match=r"importing the probe .* failed: RuntimeError: no licence"):
        find_class(f"{path}:Probe")
