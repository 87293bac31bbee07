"""Probes in closed form from class means and covariances: linear discriminant analysis, mass-mean, nearest centroid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.probes.solvers.dense import Cholesky, NotPositiveDefinite, eigh, gram, product
from layerwise.probes.solvers.linear_fits import (
    EPSILON,
    LinearFits,
    Masks,
    check_training,
    features,
    moments,
    rows_of,
    site_by_site,
)
from layerwise.probes.solvers.logistic import check_classes

ALL = -1  # in place of a class
KEPT_ELEMENTS = 2**26  # of the classes' scatter matrices over all rows; above, each training set computes its own
Shrinkage = float | Literal["auto"] | None
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

    def planes(group: _Group) -> tuple[Tensor, Tensor]:
        singular: Singular = "refused" if shrinkage is None else "inverted in part"
        coef = _solve(group.covariance(shrinkage), group.means.mT, singular).mT
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

    def planes(group: _Group) -> tuple[Tensor, Tensor]:
        within = group.covariance("auto") if covariance else None
        coef, intercept = [], []
        for one in range(len(group.counts)) if len(group.counts) > 2 else (1,):
            mean, rest = group.means[:, one], group.mean_but(one)
            difference = mean - rest
            if within is not None:
                direction = _solve(within, difference[..., None], "inverted in part")[..., 0]
            else:
                variance = group.variance_along(difference, one)
                direction = difference * (difference.square().sum(1) / variance.clamp_min(EPSILON))[:, None]
            coef.append(direction)
            intercept.append(-(direction * (mean + rest)).sum(1) / 2)
        return torch.stack(coef, dim=1), torch.stack(intercept, dim=1)

    return _fits(X, Y, training, device, planes)


def nearest_centroid_fits(X: Any, Y: Any, training: Any, standardize: bool = True, device: str = "cpu") -> LinearFits:
    """Fit ``make_pipeline(StandardScaler(), NearestCentroid())``; a score is minus half the squared distance, up to a constant.

    Two classes give one plane, the second's score less the first's.

    Returns, raises: as ``lda_fits``.
    """
    values = features(X, device)
    masks = check_training(training, values.shape[1])
    labels, classes = check_classes(Y, masks)
    member = (labels.T[:, None] == np.arange(classes)[:, None]) & masks[:, None, None]  # (sets, vectors, classes, n)
    weights = torch.as_tensor(member / member.sum(3, keepdims=True), device=values.device)

    def fit(some: Tensor) -> LinearFits:
        _, scale = moments(some, masks, standardize)
        means = product(weights.flatten(0, 2), some).unflatten(1, weights.shape[:3])
        coef = means / scale[:, :, None, None] ** 2
        return LinearFits(*_one_plane_of_two(coef, -0.5 * (coef * means).sum(-1)))

    return site_by_site(values, fit)


@dataclass(frozen=True)
class _Group:
    """One training set under one label vector, divided by class.

    scatters: of each class over all rows. mask: (n,) the training set's. means: (sites, classes, d). counts: (classes,) rows.
    """

    scatters: _ClassScatters
    mask: np.ndarray
    means: Tensor
    counts: Tensor

    @property
    def shares(self) -> Tensor:
        return self.counts / self.counts.sum()

    def covariance(self, shrinkage: Shrinkage) -> Tensor:
        """(sites, d, d) within classes: each class's, weighted by its share."""
        if shrinkage == "auto":
            return self._shrunk_class_by_class()
        total = self.scatters.pooled(self.mask, self.means, self.counts).div_(float(self.counts.sum()))
        if shrinkage:
            diagonal = total.diagonal(dim1=1, dim2=2)
            level = diagonal.mean(1, keepdim=True)
            total.mul_(1 - shrinkage)
            diagonal.add_(shrinkage * level)
        return total

    def _shrunk_class_by_class(self) -> Tensor:
        """Σ share·((1 − s) covariance + s·target) over classes, s and target being Ledoit and Wolf's for the class."""
        total, targets = None, torch.zeros(())
        for one, share in enumerate(self.shares.tolist()):
            scatter = self.scatters.of_class(one, self.mask, self.means[:, one])
            rows = self.scatters.rows(one, self.mask).sub_((self.means[:, one] - self.scatters.centre[:, 0])[:, None])
            shrinkage, target = _ledoit_and_wolf(scatter, rows, self.means[:, one], self.scatters.scratch)
            weight = (share * (1 - shrinkage) / rows.shape[1])[:, None, None]
            total = scatter.mul_(weight) if total is None else torch.addcmul(total, scatter, weight, out=total)
            targets = targets + share * shrinkage[:, None] * target
        assert total is not None
        total.diagonal(dim1=1, dim2=2).add_(targets)
        return total

    def mean_but(self, one: int) -> Tensor:
        """(sites, d) mean of the rows of every other class."""
        others = [other for other in range(len(self.counts)) if other != one]
        return torch.einsum("c,scd->sd", self.counts[others] / self.counts[others].sum(), self.means[:, others])

    def variance_along(self, direction: Tensor, one: int) -> Tensor:
        """(sites,) variance of the rows along (sites, d), about the mean of class ``one`` and that of the rest."""
        inside = self.mask & (self.scatters.labels == one)
        squares = []
        for mask, mean in ((inside, self.means[:, one]), (self.mask & ~inside, self.mean_but(one))):
            along = product(self.scatters.X, direction[..., None])[..., 0] - (mean * direction).sum(1, keepdim=True)
            squares.append(along[:, rows_of(mask, along)].square().sum(1))
        return (squares[0] + squares[1]) / self.counts.sum()


class _ClassScatters:
    """Scatter matrices of the classes of one label vector, over all rows; those of training sets by taking rows away."""

    def __init__(self, X: Tensor, labels: np.ndarray) -> None:
        self.X, self.labels = X, labels
        self.centre = X.mean(1, keepdim=True)
        self.centred = X - self.centre
        self.whole: dict[int, Tensor] = {}

    @cached_property
    def scratch(self) -> Tensor:
        """(sites, d, d) memory that is used again and again, since fresh memory of this size costs as much as the arithmetic."""
        return self.X.new_empty(len(self.X), self.X.shape[2], self.X.shape[2])

    def rows(self, one: int, mask: np.ndarray) -> Tensor:
        """(sites, rows of the class in the set, d), about ``centre``."""
        return self.centred[:, rows_of(mask & (self.labels == one), self.X)]

    def of_class(self, one: int, mask: np.ndarray, mean: Tensor) -> Tensor:
        """(sites, d, d) scatter of the class's rows in a training set about their mean (sites, d)."""
        member = self.labels == one
        about = (mean - self.centre[:, 0])[:, None] * float((member & mask).sum()) ** 0.5
        return self._scatter(one, member, mask, about)

    def pooled(self, mask: np.ndarray, means: Tensor, counts: Tensor) -> Tensor:
        """(sites, d, d) scatter of a training set's rows about their own class's mean (sites, classes, d)."""
        about = (means - self.centre) * counts.sqrt()[:, None]
        return self._scatter(ALL, np.ones_like(mask), mask, about)

    def _scatter(self, key: int, member: np.ndarray, mask: np.ndarray, about: Tensor) -> Tensor:
        """Scatter of the members in a training set about ``centre``, less ``aboutᵀ about``."""
        inside, outside = member & mask, member & ~mask
        small = (int(self.labels.max()) + 1) * len(self.X) * self.X.shape[2] ** 2 <= KEPT_ELEMENTS
        if outside.sum() >= inside.sum() or not (small or key == ALL):
            result = gram(self.centred[:, rows_of(inside, self.X)])
        else:
            if key not in self.whole:
                self.whole[key] = gram(self.centred[:, rows_of(member, self.X)])
            result = gram(self.centred[:, rows_of(outside, self.X)])
            torch.sub(self.whole[key], result, out=result)
        return result.baddbmm_(about.mT, about, alpha=-1)


def _fits(X: Any, Y: Any, training: Any, device: str, planes: Callable[[_Group], tuple[Tensor, Tensor]]) -> LinearFits:
    """The planes (sites, planes, d) and (sites, planes) of every training set under every label vector."""
    values = features(X, device)
    masks = check_training(training, values.shape[1])
    labels, classes = check_classes(Y, masks)

    def fit(some: Tensor) -> LinearFits:
        found = [planes(group) for vector in labels.T for group in _groups(some, vector, classes, masks)]
        coef, intercept = (torch.stack(part, dim=1).unflatten(1, (-1, len(masks))) for part in zip(*found, strict=True))
        return LinearFits(coef.transpose(1, 2), intercept.transpose(1, 2))

    return site_by_site(values, fit)


def _groups(X: Tensor, labels: np.ndarray, classes: int, masks: Masks) -> Iterator[_Group]:
    """Every training set under one label vector (n,)."""
    scatters = _ClassScatters(X, labels)
    for mask in masks:
        member = (labels == np.arange(classes)[:, None]) & mask  # (classes, n)
        counts = torch.as_tensor(member.sum(1).astype(np.float64), device=X.device)
        weights = torch.as_tensor(member.astype(np.float64), device=X.device) / counts[:, None]
        yield _Group(scatters, mask, product(weights, X), counts)


def _ledoit_and_wolf(scatter: Tensor, rows: Tensor, mean: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """Ledoit & Wolf's (2004) shrinkage for standardised features, and the diagonal it shrinks towards.

    As scikit-learn: features are standardised, their covariance is shrunk towards its mean variance, and scaled back.

    Args:
        scatter: (sites, d, d) ``rowsᵀ rows``.
        rows: (sites, n, d) of one class about their mean: (sites, d), not standardised. They are squared in place.
        scratch: (sites, d, d) memory to use.

    Returns:
        (sites,) between 0 and 1, and (sites, d).
    """
    n, d = rows.shape[1:]
    variance = scatter.diagonal(dim1=1, dim2=2) / n
    varies = variance > n * EPSILON * variance + (n * mean * EPSILON) ** 2
    inverse = torch.where(varies, 1 / variance, 0.0)
    level = varies.double().mean(1)  # the mean variance of standardised features: 1 unless some are constant
    fourth = product(rows.square_(), inverse[..., None])[..., 0].square().sum(1) / n
    squared = torch.mul(scatter, scatter, out=scratch)
    second = (product(squared, inverse[..., None])[..., 0] * inverse).sum(1) / n**2
    noise = (fourth - second) / (n * d)
    distance = second / d - level**2
    shrinkage = torch.where((noise > 0) & (distance > 0), torch.minimum(noise, distance) / distance, 0.0)
    return shrinkage, level[:, None] * torch.where(varies, variance, 1.0)


def _solve(covariance: Tensor, right: Tensor, singular: Singular) -> Tensor:
    """``covariance⁻¹ right``; of a covariance that is singular to double precision the least solution, or UserError."""
    largest = covariance.diagonal(dim1=1, dim2=2).amax(1)
    try:
        factor = Cholesky.of(covariance.clone())
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
    values, vectors = eigh(covariance)
    kept = values > values.amax(1, keepdim=True) * values.shape[1] * EPSILON
    inverse = torch.where(kept, 1 / values, 0.0)
    return product(vectors, inverse[..., None] * product(vectors.mT, right.contiguous()))


def _one_plane_of_two(coef: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor]:
    """(…, classes, d) and (…, classes): of two classes the second less the first."""
    if intercept.shape[-1] != 2:
        return coef, intercept
    return coef[..., 1:, :] - coef[..., :1, :], intercept[..., 1:] - intercept[..., :1]
