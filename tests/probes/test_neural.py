from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score

from layerwise.errors import UserError
from layerwise.probes.neural import GLUProbe, MLPProbe
from layerwise.probes.threads import threads_for
from layerwise.probes.training_loop import hold_out

PROBES = [
    MLPProbe(layers=1, hidden=16),
    MLPProbe(layers=2, hidden=16),
    MLPProbe(layers=3, hidden=16),
    GLUProbe(hidden=16),
    GLUProbe("relu", hidden=16),
]
every_probe = pytest.mark.parametrize("probe", PROBES, ids=str)


@pytest.fixture(scope="module")
def plane():
    """Linearly separable up to a little noise; features with unlike means and scales."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 8))
    y = (X @ rng.normal(size=8) + 0.1 * rng.normal(size=300) > 0).astype(int)
    return (X * np.logspace(-2, 2, 8) + np.arange(8) * 10).astype(np.float32), y


@pytest.fixture(scope="module")
def ring():
    """Classes no plane can part: inside and outside of a ring."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(400, 2)).astype(np.float32)
    return X, (np.linalg.norm(X, axis=1) > 1.2).astype(int)


@every_probe
def test_learns_a_plane_whatever_the_scale_of_features(probe, plane):
    X, y = plane
    probe = clone(probe).set_params(learning_rate=1e-2)
    assert probe.fit(X[:200], y[:200]).score(X[200:], y[200:]) > 0.9


@pytest.mark.parametrize("probe", [p for p in PROBES if p.get_params().get("layers") != 1], ids=str)
def test_hidden_layers_learn_what_a_plane_cannot(probe, ring):
    X, y = ring
    settings = {"max_epochs": 300, "learning_rate": 1e-2}
    deep = clone(probe).set_params(**settings).fit(X[:300], y[:300]).score(X[300:], y[300:])
    flat = MLPProbe(layers=1, **settings).fit(X[:300], y[:300]).score(X[300:], y[300:])
    assert deep > 0.9
    assert flat < 0.75


@every_probe
def test_three_named_classes_and_probabilities(probe):
    rng = np.random.default_rng(2)
    names = np.array(["past", "present", "future"])
    y = rng.integers(3, size=240)
    X = rng.normal(size=(240, 5)) + 4 * np.eye(3, 5)[y]
    fitted = clone(probe).set_params(batch_size=16).fit(X, names[y])
    probabilities = fitted.predict_proba(X)
    assert fitted.classes_.tolist() == sorted(names)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    assert (fitted.classes_[probabilities.argmax(1)] == fitted.predict(X)).all()
    assert fitted.score(X, names[y]) > 0.95
    assert fitted.decision_function(X).shape == (240, 3)


@every_probe
def test_regression_on_targets_far_from_zero(probe):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(300, 4))
    y = 500 + 20 * X[:, 0] - 10 * X[:, 1]
    fitted = clone(probe).set_params(task="regression", learning_rate=1e-2).fit(X[:200], y[:200])
    assert fitted.score(X[200:], y[200:]) > 0.9
    assert not hasattr(fitted, "predict_proba")
    assert is_regressor(fitted)
    assert not is_classifier(fitted)


@every_probe
def test_side_by_side_equals_one_by_one(probe, plane):
    X, y = plane
    folds = np.random.default_rng(0).permutation(300)[None] % 5
    probe = clone(probe).set_params(max_epochs=8)
    together = probe.fold_scores(X, y, folds)[0, 0]
    for fold in range(5):
        test = folds[0] == fold
        alone = clone(probe).fit(X[~test], y[~test]).predict_proba(X[test])
        np.testing.assert_allclose(together[test], alone, atol=1e-4)


def test_members_that_stop_early_do_not_go_on_in_company(plane):
    X, y = plane
    shuffled = np.random.default_rng(5).permutation(y)
    folds = np.arange(300)[None] % 3
    probe = MLPProbe(hidden=16, patience=2, learning_rate=1e-2)
    together = probe.fold_scores(X, np.stack([y, shuffled], axis=1), folds)
    alone = probe.fold_scores(X, shuffled, folds)
    np.testing.assert_allclose(together[:, 1], alone[:, 0], atol=1e-4)


def test_many_label_vectors_repeats_and_classes(plane):
    X, _ = plane
    rng = np.random.default_rng(6)
    Y = rng.integers(3, size=(300, 4))
    folds = np.stack([rng.permutation(300) % 3, rng.permutation(300) % 3])
    scores = MLPProbe(hidden=4, max_epochs=2).fold_scores(X, Y, folds)
    assert scores.shape == (2, 4, 300, 3)
    np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-6)


def test_regression_side_by_side(plane):
    X, _ = plane
    y = 100 + X[:, -1]
    probe = MLPProbe(layers=1, task="regression", learning_rate=1e-2)
    folds = np.arange(300)[None] % 4
    scores = probe.fold_scores(X, y, folds)
    assert scores.shape == (1, 1, 300, 1)
    alone = clone(probe).fit(X[folds[0] != 2], y[folds[0] != 2]).predict(X[folds[0] == 2])
    np.testing.assert_allclose(scores[0, 0, folds[0] == 2, 0], alone, rtol=1e-4)


def test_one_layer_is_linear_in_the_original_features(plane):
    X, y = plane
    probe = MLPProbe(layers=1).fit(X, y)
    assert probe.coef_.shape == (1, 8)
    np.testing.assert_allclose(X @ probe.coef_[0] + probe.intercept_[0], probe.decision_function(X), atol=1e-3)
    assert not hasattr(MLPProbe(layers=2).fit(X, y), "coef_")
    values = MLPProbe(layers=1, task="regression").fit(X, 50 + 3 * y)
    np.testing.assert_allclose(X @ values.coef_[0] + values.intercept_[0], values.predict(X), atol=1e-2)


def test_one_layer_trained_to_the_end_is_logistic_regression():
    rng = np.random.default_rng(7)
    X = rng.normal(size=(400, 3))
    y = (X[:, 0] + rng.logistic(size=400) > 0).astype(int)
    settings = {"validation_share": 0, "weight_decay": 0, "learning_rate": 1e-2, "batch_size": 400, "max_epochs": 1500}
    probe = MLPProbe(layers=1, **settings).fit(X, y)
    reference = LogisticRegression(C=np.inf, tol=1e-8).fit(X, y)
    np.testing.assert_allclose(probe.coef_, reference.coef_, atol=1e-3)
    np.testing.assert_allclose(probe.intercept_, reference.intercept_, atol=1e-3)


def test_the_best_weights_are_kept(ring):
    X, y = ring
    probe = MLPProbe(hidden=64, learning_rate=3e-2, max_epochs=200, patience=5, validation_share=0.3).fit(X, y)
    assert len(probe.validation_loss_) == len(probe.train_loss_) < 200
    assert probe.best_epoch_ == int(np.argmin(probe.validation_loss_))
    assert len(probe.validation_loss_) == probe.best_epoch_ + 1 + 5
    _, held = hold_out(y, 0.3, 0, stratify=True)
    chosen = np.log(probe.predict_proba(X[held])[np.arange(len(held)), y[held]])
    assert -chosen.mean() == pytest.approx(min(probe.validation_loss_), abs=1e-5)


def test_the_seed_decides_and_the_global_generator_is_left_alone(ring):
    X, y = ring
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = MLPProbe(max_epochs=3, random_state=1).fit(X, y).predict_proba(X)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(first, MLPProbe(max_epochs=3, random_state=1).fit(X, y).predict_proba(X))
    assert np.abs(first - MLPProbe(max_epochs=3, random_state=2).fit(X, y).predict_proba(X)).max() > 1e-3


def test_works_inside_scikit_learn(plane):
    X, y = plane
    search = GridSearchCV(MLPProbe(max_epochs=20), {"layers": [1, 2], "hidden": [4]}, cv=StratifiedKFold(3)).fit(X, y)
    assert search.best_score_ > 0.85
    assert is_classifier(search.best_estimator_)
    assert len(cross_val_score(GLUProbe(max_epochs=5), X, y, cv=3)) == 3
    assert clone(GLUProbe("gelu", hidden=7)).get_params()["hidden"] == 7


@every_probe
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_saved_state_gives_the_same_predictions(probe, task, plane):
    X, y = plane
    fitted = clone(probe).set_params(task=task, max_epochs=3).fit(X, y)
    described, tensors = fitted.state()
    again = type(probe).from_state(described, tensors)
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))
    assert again.get_params() == fitted.get_params()
    assert again.train_loss_ == fitted.train_loss_


def test_damaged_state_is_told(plane):
    described, tensors = MLPProbe(max_epochs=1).fit(*plane).state()
    with pytest.raises(UserError, match="saved MLPProbe is damaged"):
        MLPProbe.from_state({**described, "width": 9}, tensors)
    with pytest.raises(UserError, match="damaged"):
        MLPProbe.from_state({}, tensors)


def test_held_out_rows_keep_the_classes_and_small_data_is_used_whole():
    y = np.array([0] * 90 + [1] * 10)
    training, validation = hold_out(y, 0.2, 0, stratify=True)
    assert sorted([*training, *validation]) == list(range(100))
    assert np.bincount(y[validation]).tolist() == [18, 2]
    assert len(hold_out(y[:9], 0.5, 0, stratify=True)[1]) == 0
    alone = np.array([0] * 20 + [1])
    assert 20 in hold_out(alone, 0.5, 0, stratify=True)[0]


def test_a_constant_feature_does_no_harm(plane):
    X, y = plane
    widened = np.concatenate([X, np.full((300, 1), 7.7, dtype=np.float32)], axis=1)
    assert MLPProbe(layers=1).fit(widened, y).score(widened, y) > 0.9


@pytest.mark.parametrize(
    ("probe", "change", "message"),
    [
        (MLPProbe(layers=4), {}, "1, 2 or 3 layers, got 4"),
        (MLPProbe(hidden=0), {}, "hidden must be at least 1, got 0"),
        (MLPProbe(patience=0), {}, "patience must be above 0"),
        (MLPProbe(validation_share=1.0), {}, "validation_share must be at least 0 and below 1"),
        (MLPProbe(device="gpu9"), {}, "device 'gpu9' cannot be used"),
        (MLPProbe(task="ranking"), {}, "unknown task 'ranking'"),
        (GLUProbe(activation="sinus"), {}, "unknown activation 'sinus'"),
        (MLPProbe(), {"y": np.zeros(300)}, "at least two classes"),
        (MLPProbe(), {"y": np.zeros(299)}, "300 rows of features, but 299 labels"),
        (MLPProbe(), {"X": np.full((300, 2), np.nan)}, "row 0 of the features has a value that is not a finite"),
        (MLPProbe(), {"X": np.zeros(300)}, r"got the shape \(300,\)"),
        (MLPProbe(task="regression"), {"y": np.full(300, np.inf)}, "target is not a finite number"),
    ],
)
def test_mistakes_are_told(probe, change, message, plane):
    with pytest.raises(UserError, match=message):
        probe.fit(change.get("X", plane[0]), change.get("y", plane[1]))


def test_another_width_is_told(plane):
    with pytest.raises(UserError, match="fitted on 8 features, got 5"):
        MLPProbe(max_epochs=1).fit(*plane).predict(plane[0][:, :5])


def test_small_work_on_the_cpu_gets_one_thread_and_the_count_is_restored():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threads_for(1000, torch.device("cpu")):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with threads_for(10**9, torch.device("cpu")):
        assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
