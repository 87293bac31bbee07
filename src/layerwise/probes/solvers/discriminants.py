"""Probes in closed form from class means and covariances: linear discriminant analysis, mass-mean, nearest centroid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.probes.solvers.class_scatter import Shrinkage, TrainingClasses, training_classes
from layerwise.probes.solvers.dense import Cholesky, NotPositiveDefinite, eigh, product
from layerwise.probes.solvers.linear_fits import (
    EPSILON,
    LinearFits,
)
from layerwise.probes.solvers.logistic import check_classes
from layerwise.probes.solvers.training_rows import TrainingRows

Singular = Literal["refused", "inverted in part"]


def lda_fits(X: Any, Y: Any, training: Any, shrinkage: Shrinkage = "auto", device: str = "cpu") -> LinearFits:
    """Fit ``LinearDiscriminantAnalysis`` for each training set and label vector; class shares are its priors.

    Args:
        X: (n, d) or (sites, n, d) features.
        Y: (n,) or (n, label vectors) classes, numbered from 0; all vectors share the classes.
        training: (sets, n) boolean, the rows of each fit.
        shrinkage: ``auto`` (Ledoit and Wolf's, for each class) or a share, as ``solver="lsqr"`` has them;
            none needs more rows than features.

    Returns:
        LinearFits with axes (sites, sets, label vectors, planes): one plane, for the second class, of two classes.

    Raises:
        UserError: for a training set that lacks a class, or a covariance that is singular without shrinkage.
    """

    def planes(group: TrainingClasses) -> tuple[Tensor, Tensor]:
        singular: Singular = "refused" if shrinkage is None else "inverted in part"
        coef = _solve(lambda: group.covariance(shrinkage), group.means.mT, singular).mT
        return _one_plane_of_two(coef, -0.5 * (coef * group.means).sum(2) + group.shares.log())

    return _fits(X, Y, training, device, planes)


def mass_mean_fits(X: Any, Y: Any, training: Any, covariance: bool = False, device: str = "cpu") -> LinearFits:
    """Mass-mean probes (Marks & Tegmark 2023): the direction is the difference of the means, each class against the rest.

    The threshold lies half way between the two means. The length of ``coef`` makes a score the log odds of two normal
    distributions of equal variance along the direction, the variance being that within classes.

    Args:
        covariance: turn the direction by the inverse of the covariance within classes (Ledoit-Wolf shrunk).

    Returns, raises: as ``lda_fits``.
    """

    def planes(group: TrainingClasses) -> tuple[Tensor, Tensor]:
        chosen = list(range(len(group.counts))) if len(group.counts) > 2 else [1]
        means, rests = group.means[:, chosen], torch.stack([group.mean_but(one) for one in chosen], dim=1)
        differences = means - rests
        if covariance:
            coef = _solve(lambda: group.covariance("auto"), differences.mT, "inverted in part").mT
        else:
            along = zip(differences.unbind(1), chosen, strict=True)
            variances = torch.stack([group.variance_along(difference, one) for difference, one in along], dim=1)
            coef = differences * (differences.square().sum(2) / variances.clamp_min(EPSILON))[..., None]
        return coef, -(coef * (means + rests)).sum(2) / 2

    return _fits(X, Y, training, device, planes)


def nearest_centroid_fits(X: Any, Y: Any, training: Any, standardize: bool = True, device: str = "cpu") -> LinearFits:
    """Fit ``make_pipeline(StandardScaler(), NearestCentroid())``; a score is minus half the squared distance, up to a constant.

    Two classes give one plane, the second's score less the first's.

    Returns, raises: as ``lda_fits``.
    """
    rows = TrainingRows.of(X, training, device)
    masks = rows.masks
    labels, classes = check_classes(Y, masks)
    member = (labels.T[:, None] == np.arange(classes)[:, None]) & masks[:, None, None]  # (sets, vectors, classes, n)
    weights = torch.as_tensor(member / member.sum(3, keepdims=True), device=rows.X.device)

    def fit(part: TrainingRows) -> LinearFits:
        _, scale = part.moments(standardize)
        means = product(weights.flatten(0, 2), part.X).unflatten(1, weights.shape[:3])
        coef = means / scale[:, :, None, None] ** 2
        return LinearFits(*_one_plane_of_two(coef, -0.5 * (coef * means).sum(-1)))

    return rows.each(fit)


def _fits(
    X: Any, Y: Any, training: Any, device: str, planes: Callable[[TrainingClasses], tuple[Tensor, Tensor]]
) -> LinearFits:
    """The planes (sites, planes, d) and (sites, planes) of every training set under every label vector."""
    rows = TrainingRows.of(X, training, device)
    labels, classes = check_classes(Y, rows.masks)

    def fit(part: TrainingRows) -> LinearFits:
        found = [planes(group) for vector in labels.T for group in training_classes(part, vector, classes)]
        sets = len(rows.masks)
        coef, intercept = (torch.stack(each, dim=1).unflatten(1, (-1, sets)) for each in zip(*found, strict=True))
        return LinearFits(coef.transpose(1, 2), intercept.transpose(1, 2))

    return rows.each(fit)


def _solve(covariance: Callable[[], Tensor], right: Tensor, singular: Singular) -> Tensor:
    """``covariance⁻¹ right``; of a covariance singular to double precision the least solution, or UserError.

    ``covariance`` makes the matrix (sites, d, d), its upper half.
    """
    matrix = covariance()
    largest = matrix.diagonal(dim1=1, dim2=2).amax(1)
    try:
        factor = Cholesky.of(matrix)
        smallest = factor.factors.diagonal(dim1=1, dim2=2).square().amin(1)
        if singular == "refused" and bool((smallest <= 1e-10 * largest).any()):
            raise NotPositiveDefinite
        return factor.solve(right.contiguous())
    except NotPositiveDefinite:
        if singular == "refused":
            raise UserError(
                "the covariance within classes is singular: too few rows for this many features, or some depend on others.\n"
                "Use shrinkage='auto'."
            ) from None
    values, vectors = eigh(covariance())  # once more: factoring has overwritten it
    kept = values > values.amax(1, keepdim=True) * values.shape[1] * EPSILON
    inverse = torch.where(kept, 1 / values, 0.0)
    return product(vectors, inverse[..., None] * product(vectors.mT, right.contiguous()))


def _one_plane_of_two(coef: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor]:
    """(…, classes, d) and (…, classes): of two classes the second less the first."""
    if intercept.shape[-1] != 2:
        return coef, intercept
    return coef[..., 1:, :] - coef[..., :1, :], intercept[..., 1:] - intercept[..., :1]
