"""Logistic regression over a path of penalties, from strong to weak, each fit starting where the stronger one ended."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.special import expit, softmax
from torch import Tensor

from layerwise.errors import UserError
from layerwise.probes.solvers.dense import Cholesky, NotPositiveDefinite, gram, product
from layerwise.probes.solvers.linear_fits import (
    Floats,
    LinearFits,
    Masks,
    out_of_fold,
    training_sets,
)
from layerwise.probes.solvers.quasi_newton import JITTER, Fits, minimise
from layerwise.probes.solvers.training_rows import TrainingRows

WIDE = 2  # with more than twice as many features as rows, fits are made between rows
ROUNDING = 1e-11  # added to the kernel between rows, relative to its mean diagonal: centring leaves it singular


def logistic_fits(X: Any, Y: Any, training: Any, Cs: Any, standardize: bool = True, device: str = "cpu") -> LinearFits:
    """Fit ``make_pipeline(StandardScaler(), LogisticRegression(C=C))``, converged, for each set, penalty and label vector.

    Two classes give one hyperplane, for the second; more give one for each (multinomial).

    Args:
        X: (n, d) or (sites, n, d) features.
        Y: (n,) or (n, label vectors) classes, numbered from 0; all vectors share the classes.
        training: (sets, n) boolean, the rows of each fit.
        Cs: (penalties,) inverse penalties as scikit-learn has them, all above 0.
        standardize: without it features are as they come.

    Returns:
        LinearFits with axes (sites, sets, penalties, label vectors, planes).

    Raises:
        UserError: for a penalty not above 0, or a training set that lacks a class.
    """
    rows = TrainingRows.of(X, training, device)
    labels, classes = check_classes(Y, rows.masks)
    strengths = np.atleast_1d(np.asarray(Cs, dtype=np.float64))
    if strengths.size == 0 or not (np.isfinite(strengths) & (strengths > 0)).all():
        raise UserError(f"C must be numbers above 0, got {strengths.tolist()}.")
    targets = torch.as_tensor(labels.T, device=rows.X.device)[:, None]
    if classes > 2:
        targets = targets == torch.arange(classes, device=rows.X.device)[:, None]
    targets = targets.double()  # (label vectors, planes, n)
    fit = _between_rows if rows.X.shape[2] > WIDE * rows.X.shape[1] else _between_features
    return rows.each(lambda part: fit(part, targets, strengths, standardize))


def logistic_path(X: Any, Y: Any, folds: Any, Cs: Any, standardize: bool = True, device: str = "cpu") -> Floats:
    """Out-of-fold probabilities of ``logistic_fits`` over folds.

    Args:
        folds: (repeats, n) or (n,), the fold each row is held out in.

    Returns:
        (sites, repeats, penalties, label vectors, n, classes); without the first axis for X (n, d).
    """
    fits = logistic_fits(X, Y, training_sets(folds), Cs, standardize, device)
    scores = probabilities(out_of_fold(X, fits, folds))
    return scores if np.ndim(X) == 3 else scores[0]


def probabilities(logits: Floats) -> Floats:
    """(…, planes, n) logits → (…, n, classes)."""
    if logits.shape[-2] == 1:
        second = expit(logits[..., 0, :])
        return np.stack([1 - second, second], axis=-1)
    return softmax(np.moveaxis(logits, -2, -1), axis=-1)


def check_classes(Y: Any, masks: Masks) -> tuple[np.ndarray, int]:
    """Labels as (n, label vectors) int64, and the number of classes.

    Raises:
        UserError: for labels that are not class numbers, a single class, or a training set that lacks one of them.
    """
    labels = np.asarray(Y).reshape(len(Y), -1).astype(np.int64)
    if labels.shape[0] != masks.shape[1]:
        raise UserError(f"{masks.shape[1]} rows of features but {len(labels)} labels.")
    classes = int(labels.max()) + 1
    if labels.min() < 0 or classes < 2:
        raise UserError(
            f"labels must be classes numbered from 0, at least two of them, got {np.unique(labels)[:5].tolist()}."
        )
    present = np.stack([masks @ (labels == c) for c in range(classes)]) > 0  # (classes, sets, vectors)
    if not present.all():
        missing, which, _ = np.argwhere(~present)[0]
        raise UserError(
            f"training set {which} has no row of class {missing}.\nUse fewer folds, or leave out classes that are this rare."
        )
    return labels, classes


def _between_features(data: TrainingRows, targets: Tensor, Cs: Floats, standardize: bool) -> LinearFits:
    """Features stay in their own scale: a set's standardisation becomes its penalty's scale."""
    sites, n, _ = data.X.shape
    _, scale = data.moments(standardize)
    centred = torch.cat([data.centred, data.X.new_ones(sites, n, 1)], dim=2)
    sets, vectors = len(data.masks), len(targets)
    rows = torch.as_tensor(data.masks, dtype=torch.float64, device=data.X.device).repeat(vectors, 1)
    penalty = torch.cat([scale.square(), scale.new_zeros(sites, sets, 1)], dim=2)  # (sites, sets, d + 1)
    known = _factor_at_zero(data, penalty / Cs.min(), targets.shape[1]) if vectors == 1 else None
    found = _path(centred, targets.repeat_interleave(sets, 0), rows, penalty.repeat(1, vectors, 1), Cs, known)
    # (penalties, sites, vectors · sets, columns, d + 1)
    found = found.unflatten(2, (vectors, sets)).permute(1, 3, 0, 2, 4, 5)
    coef = found[..., :-1]
    return LinearFits(coef, found[..., -1] - torch.einsum("stavkd,sd->stavk", coef, data.centre[:, 0]))


def _factor_at_zero(data: TrainingRows, penalty: Tensor, columns: int) -> Cholesky | None:
    """(sites) factors of the average training set's Hessian where all weights are 0: a Gram matrix, which other solvers share.

    penalty: (sites, sets, d + 1). None where single precision does not suffice.
    """
    curvature = 0.25 if columns == 1 else 1 / columns  # p (1 − p) of two classes; of K, p (1 − p) K / (K − 1)
    curvature *= float(data.masks.mean())
    sites, _, p = penalty.shape
    hessians = penalty.new_zeros(sites, p, p, dtype=torch.float32)
    torch.mul(data.grams.whole, curvature, out=hessians[:, :-1, :-1])
    hessians[:, -1, -1] = data.masks.shape[1] * curvature  # beside it 0: the rows are centred
    hessians.diagonal(dim1=1, dim2=2).add_(penalty.mean(1)).mul_(1 + JITTER)
    try:
        return Cholesky.of(hessians)
    except NotPositiveDefinite:
        return None


def _between_rows(data: TrainingRows, targets: Tensor, Cs: Floats, standardize: bool) -> LinearFits:
    """With L the Cholesky factor of the kernel between standardised training rows, L stands for the features exactly."""
    X, (mean, scale) = data.X, data.moments(standardize)
    coef, intercept = [], []
    for which, mask in enumerate(data.masks):
        inside = torch.as_tensor(np.flatnonzero(mask), device=X.device)
        rows = (X[:, inside] - mean[:, which, None]) / scale[:, which, None]
        kernel = gram(rows.mT)
        diagonal = kernel.diagonal(dim1=1, dim2=2)
        diagonal += ROUNDING * diagonal.mean(1, keepdim=True).clamp_min(1e-300)
        lower = torch.linalg.cholesky(kernel)
        units = torch.cat([lower, lower.new_ones(*lower.shape[:2], 1)], dim=2)
        penalty = lower.new_ones(len(X), len(targets), units.shape[2])
        penalty[..., -1] = 0
        chosen = targets[..., inside]
        found = _path(units, chosen, torch.ones_like(chosen[:, 0]), penalty, Cs).transpose(0, 1)
        # (sites, penalties, vectors, columns, rows + 1)
        turned = torch.linalg.solve_triangular(lower.mT, found[..., :-1].flatten(1, 3).mT, upper=True)
        planes = (
            product(turned.mT.contiguous(), rows).reshape(*found.shape[:-1], -1) / scale[:, which, None, None, None]
        )
        coef.append(planes)
        intercept.append(found[..., -1] - torch.einsum("savkd,sd->savk", planes, mean[:, which]))
    return LinearFits(torch.stack(coef, dim=1), torch.stack(intercept, dim=1))


def _path(
    X: Tensor, targets: Tensor, rows: Tensor, penalty: Tensor, Cs: Floats, known: Cholesky | None = None
) -> Tensor:
    """(penalties, sites, fits, columns, p) weights, in the order of ``Cs``; ``penalty`` is that of C = 1.

    ``known``: factors (sites) of the average fit's Hessian at zero, under the smallest of ``Cs``.
    """
    fits, own = Fits.at_zero(X, *targets.shape[:2]), False
    found: dict[int, Tensor] = {}
    for index in np.argsort(Cs, kind="stable").tolist():
        fits, own = minimise(X, targets, rows, penalty / Cs[index], fits, own, known)
        known = None
        found[index] = fits.weights
    return torch.stack([found[index] for index in range(len(Cs))])
