"""Settings of every kind of probe: what they accept, what they are called, and the estimators they become."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone, is_classifier, is_regressor

from layerwise.errors import UserError
from layerwise.probes import config as settings
from layerwise.probes.build import build
from layerwise.probes.config import KINDS, MLP, GaussianProcess, HistGradientBoosting, RandomForest, Ridge, parse

QUICK = {
    "random_forest": RandomForest(trees=5),
    "hist_gradient_boosting": HistGradientBoosting(iterations=5),
    "gaussian_process": GaussianProcess(optimize=False),
    "mlp": MLP(max_epochs=30),
    "glu": settings.GLU(max_epochs=30),
}
ON_ROWS = sorted(set(KINDS) - {"custom", "attention", "ccs"})


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 4)) * [1, 5, 0.2, 1]
    X[:, 1] *= 3  # the leading component, for the PCA probe
    return X, X[:, 1] + 0.3 * X[:, 0]


@pytest.mark.parametrize("kind", ON_ROWS)
@pytest.mark.parametrize("classes", [2, 3])
def test_every_kind_learns_classes(kind, classes, rows):
    X, values = rows
    y = np.digitize(values, np.quantile(values, np.arange(1, classes) / classes))
    standardize = {"standardize": False} if kind == "pca" else {}
    probe = build(QUICK.get(kind) or KINDS[kind](**standardize), "classification", seed=1, device="cpu")
    assert is_classifier(probe)
    assert clone(probe).fit(X, y).score(X, y) > (0.8 if classes == 2 else 0.6)
    np.testing.assert_array_equal(clone(probe).fit(X, y).predict(X), clone(probe).fit(X, y).predict(X))


@pytest.mark.parametrize("kind", ON_ROWS)
def test_every_kind_learns_targets_or_says_that_it_cannot(kind, rows):
    X, values = rows
    if "regression" not in KINDS[kind].tasks:
        with pytest.raises(
            UserError, match=f"probe '{kind}' cannot do regression, only classification.\nFor regression: .*ridge"
        ):
            build(KINDS[kind](), "regression")
        return
    standardize = {"standardize": False} if kind == "pca" else {}
    probe = build(QUICK.get(kind) or KINDS[kind](**standardize), "regression")
    assert is_regressor(probe)
    targets = values * 10 + 500
    assert clone(probe).fit(X, targets).score(X, targets) > 0.5


def test_tokens_are_classified():
    assert is_classifier(build(Ridge(), "tokens"))


@pytest.mark.parametrize("kind", ["attention", "ccs"])
def test_kinds_with_inputs_of_their_own_are_made(kind):
    probe = build(KINDS[kind](), "classification", seed=3, device="cpu")
    assert is_classifier(probe)
    assert clone(probe).get_params()["random_state"] == 3


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"custom"}))
def test_every_kind_is_named_by_one_word_and_labelled_by_what_differs(kind):
    config = parse(kind)
    assert config == KINDS[kind]()
    assert config.label == kind


def test_labels_say_what_differs():
    assert Ridge(alpha=10.0, standardize=False).label == "ridge(alpha=10.0, standardize=False)"
    assert parse("probes.mine.Probe").label == "custom(path=probes.mine.Probe)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parse("rige"), "unknown probe 'rige'. Did you mean 'ridge'?"),
        (lambda: parse("custom"), "path is empty"),
        (lambda: Ridge(alpha=-1.0), "alpha must be a number above 0, or 'path' .*, got -1.0"),
        (lambda: Ridge(alpha="paht"), "alpha must be .* got 'paht'"),
        (lambda: settings.Logistic(C=0.0), "C must be"),
        (lambda: settings.Lasso(alpha=0.0), "alpha must be a number above 0, got 0.0"),
        (lambda: settings.ElasticNet(l1_ratio=1.5), "l1_ratio must be between 0 and 1, got 1.5"),
        (lambda: settings.LDA(shrinkage="atuo"), "shrinkage must be 'auto', none or between 0 and 1, got 'atuo'"),
        (lambda: settings.LDA(shrinkage=1.5), "between 0 and 1"),
        (lambda: settings.KNN(neighbors=0), "neighbors must be a whole number of at least 1, got 0"),
        (lambda: settings.KNN(metric="cosin"), "unknown knn metric 'cosin'. Did you mean 'cosine'?"),
        (lambda: settings.SVR(kernel="rfb"), "unknown svr kernel 'rfb'. Did you mean 'rbf'?"),
        (lambda: MLP(layers=4), "layers must be 1, 2 or 3, got 4"),
        (lambda: MLP(weight_decay=-1.0), "weight_decay must be 0 or a number above, got -1.0"),
        (lambda: settings.GLU(activation="rleu"), "unknown glu activation 'rleu'. Did you mean 'relu'?"),
        (lambda: settings.CCS(method="tcp"), "unknown ccs method 'tcp'. Did you mean 'tpc'?"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        make()


def test_settings_import_nothing_heavy():
    """``--help`` reads them."""
    code = "import sys, layerwise.probes.config; print({'torch', 'sklearn', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
