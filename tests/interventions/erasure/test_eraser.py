"""Erasers: LEACE's defining identities and another implementation's numbers; what each leaves to a linear classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.erasure.eraser import (
    Eraser,
    fit_eraser,
    inlp,
    leace,
    mean_projection,
    random_projection,
)

# Written by concept_erasure_cases.py with the package concept-erasure 0.2.4: data, labels, its P and its erased values.
REFERENCE = Path(__file__).with_name("concept_erasure.safetensors")


def data(n: int = 400, width: int = 12, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Correlated values whose means differ by class."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=draw)
    mix = torch.randn(width, width, generator=draw, dtype=torch.float64)
    means = torch.randn(classes, width, generator=draw, dtype=torch.float64)
    return torch.randn(n, width, generator=draw, dtype=torch.float64) @ mix + 2 * means[labels] + 5, labels


def cross_covariance(values: Tensor, labels: Tensor) -> Tensor:
    z = torch.nn.functional.one_hot(labels).double()
    return (values - values.mean(0)).T @ (z - z.mean(0)) / len(values)


@pytest.mark.parametrize("method", ["leace", "mean_projection"])
@pytest.mark.parametrize("n", [400, 10])  # more texts than numbers, and fewer
def test_nothing_covaries_with_the_labels_any_more(method: str, n: int) -> None:
    values, labels = data(n)
    before, after = (
        cross_covariance(values, labels),
        cross_covariance(fit_eraser(method, values, labels)(values), labels),
    )
    assert after.abs().max() < 1e-9 * before.abs().max()


@pytest.mark.parametrize("method", ["leace", "inlp", "mean_projection", "random"])
def test_erasing_twice_is_erasing_once_and_the_mean_stays(method: str) -> None:
    values, labels = data()
    eraser = fit_eraser(method, values, labels)
    once = eraser(values)
    torch.testing.assert_close(eraser(once), once)
    torch.testing.assert_close(once.mean(0), values.mean(0))
    torch.testing.assert_close(once, (values - eraser.mean) @ eraser.matrix().T + eraser.mean)
    assert not torch.allclose(once, values)


def test_no_linear_classifier_beats_the_largest_class_after_leace() -> None:
    values, labels = data()
    chance = np.bincount(labels).max() / len(labels)
    score = lambda x: LogisticRegression(C=1e6, max_iter=5000).fit(x, labels).score(x, labels)  # noqa: E731
    assert score(values) > chance + 0.2
    erased = leace(values, labels)(values)
    # The best linear predictor in the sense of a convex loss is the constant one; ties in argmax leave a hair.
    probabilities = LogisticRegression(C=1e6, max_iter=5000, tol=1e-8).fit(erased, labels).predict_proba(erased)
    np.testing.assert_allclose(
        probabilities, np.broadcast_to(np.bincount(labels) / len(labels), probabilities.shape), atol=1e-4
    )


def test_leace_moves_values_least_of_all_maps_that_erase() -> None:
    """In the covariance's own norm and in the plain one; mean projection, another map that erases, moves them more."""
    values, labels = data()
    own, other = (fit(values, labels) for fit in (lambda x, y: leace(x, y, shrink=False), mean_projection))
    moved = lambda eraser, by: float(((eraser(values) - values) @ by).square().sum())  # noqa: E731
    covariance = torch.cov(values.T)
    whiten = torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    for by in (torch.eye(12, dtype=torch.float64), whiten):
        assert moved(own, by) < moved(other, by)
    # Any map that erases adds to this one a part that covaries with nothing of what it moves.
    change, labels_left = values - own(values), own(values)
    cross = (change - change.mean(0)).T @ (labels_left - labels_left.mean(0)) / len(values)
    assert cross.abs().max() < 1e-8 * covariance.abs().max()


@pytest.mark.parametrize("case", ["classes", "binary", "target"])
def test_leace_is_that_of_concept_erasure(case: str) -> None:
    kept = load_file(REFERENCE)
    values, labels = kept[f"{case}/values"], kept[f"{case}/labels"]
    eraser = leace(values, labels, shrink=False)
    torch.testing.assert_close(eraser.matrix(), kept[f"{case}/matrix"], atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(eraser(values), kept[f"{case}/erased"], atol=1e-8, rtol=1e-6)


def test_a_target_is_erased_too() -> None:
    values, _ = data()
    target = values[:, 0] + values[:, 3].square() / 10
    assert LinearRegression().fit(values, target).score(values, target) > 0.5
    erased = leace(values, target)(values)
    assert LinearRegression().fit(erased, target).score(erased, target) < 1e-9


def test_mean_projection_leaves_equal_means_and_takes_out_no_more_than_their_span() -> None:
    values, labels = data(classes=4)
    eraser = mean_projection(values, labels)
    assert eraser.rank == 3
    erased = eraser(values)
    for label in range(4):
        torch.testing.assert_close(erased[labels == label].mean(0), values.mean(0))


def test_inlp_goes_on_until_no_classifier_is_better_than_the_largest_class() -> None:
    values, labels = data(n=2000, width=6, classes=2)
    eraser = inlp(values, labels, rounds=30)
    assert 1 <= eraser.rank < 6
    erased = eraser(values)
    score = LogisticRegression(C=0.1).fit(erased[:1000], labels[:1000]).score(erased[1000:], labels[1000:])
    assert score <= np.bincount(labels).max() / len(labels) + 0.04
    assert inlp(values, labels, rounds=1).rank == 1


def test_the_control_takes_out_as_many_directions() -> None:
    values, labels = data(classes=3)
    control = fit_eraser("random", values, labels, seed=4)
    assert control.rank == mean_projection(values, labels).rank == 2
    assert not torch.allclose(control.left, random_projection(values, 2, seed=5).left)


def test_activations_keep_their_shape_and_dtype() -> None:
    values, labels = data()
    eraser: Eraser = leace(values, labels)
    tokens = values[:60].reshape(10, 6, 12).to(torch.bfloat16)
    assert eraser(tokens).shape == tokens.shape
    assert eraser(tokens).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("method", "labels", "message"),
    [
        ("leace", torch.zeros(20, dtype=torch.long), "all labels are the same"),
        ("inlp", torch.rand(20), "class ids"),
        ("leaze", torch.arange(20) % 2, "leace"),
        ("leace", torch.arange(5) % 2, "as many labels"),
    ],
)
def test_what_cannot_be_erased_is_refused(method: str, labels: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_eraser(method, torch.randn(20, 4), labels)
