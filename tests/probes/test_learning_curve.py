from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC

from layerwise.errors import UserError
from layerwise.probes.learning_curve import learning_curve


def labelled(n: int = 400, d: int = 20, n_classes: int = 2, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % n_classes)
    return rng.normal(size=(n, d)) + np.eye(d)[y], y


def test_more_items_score_higher_and_surer():
    X, y = labelled()
    curve = learning_curve(LogisticRegression(), X, y, repeats=8)
    table = curve.to_frame()
    assert table["size"].iloc[0] == 10
    assert table["size"].iloc[-1] == 320
    assert table["size"].is_monotonic_increasing
    assert table["mean"].iloc[-1] > table["mean"].iloc[0] + 0.08
    assert (table["low"] < table["mean"]).all()
    assert (table["mean"] < table["high"]).all()
    assert (table["high"] <= 1).all()


def test_the_dip_where_items_equal_features():
    """Least squares on as many items as features does worse than on fewer: the double descent of the LDA curves of 2021."""
    X, y = labelled(n=500, d=60)
    X = X + 2 * np.eye(60)[y]
    means = learning_curve(LinearDiscriminantAnalysis(), X, y, sizes=[20, 62, 400], repeats=10).to_frame()["mean"]
    assert means[1] < means[0] < means[2]


def test_the_same_seed_gives_the_same_curve():
    X, y = labelled()
    curves = [learning_curve(LogisticRegression(), X, y, [20, 50], seed=s).scores for s in (1, 1, 2)]
    assert np.array_equal(curves[0], curves[1])
    assert not np.array_equal(curves[0], curves[2])


class Recorder(LogisticRegression):
    seen: list[np.ndarray] = []  # noqa: RUF012 - shared by the clones on purpose

    def fit(self, X, y):
        Recorder.seen.append(X[:, 0].astype(int))
        return super().fit(X, y)


def test_training_sets_are_nested_balanced_and_keep_groups_out():
    y = np.arange(200) % 2
    groups = np.repeat(np.arange(50), 4)
    X = np.stack([np.arange(200), y], axis=1).astype(float)
    Recorder.seen = []
    learning_curve(Recorder(), X, y, sizes=[10, 40, 120], repeats=2, groups=groups)
    for small, middle, large in (Recorder.seen[:3], Recorder.seen[3:]):
        assert set(small) < set(middle) < set(large)
        assert [len(rows) for rows in (small, middle, large)] == [10, 40, 120]
        assert [int(y[rows].sum()) for rows in (small, middle, large)] == [5, 20, 60]
        assert len(set(groups[large])) <= 40
    assert set(Recorder.seen[2]) != set(Recorder.seen[5])


def test_regression_and_other_metrics():
    X, _ = labelled()
    y = X[:, 0] + 0.1
    assert learning_curve(Ridge(), X, y, [20, 200], task="regression").to_frame()["mean"].iloc[-1] > 0.9
    labels = (y > 0).astype(int)
    assert learning_curve(LogisticRegression(), X, labels, [200], metric="log_loss").to_frame()["mean"].item() < 0.5


def test_sizes_that_miss_a_class_are_left_out_not_guessed():
    X, y = labelled(n_classes=4)
    curve = learning_curve(LogisticRegression(), X, y, sizes=[2, 100], n_classes=4)
    assert np.isnan(curve.scores[0]).all()
    assert curve.to_frame()["repeats"].tolist() == [0, 5]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sizes": [10, 1000]}, r"between 2 and 320 \(four fifths of 400 items\), got \[1000\]"),
        ({"sizes": []}, "got none"),
        ({"metric": "r2"}, "unknown classification metric 'r2'"),
        ({"metric": "log_loss"}, "log_loss needs probabilities"),
    ],
)
def test_mistakes_are_refused(kwargs, message):
    X, y = labelled()
    with pytest.raises(UserError, match=message):
        learning_curve(LinearSVC(), X, y, **kwargs)
