"""Our estimators keep scikit-learn's contract, and their directions are in the features' own space."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import Lasso, LogisticRegression, RidgeClassifierCV, RidgeCV, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC, LinearSVR
from sklearn.utils.estimator_checks import parametrize_with_checks

from layerwise.errors import UserError
from layerwise.probes.linear import LDAProbe, MassMeanProbe, NearestCentroidProbe
from layerwise.probes.penalised import LogisticProbe, RidgeClassifierProbe, RidgeRegressorProbe
from layerwise.probes.principal import PCAClassifierProbe, PCARegressorProbe
from layerwise.probes.scaled import ScaledProbe, SquaredErrorClassifier

CLASSIFIERS = [
    LogisticProbe(), LogisticProbe("path"), LDAProbe(), MassMeanProbe(), MassMeanProbe(covariance=True),
    NearestCentroidProbe(), RidgeClassifierProbe(), RidgeClassifierProbe(1.0), PCAClassifierProbe(2),
    ScaledProbe(LinearSVC()), ScaledProbe(SquaredErrorClassifier(Lasso(0.01))),
]  # fmt: skip
REGRESSORS = [
    RidgeRegressorProbe(), RidgeRegressorProbe(1.0, standardize=False), PCARegressorProbe(3), ScaledProbe(Lasso(0.01)),
    ScaledProbe(LinearSVR(loss="squared_epsilon_insensitive")),
]  # fmt: skip


@parametrize_with_checks(
    [LogisticProbe(), LogisticProbe("path"), LDAProbe(), MassMeanProbe(), MassMeanProbe(covariance=True), NearestCentroidProbe(),
     RidgeClassifierProbe(), RidgeRegressorProbe(), PCAClassifierProbe(), PCARegressorProbe(),
     ScaledProbe(LinearSVC()), ScaledProbe(Lasso(0.01)), ScaledProbe(SquaredErrorClassifier(Lasso(0.01)))]
)  # fmt: skip
def test_scikit_learns_contract(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of unequal scale, three classes, targets."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 6)) * [1, 10, 0.1, 1, 5, 1] + 3
    values = X[:, 0] + X[:, 1] / 10 - X[:, 4] / 5
    return X, np.digitize(values, np.quantile(values, [1 / 3, 2 / 3])), values * 40 + 1000


@pytest.mark.parametrize("probe", CLASSIFIERS, ids=str)
@pytest.mark.parametrize("classes", [2, 3])
def test_planes_give_the_decisions(probe, classes, rows):
    X, y, _ = rows
    y = np.array(["no", "yes", "maybe"])[np.minimum(y, classes - 1)]
    fitted = clone(probe).fit(X, y)
    assert fitted.coef_.shape == (1 if classes == 2 else 3, 6)
    scores = X @ fitted.coef_.T + fitted.intercept_
    np.testing.assert_allclose(fitted.decision_function(X), scores[:, 0] if classes == 2 else scores, atol=1e-8)
    codes = (scores[:, 0] > 0).astype(int) if classes == 2 else scores.argmax(1)
    np.testing.assert_array_equal(fitted.predict(X), fitted.classes_[codes])
    if hasattr(fitted, "predict_proba"):
        probabilities = fitted.predict_proba(X)
        np.testing.assert_allclose(probabilities.sum(1), 1)
        np.testing.assert_array_equal(fitted.classes_[probabilities.argmax(1)], fitted.predict(X))


@pytest.mark.parametrize("probe", REGRESSORS, ids=str)
def test_planes_give_the_values(probe, rows):
    X, _, values = rows
    fitted = clone(probe).fit(X, values)
    assert fitted.coef_.shape == (1, 6)
    np.testing.assert_allclose(fitted.predict(X), X @ fitted.coef_[0] + fitted.intercept_[0], rtol=1e-9)


@pytest.mark.parametrize("probe", CLASSIFIERS[:8] + REGRESSORS[:3], ids=str)
def test_fold_scores_are_fits_one_by_one(probe, rows):
    X, y, values = rows
    target = y if hasattr(probe, "decision_function") else values
    Y = np.stack([target, np.random.default_rng(1).permutation(target)], axis=1)
    folds = np.stack([np.random.default_rng(seed).permutation(90) % 3 for seed in (2, 3)])
    together = clone(probe).fold_scores(X, Y, folds)
    out = folds[1] == 2
    alone = clone(probe).fit(X[~out], Y[~out, 1])
    expected = next(
        getattr(alone, name)(X[out])
        for name in ("predict_proba", "decision_function", "predict")
        if hasattr(alone, name)
    )
    np.testing.assert_allclose(together[1, 1, out], expected.reshape(out.sum(), -1), rtol=1e-4, atol=1e-4)


def test_grid_search_and_nested_parameters(rows):
    X, y, _ = rows
    search = GridSearchCV(LogisticProbe(), {"C": [1e-4, 1.0]}).fit(X, y)
    assert search.best_params_ == {"C": 1.0}
    nested = GridSearchCV(ScaledProbe(LinearSVC()), {"estimator__C": [1e-6, 1.0]}).fit(X, y)
    assert nested.best_params_ == {"estimator__C": 1.0}


def test_ridge_chooses_the_penalty_that_ridge_cv_chooses(rows):
    X, y, values = rows
    noisy = values + np.random.default_rng(0).standard_normal(90) * 60
    probe = RidgeRegressorProbe().fit(X, noisy)
    scaled = StandardScaler().fit_transform(X)
    assert probe.alpha_ == pytest.approx(RidgeCV(probe.alphas).fit(scaled, noisy).alpha_)
    classifier = RidgeClassifierProbe().fit(X, y)
    reference = RidgeClassifierCV(classifier.alphas).fit(scaled, y)
    assert classifier.alpha_ == pytest.approx(reference.alpha_)
    np.testing.assert_allclose(classifier.decision_function(X), reference.decision_function(scaled), atol=1e-6)


def test_logistic_chooses_weak_penalties_for_signal_and_strong_ones_for_noise(rows):
    X, y, _ = rows
    assert LogisticProbe("path").fit(X, y).C_ >= 1
    assert LogisticProbe("path").fit(X, np.random.default_rng(0).permutation(y)).C_ <= 0.01


def test_logistic_is_the_pipeline_it_names(rows):
    X, y, _ = rows
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000)).fit(X, y)
    np.testing.assert_allclose(LogisticProbe(0.5).fit(X, y).predict_proba(X), reference.predict_proba(X), atol=1e-5)


def test_pca_finds_its_direction_without_labels(rows):
    X, y, _ = rows
    first, second = PCAClassifierProbe().fit(X, y > 0), PCAClassifierProbe().fit(X, y > 1)
    cosine = (first.coef_[0] @ second.coef_[0]) / np.linalg.norm(first.coef_) / np.linalg.norm(second.coef_)
    assert abs(cosine) == pytest.approx(1)


def test_a_scaled_probe_without_planes_has_none(rows):
    X, y, values = rows
    assert not hasattr(ScaledProbe(LinearSVC()), "coef_")
    assert not hasattr(ScaledProbe(KNeighborsRegressor()).fit(X, values), "coef_")
    assert not hasattr(ScaledProbe(SVC(kernel="linear")).fit(X, y), "coef_")  # one against one: not a plane a class
    assert not hasattr(ScaledProbe(LinearSVC()).fit(X, y), "predict_proba")
    assert hasattr(ScaledProbe(SGDClassifier(loss="log_loss")), "predict_proba")


def test_targets_of_any_unit_give_the_same_fit(rows):
    X, _, values = rows
    for probe in (ScaledProbe(LinearSVR(loss="squared_epsilon_insensitive")), ScaledProbe(Lasso(0.1))):
        small, large = clone(probe).fit(X, values / 1e6), clone(probe).fit(X, values)
        np.testing.assert_allclose(small.coef_ * 1e6, large.coef_, rtol=1e-6)


@pytest.mark.parametrize("probe", [LogisticProbe(), RidgeRegressorProbe(), ScaledProbe(Lasso())], ids=str)
def test_features_that_are_not_finite_are_refused(probe, rows):
    X, y, _ = rows
    X = X.copy()
    X[4, 2], X[7, 1] = np.nan, np.inf
    with pytest.raises(UserError, match="NaN or inf in 2 of 90 rows"):
        probe.fit(X, y)
    if hasattr(probe, "fold_scores"):
        with pytest.raises(UserError, match="NaN or inf"):
            probe.fold_scores(X, y, np.arange(90) % 3)


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (LogisticProbe(C=0), "C must be a number above 0, or 'path', got 0"),
        (RidgeClassifierProbe(alpha="paht"), "alpha must be a number above 0, or 'path', got 'paht'"),
        (LDAProbe(shrinkage=2.0), "shrinkage must be 'auto', none or between 0 and 1, got 2.0"),
        (PCAClassifierProbe(components=7), "components must lie between 1 and 6 .*, got 7"),
        (LogisticProbe(device="cdua"), "device 'cdua' cannot be used"),
    ],
    ids=str,
)
def test_parameters_that_make_no_sense_are_refused(probe, message, rows):
    with pytest.raises(UserError, match=message):
        probe.fit(rows[0], rows[1])


def test_labels_that_cannot_be_learnt_are_refused(rows):
    X, y, values = rows
    with pytest.raises(UserError, match="labels have one class: 1"):
        LDAProbe().fit(X, np.ones(90, dtype=int))
    with pytest.raises(UserError, match="one class"):
        LDAProbe().fold_scores(X, np.ones(90, dtype=int), np.arange(90) % 3)
    with pytest.raises(UserError, match="Unknown label type: continuous"):
        LogisticProbe().fit(X, values)
    with pytest.raises(UserError, match="at least 3 training rows of every class"):
        LogisticProbe("path").fit(X[:6], [0, 0, 0, 0, 1, 1])
    with pytest.raises(UserError, match="X has 5 features, but LDAProbe is expecting 6"):
        LDAProbe().fit(X, y).predict(X[:, :5])
