"""What every linear solver shares: features as tensors, training sets, their means and scales, hyperplanes and their scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerwise.errors import UserError
from layerwise.probes.solvers.dense import product

Floats = NDArray[np.float64]
Masks = NDArray[np.bool_]
EPSILON = torch.finfo(torch.float64).eps
FEW_PLANES = 4  # of a training set


@dataclass(frozen=True)
class LinearFits:
    """Hyperplanes in the features' own space: ``scores = X @ coef.T + intercept``.

    coef: (sites, sets, …, d) float64; intercept: (sites, sets, …), where … are a solver's own axes (penalties, label vectors,
    classes).
    """

    coef: Tensor
    intercept: Tensor

    def numpy(self) -> tuple[Floats, Floats]:
        """``coef`` and ``intercept`` as arrays."""
        return self.coef.cpu().numpy(), self.intercept.cpu().numpy()


def features(X: Any, device: str = "cpu") -> Tensor:
    """``X`` (n, d) or (sites, n, d) as float64 (sites, n, d) on a device."""
    values = torch.as_tensor(X).to(device=torch.device(device), dtype=torch.float64)
    if values.ndim not in (2, 3):
        raise UserError(f"features must be (rows, width) or (sites, rows, width), got the shape {tuple(values.shape)}.")
    return (values if values.ndim == 3 else values[None]).contiguous()


def training_sets(folds: Any) -> Masks:
    """(sets, n): the rows outside each fold of each repetition, in the order of repetitions, then of fold ids.

    Args:
        folds: (n,) or (repeats, n) the fold each row is held out in.
    """
    return np.stack([row != fold for row in np.atleast_2d(folds) for fold in np.unique(row)])


def check_training(training: Any, n: int) -> Masks:
    """``training`` as a (sets, n) boolean array. Raises UserError for another shape or a set with less than two rows."""
    masks = np.atleast_2d(np.asarray(training))
    if masks.dtype != np.bool_ or masks.ndim != 2 or masks.shape[1] != n:
        raise UserError(f"training must be a boolean array of shape (sets, {n}), got {masks.dtype} {masks.shape}.")
    if len(masks) == 0 or masks.sum(1).min() < 2:
        raise UserError("every training set needs at least two rows.")
    return masks


def rows_of(mask: NDArray[np.bool_], like: Tensor) -> Tensor:
    """The numbers of the rows in ``mask``, where ``like`` is."""
    return torch.as_tensor(np.flatnonzero(mask), device=like.device)


def moments(X: Tensor, masks: Masks, standardize: bool) -> tuple[Tensor, Tensor]:
    """Mean and scale of each training set's features, both (sites, sets, d), as StandardScaler has them.

    The scale is the standard deviation (of the set, not an estimate), 1 for a feature that is constant in the set, and 1
    throughout without ``standardize``. ``X``: (sites, n, d).
    """
    weights = torch.as_tensor(masks, dtype=X.dtype, device=X.device)
    count = weights.sum(1)[:, None]
    if not standardize:
        mean = product(weights, X) / count
        return mean, torch.ones_like(mean)
    centre = X.mean(1, keepdim=True)
    centred = X - centre
    shift = product(weights, centred) / count
    squares = centred.square_()
    mean, variance = shift + centre, product(weights, squares) / count - shift**2
    spread = squares.mean(1, keepdim=True)
    doubtful = variance <= 1e-8 * spread  # cancellation may have eaten the digits: computed again from the rows
    for site, which in doubtful.any(2).nonzero().tolist():
        which_features = doubtful[site, which]
        values = X[site, rows_of(masks[which], X)][:, which_features]
        variance[site, which, which_features] = values.var(0, correction=0)
        mean[site, which, which_features] = values.mean(0)
    constant = variance <= count * EPSILON * variance + (count * mean * EPSILON) ** 2
    return mean, torch.where(constant, 1.0, variance.sqrt())


def moments_of(X: Floats) -> tuple[Floats, Floats]:
    """Mean and scale (d,) of all rows of X (n, d), as ``moments``."""
    mean, scale = moments(features(X), np.ones((1, len(X)), dtype=bool), True)
    return mean[0, 0].numpy(), scale[0, 0].numpy()


def out_of_fold(X: Any, fits: LinearFits, folds: Any) -> Floats:
    """The score of every row by the hyperplanes whose training set left it out.

    Args:
        X: (sites, n, d), or (n, d) for fits of one site.
        fits: of ``training_sets(folds)``, with axes (sites, sets, …, d).
        folds: (n,) or (repeats, n).

    Returns:
        (sites, repeats, …, n).
    """
    values = features(X, str(fits.coef.device))
    folds = np.atleast_2d(folds)
    shape = fits.intercept.shape[2:]
    scores = np.empty((len(values), len(folds), *shape, folds.shape[1]))
    pairs = [(repeat, fold) for repeat in range(len(folds)) for fold in np.unique(folds[repeat])]
    coef = fits.coef.flatten(2, -2) if shape else fits.coef[:, :, None]  # (sites, sets, planes, d)
    intercept = fits.intercept.reshape(*coef.shape[:3], 1)
    few = coef.shape[2] <= FEW_PLANES  # then every row by every plane costs less than taking rows out
    everywhere = product(coef.flatten(1, 2), values.mT).unflatten(1, coef.shape[1:3]) if few else None
    for which, (repeat, fold) in enumerate(pairs):
        rows = np.flatnonzero(folds[repeat] == fold)
        chosen = torch.as_tensor(rows, device=values.device)
        if everywhere is not None:
            result = everywhere[:, which][..., chosen]
        else:
            result = product(values[:, chosen], coef[:, which].mT.contiguous()).mT
        result = (result + intercept[:, which]).reshape(len(values), *shape, len(rows))
        scores[:, repeat, ..., rows] = np.moveaxis(result.cpu().numpy(), -1, 0)
    return scores
