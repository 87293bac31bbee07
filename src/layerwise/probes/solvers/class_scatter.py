"""A training set divided by class: means, and covariances within classes (upper halves), plain or shrunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from layerwise.probes.solvers.dense import product, subtract_outer
from layerwise.probes.solvers.grams import TrainingGrams
from layerwise.probes.solvers.linear_fits import moments, rows_of
from layerwise.probes.solvers.training_rows import TrainingRows

Shrinkage = float | Literal["auto"] | None


class LabelledRows:
    """Training sets under one label vector, divided by class.

    data: sites of n rows and the training sets. labels: (n,). inside: (sets, classes, n) the rows of each. counts: how many.
    """

    def __init__(self, data: TrainingRows, labels: np.ndarray, classes: int) -> None:
        self.data, self.labels = data, labels
        self.members = labels == np.arange(classes)[:, None]
        self.inside = self.members & data.masks[:, None]
        self.counts = torch.as_tensor(self.inside.sum(2).astype(np.float64), device=data.X.device)

    @cached_property
    def means(self) -> Tensor:
        """(sites, sets, classes, d)"""
        weights = torch.as_tensor(self.inside.astype(np.float64), device=self.data.X.device) / self.counts[..., None]
        return product(weights.flatten(0, 1), self.data.X).unflatten(1, self.inside.shape[:2])

    @cached_property
    def by_class(self) -> list[TrainingGrams]:
        """Gram matrices of each class's rows, but for the last, whose are what the others leave of all."""
        return [
            TrainingGrams(self.data.centred[:, rows_of(member, self.data.X)], self.data.masks[:, member])
            for member in self.members[:-1]
        ]

    @cached_property
    def scale(self) -> Tensor:
        """(sites, sets, classes, d) standard deviations; 1 where a feature is constant."""
        flat = self.inside.reshape(-1, self.inside.shape[2])
        return moments(self.data.X, flat, True)[1].unflatten(1, self.inside.shape[:2])

    @cached_property
    def fourth(self) -> Tensor:
        """(sites, sets, classes) mean over rows of the fourth power of a standardised row's length."""
        offset = self.means - self.data.centre[:, None]
        precision = self.scale**-2
        tilted = offset * precision
        lengths = product(self.data.centred.square(), precision.flatten(1, 2).mT.contiguous())
        lengths -= 2 * product(self.data.centred, tilted.flatten(1, 2).mT.contiguous())
        lengths += (tilted * offset).sum(3).flatten(1)[:, None]  # (sites, n, sets · classes)
        inside = torch.as_tensor(self.inside.astype(np.float64), device=lengths.device).flatten(0, 1)
        powers = torch.einsum("snk,kn->sk", lengths.square(), inside)
        return powers.unflatten(1, self.inside.shape[:2]) / self.counts


@dataclass(frozen=True)
class TrainingClasses:
    """One training set, the ``which``-th, of labelled rows."""

    rows: LabelledRows
    which: int

    @property
    def data(self) -> TrainingRows:
        return self.rows.data

    @property
    def means(self) -> Tensor:
        """(sites, classes, d)"""
        return self.rows.means[:, self.which]

    @property
    def counts(self) -> Tensor:
        """(classes,) rows."""
        return self.rows.counts[self.which]

    @property
    def shares(self) -> Tensor:
        return self.counts / self.counts.sum()

    def covariance(self, shrinkage: Shrinkage) -> Tensor:
        """(sites, d, d) within classes: each class's, weighted by its share; 0 below the diagonal."""
        if shrinkage == "auto":
            return self._shrunk_class_by_class()
        total = self._within(self.data.grams.of(self.which, self.data.scratch(0)), range(len(self.counts)))
        total.div_(float(self.counts.sum()))
        if shrinkage:
            diagonal = total.diagonal(dim1=1, dim2=2)
            level = diagonal.mean(1, keepdim=True)
            total.mul_(1 - shrinkage)
            diagonal.add_(shrinkage * level)
        return total

    def _within(self, gram: Tensor, classes: Iterable[int]) -> Tensor:
        """The Gram matrix of some classes' rows, in place their scatter about their own means."""
        for one in classes:
            subtract_outer(gram, (self.means[:, one] - self.data.centre[:, 0]) * self.counts[one].sqrt())
        return gram

    def _scatters(self) -> Iterator[Tensor]:
        """(sites, d, d) of each class in turn; that of the last is what the others leave of all."""
        rest = self.data.grams.of(self.which, self.data.scratch(0))
        for one, grams in enumerate(self.rows.by_class):
            own = grams.of(self.which, self.data.scratch(1))
            rest -= own
            yield self._within(own, [one])
        yield self._within(rest, [len(self.counts) - 1])

    def _shrunk_class_by_class(self) -> Tensor:
        """Σ share·((1 − s) covariance + s·target) over classes, s and target being Ledoit and Wolf's for the class."""
        total, targets = self.data.scratch(2), torch.zeros(())
        for one, (share, scatter) in enumerate(zip(self.shares.tolist(), self._scatters(), strict=True)):
            number, scale = self.counts[one], self.rows.scale[:, self.which, one]
            fourth = self.rows.fourth[:, self.which, one]
            shrinkage, target = ledoit_and_wolf(scatter, number, scale, fourth, self.data.scratch(3))
            weight = (share * (1 - shrinkage) / number)[:, None, None]
            if one:
                torch.addcmul(total, scatter, weight, out=total)
            else:
                torch.mul(scatter, weight, out=total)
            targets = targets + share * shrinkage[:, None] * target
        total.diagonal(dim1=1, dim2=2).add_(targets)
        return total

    def mean_but(self, one: int) -> Tensor:
        """(sites, d) mean of the rows of every other class."""
        others = [other for other in range(len(self.counts)) if other != one]
        return torch.einsum("c,scd->sd", self.counts[others] / self.counts[others].sum(), self.means[:, others])

    def variance_along(self, direction: Tensor, one: int) -> Tensor:
        """(sites,) variance of the rows along (sites, d), about the mean of class ``one`` and that of the rest."""
        along = product(self.data.X, direction[..., None])[..., 0]
        inside, mask = self.rows.inside[self.which, one], self.data.masks[self.which]
        squares = []
        for some, mean in ((inside, self.means[:, one]), (mask & ~inside, self.mean_but(one))):
            about = along[:, rows_of(some, along)] - (mean * direction).sum(1, keepdim=True)
            squares.append(about.square().sum(1))
        return (squares[0] + squares[1]) / self.counts.sum()


def training_classes(data: TrainingRows, labels: np.ndarray, classes: int) -> Iterator[TrainingClasses]:
    """Every training set under one label vector (n,)."""
    rows = LabelledRows(data, labels, classes)
    return (TrainingClasses(rows, which) for which in range(len(data.masks)))


def ledoit_and_wolf(
    scatter: Tensor, number: Tensor, scale: Tensor, fourth: Tensor, scratch: Tensor
) -> tuple[Tensor, Tensor]:
    """Ledoit & Wolf's (2004) shrinkage for standardised features, and the diagonal it shrinks towards.

    As scikit-learn: features are standardised, their covariance is shrunk towards its mean variance, and scaled back.

    Args:
        scatter: (sites, d, d) of the rows of one class about their mean, not standardised; 0 below the diagonal.
        number: () of rows. scale: (sites, d) their standard deviations.
        fourth: (sites,) mean of the fourth power of a standardised row's length.
        scratch: (sites, d, d) memory to use.

    Returns:
        (sites,) between 0 and 1, and (sites, d).
    """
    d, inverse = scale.shape[1], scale**-2
    # The mean variance of standardised features: 1 unless some are constant.
    level = (scatter.diagonal(dim1=1, dim2=2) * inverse).mean(1) / number
    squared = torch.mul(scatter, scatter, out=scratch)
    second = 2 * (product(squared, inverse[..., None])[..., 0] * inverse).sum(1)  # every pair of features twice
    second = (second - (squared.diagonal(dim1=1, dim2=2) * inverse**2).sum(1)) / number**2
    noise = (fourth - second) / (number * d)
    distance = second / d - level**2
    shrinkage = torch.where((noise > 0) & (distance > 0), torch.minimum(noise, distance) / distance, 0.0)
    return shrinkage, level[:, None] * scale**2
