from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from layerwise.data.splits import folds
from layerwise.errors import UserError
from layerwise.probes.transfer import transfer_matrix
from layerwise.probes.validation import cross_validate

DIRECTIONS = {"cities": [1, 0, 0, 0], "numbers": [1, 0, 0, 0], "negated": [-1, 0, 0, 0], "other": [0, 1, 0, 0]}


def make(n: int = 150):
    rng = np.random.default_rng(0)
    datasets, fold = {}, {}
    for name, direction in DIRECTIONS.items():
        y = rng.permutation(np.arange(n) % 2)
        signal = 2.5 * (2 * y[:, None] - 1) * np.array(direction)
        features = {"resid_post.0": rng.normal(size=(n, 4)), "resid_post.1": rng.normal(size=(n, 4)) + signal}
        datasets[name], fold[name] = (features, y), folds(y)
    return datasets, fold


def test_shared_directions_transfer_turned_ones_invert_and_others_do_neither():
    datasets, fold = make()
    table = transfer_matrix(datasets, LogisticRegression(), fold)
    assert len(table) == 2 * 4 * 4
    assert list(table) == ["train", "test", "site", "layer", "score", "low", "high", "cosine"]
    at = table[table["layer"] == 1].set_index(["train", "test"])
    assert at.loc[("cities", "numbers"), "score"] > 0.95
    assert at.loc[("cities", "numbers"), "cosine"] > 0.9
    assert at.loc[("cities", "negated"), "score"] < 0.05
    assert at.loc[("cities", "negated"), "cosine"] < -0.9
    assert at.loc[("cities", "other"), "score"] == pytest.approx(0.5, abs=0.25)
    assert abs(at.loc[("cities", "other"), "cosine"]) < 0.4
    assert (at["low"] <= at["score"]).all()
    below = table[(table["layer"] == 0) & (table["train"] != table["test"])]
    assert below["score"].mean() == pytest.approx(0.5, abs=0.1)


def test_the_diagonal_is_cross_validated():
    datasets, fold = make()
    table = transfer_matrix(datasets, LinearDiscriminantAnalysis(), fold).set_index(["site", "train", "test"])
    features, y = datasets["cities"]
    expected = cross_validate(LinearDiscriminantAnalysis(), features["resid_post.0"], y, fold["cities"])
    row = table.loc[("resid_post.0", "cities", "cities")]
    assert row["score"] == expected.mean("accuracy")
    assert row["low"] == expected.interval("accuracy").low
    assert row["cosine"] == pytest.approx(1)


def test_probes_without_directions_have_no_cosine():
    datasets, fold = make()
    assert transfer_matrix(datasets, KNeighborsClassifier(), fold)["cosine"].isna().all()


def test_groups_widen_intervals():
    datasets, fold = make()
    groups = {name: np.repeat(np.arange(15), 10) for name in datasets}
    plain, grouped = (transfer_matrix(datasets, LogisticRegression(), fold, groups=g) for g in (None, groups))
    assert grouped["score"].equals(plain["score"])
    assert not grouped["low"].equals(plain["low"])


def test_mistakes_are_refused():
    datasets, fold = make()
    with pytest.raises(UserError, match="at least two data sets, got 1"):
        transfer_matrix({"cities": datasets["cities"]}, LogisticRegression(), fold)
    features, y = datasets["numbers"]
    with pytest.raises(UserError, match=r"different sites: \['resid_post.1'\]"):
        transfer_matrix(
            {**datasets, "numbers": ({"resid_post.0": features["resid_post.0"]}, y)}, LogisticRegression(), fold
        )
    narrow = {site: X[:, :3] for site, X in features.items()}
    with pytest.raises(UserError, match="4 wide on 'cities' and 3 on 'numbers'"):
        transfer_matrix({**datasets, "numbers": (narrow, y)}, LogisticRegression(), fold)
    with pytest.raises(UserError, match=r"features of resid_post\.0 on numbers hold NaN"):
        transfer_matrix(
            {**datasets, "numbers": ({s: X * np.nan for s, X in features.items()}, y)}, LogisticRegression(), fold
        )
    with pytest.raises(UserError, match="log_loss needs probabilities"):
        transfer_matrix(datasets, LinearSVC(), fold, metric="log_loss")
