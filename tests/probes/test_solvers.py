"""The fast solvers against scikit-learn, fit by fit: every training set, penalty, label vector and site."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from layerwise.errors import UserError
from layerwise.probes.solvers import (
    lda_fits,
    logistic_fits,
    logistic_path,
    mass_mean_fits,
    nearest_centroid_fits,
    out_of_fold,
    ridge_fits,
    ridge_leave_one_out,
    ridge_path,
    training_sets,
)  # fmt: skip
from layerwise.probes.solvers.dense import Cholesky
from layerwise.probes.solvers.principal import principal_axes
from layerwise.probes.solvers.quasi_newton import Fits, minimise

TALL, SQUARE, WIDE = (120, 20), (60, 50), (40, 150)  # rows, features
ALPHAS = np.logspace(-2, 3, 6)
CS = np.logspace(-3, 1, 5)


def make_features(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Correlated features of very unequal scale, off centre, one of them constant."""
    rng = np.random.default_rng(seed)
    n, d = shape
    X = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) * np.geomspace(0.01, 100, d) + 50
    X[:, 1] = 7.1
    return X


def make_labels(n: int, classes: int, vectors: int = 1, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed + 100)
    return np.stack([rng.permutation(np.arange(n) % classes) for _ in range(vectors)], axis=1)


def make_folds(n: int, repeats: int = 1, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(np.arange(n) % 4) for _ in range(repeats)])


def folded_back(pipeline) -> tuple[np.ndarray, np.ndarray]:
    """Planes of a fitted scaler and linear model, in the original space."""
    scaler, model = pipeline[0], pipeline[-1]
    coef = np.atleast_2d(model.coef_) / scaler.scale_
    return coef, np.atleast_1d(model.intercept_) - coef @ scaler.mean_


def assert_equal_scores(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal to 1e-4 of the spread of the scores."""
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * max(theirs.std(), 1e-12))


@pytest.mark.parametrize("shape", [TALL, SQUARE, WIDE])
@pytest.mark.parametrize("standardize", [True, False])
def test_ridge_is_scikit_learns(shape, standardize):
    X, folds = make_features(shape), make_folds(shape[0], repeats=2)
    Y = np.random.default_rng(1).standard_normal((len(X), 3)) + X[:, :1]
    ours = ridge_path(X, Y, folds, ALPHAS, standardize)
    theirs = np.empty((2, len(ALPHAS), 3, len(X)))
    for repeat, fold in np.ndindex(2, 4):
        out = folds[repeat] == fold
        for index, alpha in enumerate(ALPHAS):
            scaler = StandardScaler(with_std=standardize)
            fitted = make_pipeline(scaler, Ridge(alpha)).fit(X[~out], Y[~out])
            theirs[repeat, index][:, out] = fitted.predict(X[out]).T
    assert_equal_scores(ours, theirs)


@pytest.mark.parametrize("penalties", [1, 3, 9])
def test_every_way_of_solving_for_penalties_agrees(penalties):
    """Few penalties are solved by Cholesky factors, many by one tridiagonal reduction."""
    X, folds = make_features(TALL), make_folds(TALL[0])
    Y = np.random.default_rng(1).standard_normal((len(X), 2))
    alphas = np.logspace(-2, 3, 9)
    some = ridge_fits(X, Y, training_sets(folds), alphas[:penalties])
    eigen, _ = ridge_leave_one_out(X, Y, training_sets(folds), alphas)
    np.testing.assert_allclose(some.coef, eigen.coef[:, :, :penalties], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shape", [TALL, WIDE])
def test_leave_one_out_errors_are_those_of_ridge_cv(shape):
    X = make_features(shape)
    y = X[:, 3] / 10 + np.random.default_rng(1).standard_normal(len(X))
    _, errors = ridge_leave_one_out(X, y, np.ones((1, len(X)), dtype=bool), ALPHAS)
    scaled = StandardScaler().fit_transform(X)
    theirs = RidgeCV(ALPHAS, store_cv_results=True).fit(scaled, y).cv_results_.mean(0)
    np.testing.assert_allclose(errors[0, 0, :, 0], theirs, rtol=1e-6)


@pytest.mark.parametrize("shape", [TALL, SQUARE, WIDE])
@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_is_scikit_learns_converged(shape, classes):
    X, y, folds = make_features(shape), make_labels(shape[0], classes)[:, 0], make_folds(shape[0])
    y[X[:, 5] > np.median(X[:, 5])] = 1  # something to learn
    y[:3] = np.arange(3) % classes
    Cs = CS[::-1]  # the order given is kept
    ours = logistic_path(X, y, folds, Cs)
    theirs = np.empty((1, len(Cs), 1, len(X), classes))
    for fold in range(4):
        out = folds[0] == fold
        scaler = StandardScaler().fit(X[~out])
        for index, C in enumerate(Cs):
            model = LogisticRegression(C=C, tol=1e-10, max_iter=100_000).fit(scaler.transform(X[~out]), y[~out])
            theirs[0, index, 0, out] = model.predict_proba(scaler.transform(X[out]))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("shape", [TALL, WIDE])
def test_logistic_without_standardisation(shape):
    X = make_features(shape) / 20
    y = make_labels(len(X), 2)[:, 0]
    fits = logistic_fits(X, y, np.ones((1, len(X)), dtype=bool), [0.1], standardize=False)
    reference = LogisticRegression(C=0.1, tol=1e-10, max_iter=1_000_000, solver="newton-cholesky").fit(X, y)
    assert_equal_scores(X @ fits.coef[0, 0, 0, 0].numpy().T, X @ reference.coef_.T)


def test_logistic_satisfies_its_own_optimality():
    """The gradient vanishes: computed from the definition, for more classes than have factors of their own."""
    X, y = make_features((200, 15)), make_labels(200, 11)[:, 0]
    scaled = StandardScaler().fit_transform(X)
    fits = logistic_fits(X, y, np.ones((1, 200), dtype=bool), [0.5])
    coef, intercept = (part[0, 0, 0, 0] for part in fits.numpy())
    logits = X @ coef.T + intercept
    residual = np.exp(logits - logits.max(1, keepdims=True))
    residual = residual / residual.sum(1, keepdims=True) - np.eye(11)[y]
    gradient = residual.T @ scaled + coef * X.std(0) / 0.5
    assert np.abs(gradient).max() < 1e-3  # beside sums over 200 rows
    assert np.abs(residual.sum(0)).max() < 1e-3


@pytest.mark.parametrize("shape", [TALL, WIDE])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("shrinkage", ["auto", 0.3, None])
def test_lda_is_scikit_learns(shape, classes, shrinkage):
    X, folds = make_features(shape), make_folds(shape[0])
    y = make_labels(len(X), classes)[:, 0]
    if shrinkage is None:
        if shape == WIDE:
            with pytest.raises(UserError, match=r"singular(.|\n)*shrinkage='auto'"):
                lda_fits(X, y, training_sets(folds), None)
            return
        X = np.delete(X, 1, axis=1)
    ours = out_of_fold(X, lda_fits(X, y, training_sets(folds), shrinkage), folds)[0, 0, 0]
    theirs = np.empty_like(ours)
    for fold in range(4):
        out = folds[0] == fold
        model = LinearDiscriminantAnalysis(solver="svd" if shrinkage is None else "lsqr", shrinkage=shrinkage)
        theirs[:, out] = model.fit(X[~out], y[~out]).decision_function(X[out]).reshape(out.sum(), -1).T
    if classes > 2:  # scores of all classes may share an offset
        ours, theirs = ours - ours.mean(0), theirs - theirs.mean(0)
    assert_equal_scores(ours, theirs)


@pytest.mark.parametrize("classes", [2, 3])
def test_nearest_centroid_is_scikit_learns(classes):
    X, folds = make_features(TALL), make_folds(TALL[0])
    y = make_labels(len(X), classes)[:, 0]
    scores = out_of_fold(X, nearest_centroid_fits(X, y, training_sets(folds)), folds)[0, 0, 0]
    ours = (scores[0] > 0).astype(int) if classes == 2 else scores.argmax(0)
    for fold in range(4):
        out = folds[0] == fold
        reference = make_pipeline(StandardScaler(), NearestCentroid()).fit(X[~out], y[~out])
        np.testing.assert_array_equal(ours[out], reference.predict(X[out]))


def test_mass_mean_is_the_difference_of_means_with_its_threshold_between():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    X = rng.standard_normal((200, 5)) + np.outer(y, [2.0, -1, 0, 0, 0])
    coef, intercept = (part[0, 0, 0, 0] for part in mass_mean_fits(X, y, np.ones((1, 200), dtype=bool)).numpy())
    means = np.stack([X[y == one].mean(0) for one in (0, 1)])
    difference = means[1] - means[0]
    np.testing.assert_allclose(coef / np.linalg.norm(coef), difference / np.linalg.norm(difference), atol=1e-12)
    assert abs(means.mean(0) @ coef + intercept) < 1e-9
    along = np.concatenate([(X[y == one] - means[one]) @ coef for one in (0, 1)])
    np.testing.assert_allclose(along.var(), (means[1] - means[0]) @ coef, rtol=1e-9)  # log odds of equal variances


def test_mass_mean_with_covariance_finds_the_direction_that_noise_hides():
    rng = np.random.default_rng(0)
    y = np.arange(4000) % 2
    noise = rng.standard_normal((4000, 2)) @ np.array([[3.0, 2.9], [0, 0.3]])
    X = noise + np.outer(y, [1.0, 0.0])
    plain, turned = (mass_mean_fits(X, y, np.ones((1, 4000), dtype=bool), covariance=c) for c in (False, True))
    accuracy = [((X @ fit.coef[0, 0, 0, 0].numpy() + fit.intercept.item() > 0) == y).mean() for fit in (plain, turned)]
    assert accuracy[0] < 0.65 < 0.85 < accuracy[1]


@pytest.mark.parametrize("shape", [TALL, WIDE])
@pytest.mark.parametrize("standardize", [True, False])
def test_principal_axes_are_scikit_learns(shape, standardize):
    X, folds = make_features(shape), make_folds(shape[0])
    axes, centre = principal_axes(X, training_sets(folds), 2, standardize)
    inside = folds[0] != 1
    reference = make_pipeline(StandardScaler(with_std=standardize), PCA(2)).fit(X[inside])
    ours = (X - centre[0, 1].numpy()) @ axes[0, 1].numpy().T
    theirs = reference.transform(X)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-6 * np.abs(theirs).max())


SOLVERS = {
    "ridge": lambda X, Y, training: ridge_fits(X, Y, training, ALPHAS),
    "ridge_leave_one_out": lambda X, Y, training: ridge_leave_one_out(X, Y, training, ALPHAS)[0],
    "logistic": lambda X, Y, training: logistic_fits(X, Y, training, CS),
    "lda": lambda X, Y, training: lda_fits(X, Y, training),
    "mass_mean": lambda X, Y, training: mass_mean_fits(X, Y, training),
    "mass_mean_covariance": lambda X, Y, training: mass_mean_fits(X, Y, training, covariance=True),
    "nearest_centroid": lambda X, Y, training: nearest_centroid_fits(X, Y, training),
}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("shape", [TALL, WIDE])
def test_a_batch_is_its_members_one_by_one(name, shape):
    """Sites, label vectors and training sets side by side give what each gives alone."""
    sites = np.stack([make_features(shape, seed) for seed in range(2)])
    Y, training = make_labels(shape[0], 3, vectors=2), training_sets(make_folds(shape[0], repeats=2))
    together = SOLVERS[name](sites, Y, training)
    labels_axis = together.coef.ndim - (2 if name.startswith("ridge") else 3)
    for site, which, vector in [(0, 0, 1), (1, 5, 0)]:
        alone = SOLVERS[name](sites[site], Y[:, vector], training[which : which + 1])
        chosen = together.coef[site, which].select(labels_axis - 2, vector)
        reference = alone.coef[0, 0].select(labels_axis - 2, 0)
        np.testing.assert_allclose(chosen, reference, atol=1e-4 * float(reference.abs().max()))


@pytest.mark.parametrize("name", SOLVERS)
def test_held_out_rows_have_no_influence(name):
    X, Y = make_features(TALL), make_labels(TALL[0], 3)
    training = training_sets(make_folds(TALL[0]))[:1]
    before = SOLVERS[name](X, Y, training)
    X[~training[0]] = np.random.default_rng(9).permuted(X[~training[0]], axis=0) * 3
    after = SOLVERS[name](X, Y, training)
    np.testing.assert_allclose(before.coef, after.coef, rtol=0, atol=1e-5 * float(before.coef.abs().max()))


@pytest.mark.parametrize("bad", [[0.0], [-1.0], [np.nan], []])
def test_penalties_must_be_above_zero(bad):
    X, y = make_features(TALL), make_labels(TALL[0], 2)
    training = np.ones((1, len(X)), dtype=bool)
    with pytest.raises(UserError, match="above 0"):
        ridge_fits(X, y, training, bad)
    with pytest.raises(UserError, match="above 0"):
        logistic_fits(X, y, training, bad)


def test_a_class_that_a_training_set_lacks_is_named():
    X, y = make_features(TALL), np.zeros(TALL[0], dtype=int)
    y[:20], y[20] = 1, 2
    training = np.ones((2, len(X)), dtype=bool)
    training[1, 20] = False
    for solver in (lda_fits, mass_mean_fits, nearest_centroid_fits):
        with pytest.raises(UserError, match="training set 1 has no row of class 2"):
            solver(X, y, training)


def test_shapes_that_do_not_fit_are_refused():
    X, y = make_features(TALL), make_labels(TALL[0], 2)
    with pytest.raises(UserError, match=r"boolean array of shape \(sets, 120\)"):
        ridge_fits(X, y, np.ones((1, 5), dtype=bool), [1.0])
    with pytest.raises(UserError, match="120 rows of features but 119"):
        ridge_fits(X, y[:-1], np.ones((1, 120), dtype=bool), [1.0])
    with pytest.raises(UserError, match="at least two rows"):
        lda_fits(X, y, np.arange(120)[None] < 1)


def test_a_penalty_too_small_for_dependent_features_says_so():
    X = np.repeat(make_features(TALL)[:, :1], 6, axis=1) * 1e4
    with pytest.raises(UserError, match="too small for these features"):
        ridge_fits(X, X[:, 0], np.ones((1, len(X)), dtype=bool), [1e-30], standardize=False)


@pytest.mark.parametrize("name", SOLVERS)
def test_features_that_are_all_constant_say_nothing_and_break_nothing(name):
    """The embedding of a last token that is always the full stop."""
    rng = np.random.default_rng(0)
    X, y = np.tile(rng.standard_normal(30), (40, 1)), make_labels(40, 2)[:, 0]
    coef, intercept = SOLVERS[name](X, y, training_sets(make_folds(40))).numpy()
    assert np.isfinite(coef).all()
    scores = coef @ X[0] + intercept
    assert np.abs(scores - scores.mean()).max() < 1.5  # what the class shares of a training set say
    np.testing.assert_allclose(coef @ rng.standard_normal(30) + intercept, scores, atol=1e-6)


def test_a_logistic_fit_is_the_same_beside_a_factor_that_makes_its_steps_too_long():
    """Newton's steps go too far where the fit saturates; the length that is best on the line may be far below one."""
    X = torch.cat([torch.as_tensor(make_features(SQUARE))[:, 2:12], torch.ones(SQUARE[0], 1)], dim=1)[None]
    X[..., :-1] = (X[..., :-1] - X[..., :-1].mean(1)) / X[..., :-1].std(1)
    targets = torch.as_tensor(make_labels(SQUARE[0], 2).T[:, None], dtype=torch.float64)
    rows = torch.ones(1, SQUARE[0], dtype=torch.float64)
    penalty = torch.full((1, 1, X.shape[2]), 0.01, dtype=torch.float64)
    found, _ = minimise(X, targets, rows, penalty, Fits.at_zero(X, 1, 1), own=False)
    soft = Cholesky.of(1e-3 * torch.eye(X.shape[2], dtype=torch.float64)[None])
    again, _ = minimise(X, targets, rows, penalty, Fits.at_zero(X, 1, 1), own=False, known=soft)
    torch.testing.assert_close(again.weights, found.weights, rtol=0, atol=1e-4)


def test_mass_mean_with_covariance_turns_the_direction_of_every_class():
    X, y = make_features(TALL)[:, 2:8], make_labels(TALL[0], 3)[:, 0]
    X = X + np.outer(y, np.arange(6)) * X.std(0)
    planes, _ = mass_mean_fits(X, y, np.ones((1, len(X)), dtype=bool), covariance=True).numpy()
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(X, y)
    for one in range(3):
        difference = X[y == one].mean(0) - X[y != one].mean(0)
        np.testing.assert_allclose(planes[0, 0, 0, one], np.linalg.solve(lda.covariance_, difference), rtol=1e-6)
