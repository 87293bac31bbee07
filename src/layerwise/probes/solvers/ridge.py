"""Ridge regression for many penalties, targets and training sets: one Gram matrix for all sets, one reduction for all penalties.

A training set's Gram matrix is the whole one less that of the rows left out (down-dating), then centred and scaled; its
tridiagonal form serves every penalty and every target. With more features than rows the same is done between rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.probes.solvers.dense import eigh, half_gram, product, shifted_solves, subtract_outer
from layerwise.probes.solvers.linear_fits import (
    Floats,
    LinearFits,
    out_of_fold,
    rows_of,
    training_sets,
)
from layerwise.probes.solvers.training_rows import TrainingRows


def ridge_fits(X: Any, Y: Any, training: Any, alphas: Any, standardize: bool = True, device: str = "cpu") -> LinearFits:
    """Fit ``make_pipeline(StandardScaler(), Ridge(alpha))`` for each training set, penalty and target.

    Args:
        X: (n, d) or (sites, n, d) features.
        Y: (n,) or (n, targets).
        training: (sets, n) boolean, the rows of each fit.
        alphas: (penalties,), all above 0.
        standardize: without it features are centred only, as ``Ridge`` alone does.

    Returns:
        LinearFits with axes (sites, sets, penalties, targets).

    Raises:
        UserError: for penalties not above 0, or shapes that do not fit.
    """
    rows = TrainingRows.of(X, training, device)
    shifts = _penalties(alphas, rows.X.device)
    return rows.each(lambda part: _fit(_Problem(part, Y, standardize), shifts))


def _fit(problem: _Problem, shifts: Tensor) -> LinearFits:
    coef, intercept = [], []
    for which in range(len(problem.masks)):
        # Between features the standardisation becomes the metric of the penalty.
        matrix, right, rows = problem.normal_equations(which, scaled=False)
        metric = None if rows is not None else problem.scale[:, which] ** 2
        solved = shifted_solves(matrix, right, shifts, metric)  # (sites, penalties, d or rows, targets)
        planes = problem.hyperplanes(which, solved, rows, scaled=False)
        coef.append(planes[0])
        intercept.append(planes[1])
    return LinearFits(torch.stack(coef, dim=1), torch.stack(intercept, dim=1))


def ridge_path(X: Any, Y: Any, folds: Any, alphas: Any, standardize: bool = True, device: str = "cpu") -> Floats:
    """Out-of-fold predictions of ``ridge_fits`` over folds.

    Args:
        folds: (repeats, n) or (n,), the fold each row is held out in.

    Returns:
        (sites, repeats, penalties, targets, n); without the first axis for X (n, d).
    """
    fits = ridge_fits(X, Y, training_sets(folds), alphas, standardize, device)
    scores = out_of_fold(X, fits, folds)
    return scores if np.ndim(X) == 3 else scores[0]


def ridge_leave_one_out(
    X: Any, Y: Any, training: Any, alphas: Any, standardize: bool = True, device: str = "cpu"
) -> tuple[LinearFits, Floats]:
    """``ridge_fits``, and the mean squared error of leaving out each training row in turn, in closed form.

    The errors are those by which ``RidgeCV`` chooses, given the training set's own centre and scale.

    Returns:
        LinearFits with axes (sites, sets, penalties, targets), and errors of shape (sites, sets, penalties, targets).
    """
    rows = TrainingRows.of(X, training, device)
    shifts = _penalties(alphas, rows.X.device)
    errors: list[Tensor] = []

    def fit(part: TrainingRows) -> LinearFits:
        fits, own = _fit_and_leave_one_out(_Problem(part, Y, standardize), shifts)
        errors.append(own)
        return fits

    fits = rows.each(fit)
    return fits, torch.cat(errors).cpu().numpy()


def _fit_and_leave_one_out(problem: _Problem, shifts: Tensor) -> tuple[LinearFits, Tensor]:
    coef, intercept, errors = [], [], []
    for which, mask in enumerate(problem.masks):
        matrix, right, rows = problem.normal_equations(which)
        values, vectors = eigh(matrix)
        inverse = 1 / (values[:, None] + shifts[:, None])  # (sites, penalties, d or rows)
        turned = product(vectors.mT.contiguous(), right)
        weights = (inverse[..., None] * turned[:, None]).permute(0, 2, 1, 3)
        flat = product(vectors, weights.flatten(2).contiguous())
        solved = flat.reshape(weights.shape).permute(0, 2, 1, 3)
        planes = problem.hyperplanes(which, solved, rows)
        coef.append(planes[0])
        intercept.append(planes[1])
        if rows is None:
            scaled = problem.scaled_rows(which)
            leverage = product(product(scaled, vectors) ** 2, inverse.mT.contiguous())
        else:
            leverage = product(vectors**2, (values[:, None] * inverse).mT.contiguous())
        leverage = leverage + 1 / mask.sum()  # (sites, rows, penalties)
        inside = problem.X[:, problem.rows(which)]
        fitted = torch.einsum("snd,sald->sanl", inside, planes[0]) + planes[1][:, :, None]
        residual = (problem.Y[problem.rows(which)] - fitted) / (1 - leverage.mT[..., None])
        errors.append(residual.square().mean(2))
    return LinearFits(torch.stack(coef, dim=1), torch.stack(intercept, dim=1)), torch.stack(errors, dim=1)


class _Problem:
    """Centred data, and the normal equations of each training set: between features, or between rows if those are fewer."""

    def __init__(self, data: TrainingRows, Y: Any, standardize: bool) -> None:
        self.data, self.X, self.masks = data, data.X, data.masks
        _, n, d = self.X.shape
        self.Y = torch.as_tensor(np.asarray(Y, dtype=np.float64)).reshape(len(Y), -1).to(self.X.device)
        if len(self.Y) != n:
            raise UserError(f"{n} rows of features but {len(self.Y)} of targets.")
        self.mean, self.scale = data.moments(standardize)
        weights = torch.as_tensor(self.masks, dtype=torch.float64, device=self.X.device)
        self.target_mean = weights @ self.Y / weights.sum(1)[:, None]  # (sets, targets)
        self.between_features = d <= n
        if self.between_features:
            targets = (self.Y - self.target_mean[:, None]) * weights[:, :, None]  # (sets, n, targets)
            crossed = product(data.centred.mT, targets.permute(1, 0, 2).reshape(n, -1))
            self.crossed = crossed.reshape(len(self.X), d, len(self.masks), -1)

    def rows(self, which: int) -> Tensor:
        """Row numbers of a training set."""
        return rows_of(self.masks[which], self.X)

    def scaled_rows(self, which: int) -> Tensor:
        """(sites, rows, d) the training rows, standardised."""
        return (self.X[:, self.rows(which)] - self.mean[:, which, None]) / self.scale[:, which, None]

    def normal_equations(self, which: int, scaled: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        """Matrix and right side, and the standardised training rows where the equations are between rows.

        Equations between features are those of standardised features, or of centred ones where they are not ``scaled``.
        """
        if not self.between_features:
            rows = self.scaled_rows(which)
            right = (self.Y - self.target_mean[which])[self.rows(which)]
            return half_gram(rows.mT), right.expand(len(rows), -1, -1).contiguous(), rows
        inside, scale = int(self.masks[which].sum()), self.scale[:, which]
        # In place throughout: fresh memory of this size costs as much as the arithmetic.
        offset = (self.mean[:, which] - self.data.centre[:, 0]) * inside**0.5
        matrix = subtract_outer(self.data.grams.of(which, self.data.scratch(0)), offset)
        if not scaled:
            return matrix, self.crossed[:, :, which], None
        matrix.div_(scale[:, :, None]).div_(scale[:, None])
        return matrix, self.crossed[:, :, which] / scale[:, :, None], None

    def hyperplanes(
        self, which: int, solved: Tensor, rows: Tensor | None, scaled: bool = True
    ) -> tuple[Tensor, Tensor]:
        """(sites, penalties, d or rows, targets) → coef (sites, penalties, targets, d), intercept, standardisation folded in."""
        weights = solved.mT if rows is None else torch.einsum("sart,srd->satd", solved, rows)
        coef = weights / self.scale[:, which, None, None] if scaled or rows is not None else weights
        return coef, self.target_mean[which] - torch.einsum("satd,sd->sat", coef, self.mean[:, which])


def _penalties(alphas: Any, device: torch.device) -> Tensor:
    values = np.atleast_1d(np.asarray(alphas, dtype=np.float64))
    if values.size == 0 or not (np.isfinite(values) & (values > 0)).all():
        raise UserError(f"ridge penalties must be numbers above 0, got {values.tolist()}.")
    return torch.as_tensor(values, device=device)
