"""Every kind of probe, saved and loaded without pickle, says the same; nothing else is loaded."""

from __future__ import annotations

import json

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from layerwise.errors import UserError
from layerwise.probes import config as settings
from layerwise.probes.build import build
from layerwise.probes.config import KINDS
from layerwise.probes.linear import LDAProbe
from layerwise.probes.outputs import outputs
from layerwise.probes.penalised import LogisticProbe
from layerwise.probes.saving import load_probe_estimator, save_probe

QUICK = {
    "random_forest": settings.RandomForest(trees=3),
    "hist_gradient_boosting": settings.HistGradientBoosting(iterations=3),
    "gaussian_process": settings.GaussianProcess(optimize=False),
    "mlp": settings.MLP(max_epochs=2),
    "glu": settings.GLU(max_epochs=2, activation="silu"),
    "attention": settings.AttentionProbe(max_epochs=2),
    "ccs": settings.CCS(tries=2, epochs=5),
}
MODULE_FILE = """
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
import numpy as np

class Bilinear(torch.nn.Module):
    def __init__(self, in_features, out_features, rank=2):
        super().__init__()
        self.down, self.up = torch.nn.Linear(in_features, rank), torch.nn.Linear(rank, out_features)
    def forward(self, x):
        return self.up(self.down(x) ** 2)

class Sign(ClassifierMixin, BaseEstimator):
    def __init__(self, column=0):
        self.column = column
    def fit(self, X, y):
        self.classes_, self.cut_ = np.unique(y), float(np.median(X[:, self.column]))
        return self
    def predict(self, X):
        return self.classes_[(X[:, self.column] > self.cut_).astype(int)]
"""


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).standard_normal((40, 4))
    return X, X[:, 0] + X[:, 1]


def features_for(kind: str, X: np.ndarray):
    if kind == "attention":
        return [row.reshape(2, 2) for row in X]
    return np.stack([X, -X], axis=1) if kind == "ccs" else X


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"custom"}))
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_every_kind_says_the_same_afterwards(kind, task, rows, tmp_path):
    if task not in KINDS[kind].tasks:
        pytest.skip("no such task")
    X, values = rows
    y = values if task == "regression" else np.array(["no", "yes"])[(values > 0).astype(int)]
    y = (values > 0).astype(int) if kind == "ccs" else y
    inputs = features_for(kind, X)
    probe = build(QUICK.get(kind) or KINDS[kind](), task, device="cpu").fit(inputs, y)
    save_probe(probe, tmp_path / "probe")
    again = load_probe_estimator(tmp_path / "probe")
    assert type(again) is type(probe)
    np.testing.assert_array_equal(again.predict(inputs), probe.predict(inputs))
    np.testing.assert_allclose(outputs(again, inputs), outputs(probe, inputs), rtol=1e-6)
    before, after = ({**one.get_params(), "device": ""} for one in (probe, again))  # devices differ by machine
    assert str(after) == str(before)
    if hasattr(probe, "coef_"):
        np.testing.assert_array_equal(again.coef_, probe.coef_)
    assert not [path for path in (tmp_path / "probe").iterdir() if path.suffix in (".pkl", ".pickle", ".joblib", ".pt")]


def test_a_pipeline_of_scikit_learns_own(rows, tmp_path):
    X, values = rows
    probe = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, values > 0)
    save_probe(probe, tmp_path / "probe")
    np.testing.assert_array_equal(load_probe_estimator(tmp_path / "probe").predict(X), probe.predict(X))


@pytest.mark.parametrize("name", ["Bilinear", "Sign"])
def test_custom_code_runs_only_where_it_is_allowed(name, rows, tmp_path):
    X, values = rows
    (tmp_path / "mine.py").write_text(MODULE_FILE)
    probe = build(settings.Custom(f"{tmp_path}/mine.py:{name}"), "classification").fit(X, (values > 0).astype(int))
    save_probe(probe, tmp_path / "probe")
    (tmp_path / "mine.py").unlink()  # the folder has its own copy
    with pytest.raises(UserError, match=f"custom_probe.py:{name}(.|\n)*allow_code=True"):
        load_probe_estimator(tmp_path / "probe")
    again = load_probe_estimator(tmp_path / "probe", allow_code=True)
    np.testing.assert_array_equal(again.predict(X), probe.predict(X))


def test_custom_code_that_was_changed_is_not_the_probe(rows, tmp_path):
    X, values = rows
    (tmp_path / "mine.py").write_text(MODULE_FILE)
    probe = build(settings.Custom(f"{tmp_path}/mine.py:Sign"), "classification").fit(X, (values > 0).astype(int))
    save_probe(probe, tmp_path / "probe")
    (tmp_path / "probe" / "custom_probe.py").write_text(MODULE_FILE + "\n# changed\n")
    with pytest.raises(UserError, match="not trusted"):
        load_probe_estimator(tmp_path / "probe", allow_code=True)


def test_code_outside_the_folder_is_refused(rows, tmp_path):
    X, values = rows
    (tmp_path / "mine.py").write_text(MODULE_FILE)
    save_probe(
        build(settings.Custom(f"{tmp_path}/mine.py:Sign"), "classification").fit(X, values > 0), tmp_path / "probe"
    )
    path = tmp_path / "probe" / "estimator.json"
    path.write_text(path.read_text().replace("custom_probe.py:Sign", "../mine.py:Sign"))
    with pytest.raises(UserError, match="outside its folder"):
        load_probe_estimator(tmp_path / "probe", allow_code=True)


def test_types_that_are_not_on_the_list_are_refused(rows, tmp_path):
    X, values = rows
    probe = make_pipeline(FunctionTransformer(str.upper), LogisticRegression())
    save_probe(LogisticRegression().fit(X, values > 0), tmp_path / "probe")
    skops.io.dump(probe, tmp_path / "probe" / "estimator.skops")
    with pytest.raises(UserError, match=r"not trusted: (.|\n)*Nothing of it was loaded"):
        load_probe_estimator(tmp_path / "probe")


def test_folders_without_a_whole_probe_are_refused(rows, tmp_path):
    X, values = rows
    with pytest.raises(UserError, match="holds no probe"):
        load_probe_estimator(tmp_path)
    save_probe(LDAProbe().fit(X, values > 0), tmp_path / "probe")
    with pytest.raises(UserError, match="exists already"):
        save_probe(LDAProbe().fit(X, values > 0), tmp_path / "probe")
    with pytest.raises(UserError, match="LogisticProbe is not fitted"):
        save_probe(LogisticProbe(), tmp_path / "other")
    tensors, described = tmp_path / "probe" / "tensors.safetensors", tmp_path / "probe" / "estimator.json"
    tensors.write_bytes(tensors.read_bytes()[:50])
    with pytest.raises(UserError, match=r"tensors.safetensors is missing or damaged"):
        load_probe_estimator(tmp_path / "probe")
    whole = json.loads(described.read_text())
    described.write_text(json.dumps({**whole, "format": 99}))
    with pytest.raises(UserError, match="not written by this version"):
        load_probe_estimator(tmp_path / "probe")
    described.write_text(json.dumps({**whole, "class": "Oracle"}))
    with pytest.raises(UserError, match="'Oracle', which this version of layerwise does not know"):
        load_probe_estimator(tmp_path / "probe")
    described.write_text("{")
    with pytest.raises(UserError, match=r"estimator.json is damaged"):
        load_probe_estimator(tmp_path / "probe")
