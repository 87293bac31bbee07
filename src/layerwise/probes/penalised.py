"""Logistic and ridge probes: linear probes with a penalty, given or chosen on the training rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from layerwise.probes.inputs import Floats, InvalidInput
from layerwise.probes.linear import Labels, LinearClassifier, LinearRegressor
from layerwise.probes.solvers.linear_fits import LinearFits, out_of_fold, rows_of, training_sets
from layerwise.probes.solvers.logistic import logistic_fits
from layerwise.probes.solvers.ridge import ridge_fits, ridge_leave_one_out
from layerwise.probes.solvers.training_rows import TrainingRows

RIDGE_PATH = tuple(10.0**power for power in np.arange(-1, 5.1, 0.5).tolist())
LOGISTIC_PATH = tuple(10.0**power for power in range(-4, 3))
INNER_FOLDS = 3

Path = float | Literal["path"]


class LogisticProbe(LinearClassifier):
    """Logistic regression with an L2 penalty: ``make_pipeline(StandardScaler(), LogisticRegression(C=C))``, converged.

    Args:
        C: inverse of the penalty. ``path`` takes, of ``Cs``, the one with the lowest log loss in three-fold cross-validation
            inside the training rows, from warm starts.
        standardize: without it the features are as they come.
        random_state: seed of those folds.
        device: of the solver; ``auto`` takes CUDA where there is one.

    Attributes: classes_, coef_, intercept_, n_features_in_; C_ the penalty that was used.
    """

    def __init__(
        self,
        C: Path = 0.01,
        Cs: tuple[float, ...] = LOGISTIC_PATH,
        standardize: bool = True,
        random_state: int = 0,
        device: str = "auto",
    ) -> None:
        self.C, self.Cs, self.standardize, self.random_state, self.device = C, Cs, standardize, random_state, device

    def _family(self) -> Hashable:
        return self.standardize

    @classmethod
    def _planes_together(cls, probes: Sequence[Self], rows: TrainingRows, Y: Labels) -> list[LinearFits]:
        """One path from strong to weak through the penalties of all."""
        wanted = [probe.Cs if probe.C == "path" else (_positive("C", probe.C),) for probe in probes]
        Cs = sorted({C for some in wanted for C in some})
        fits = logistic_fits(rows, Y, rows.masks, Cs, probes[0].standardize)
        found = []
        for probe, some in zip(probes, wanted, strict=True):
            best = np.zeros((*fits.coef.shape[:2], Y.shape[1]), dtype=np.int64)
            if probe.C == "path":
                losses = np.stack([probe._inner_losses(rows, labels) for labels in Y.T], axis=-1)
                best = losses.argmin(2)  # (sites, sets, label vectors)
            probe.C_ = float(some[best[0, 0, 0]])
            found.append(_chosen(fits, np.searchsorted(Cs, some)[best]))
        return found

    def _inner_losses(self, data: TrainingRows, labels: Labels) -> Floats:
        """(sites, sets, penalties) log loss over the training rows, each predicted from the others."""
        losses = []
        for mask in data.masks:
            rows = np.flatnonzero(mask)
            inner = np.empty(len(rows), dtype=np.int64)
            if np.bincount(labels[rows]).min() < INNER_FOLDS:
                raise InvalidInput(
                    f"C='path' needs at least {INNER_FOLDS} training rows of every class. Give C a number."
                )
            splitter = StratifiedKFold(INNER_FOLDS, shuffle=True, random_state=self.random_state)
            for fold, (_, held_out) in enumerate(splitter.split(rows, labels[rows])):
                inner[held_out] = fold
            inside = TrainingRows(data.X[:, rows_of(mask, data.X)], training_sets(inner))
            fits = logistic_fits(inside, labels[rows], inside.masks, self.Cs, self.standardize)
            scores = np.moveaxis(
                out_of_fold(inside.X, fits, inner)[:, 0, :, 0], -2, -1
            )  # (sites, penalties, rows, planes)
            true = np.take_along_axis(self._probabilities(scores), labels[rows][None, None, :, None], axis=-1)
            losses.append(-np.log(true[..., 0].clip(1e-300)).mean(-1))
        return np.stack(losses, axis=1)


class _Ridge:
    """What ridge probes for classes and for targets share."""

    alpha_: float

    def __init__(
        self,
        alpha: Path = "path",
        alphas: tuple[float, ...] = RIDGE_PATH,
        standardize: bool = True,
        device: str = "auto",
    ) -> None:
        self.alpha, self.alphas, self.standardize, self.device = alpha, alphas, standardize, device

    def _family(self) -> Hashable:
        return self.standardize

    @staticmethod
    def _targets(Y: Labels) -> Floats:
        """(n, label vectors) → (n, label vectors, columns)."""
        raise NotImplementedError

    @classmethod
    def _planes_together(cls, probes: Sequence[Self], rows: TrainingRows, Y: Labels) -> list[LinearFits]:
        """One decomposition for the penalties of all; ``path`` chooses one penalty for a label vector's columns."""
        targets = cls._targets(Y)
        apart = targets.shape[1:]
        flat, standardize = targets.reshape(len(targets), -1), probes[0].standardize
        wanted = [probe.alphas if probe.alpha == "path" else (_positive("alpha", probe.alpha),) for probe in probes]
        alphas = sorted({alpha for some in wanted for alpha in some})
        if any(probe.alpha == "path" for probe in probes):
            fits, by_target = ridge_leave_one_out(rows, flat, rows.masks, alphas, standardize)
            errors = by_target.reshape(*by_target.shape[:3], *apart).sum(-1)  # (sites, sets, penalties, label vectors)
        else:
            fits = ridge_fits(rows, flat, rows.masks, alphas, standardize)
            errors = np.zeros((*fits.coef.shape[:3], apart[0]))  # each has one penalty to choose from
        planes = LinearFits(fits.coef.unflatten(3, apart), fits.intercept.unflatten(3, apart))
        found = []
        for probe, some in zip(probes, wanted, strict=True):
            numbers = np.searchsorted(alphas, some)
            best = numbers[errors[:, :, numbers].argmin(2)]
            probe.alpha_ = float(alphas[best[0, 0, 0]])
            found.append(_chosen(planes, best))
        return found


class RidgeClassifierProbe(_Ridge, LinearClassifier):
    """Ridge regression on targets of −1 and 1: ``make_pipeline(StandardScaler(), RidgeClassifier(alpha))``.

    Args:
        alpha: the penalty. ``path`` takes, of ``alphas``, the one with the lowest leave-one-out error on the training rows, as
            ``RidgeClassifierCV`` does.
        standardize: without it the features are centred only.

    Attributes: classes_, coef_, intercept_, n_features_in_; alpha_ the penalty that was used. It gives no probabilities.
    """

    probabilistic = False

    @staticmethod
    def _targets(Y: Labels) -> Floats:
        classes = int(Y.max()) + 1
        return 2.0 * (Y[..., None] == (np.arange(classes) if classes > 2 else np.array([1]))) - 1


class RidgeRegressorProbe(_Ridge, LinearRegressor):
    """Ridge regression: ``make_pipeline(StandardScaler(), Ridge(alpha))``; ``path`` chooses alpha as ``RidgeCV`` does.

    The arguments and attributes are those of ``RidgeClassifierProbe``, without classes.
    """

    @staticmethod
    def _targets(Y: Labels) -> Floats:
        return Y[..., None]


def _chosen(fits: LinearFits, best: NDArray[np.int64]) -> LinearFits:
    """Axes (sites, sets, penalties, label vectors, planes) → without penalties, by the number of each one's best."""
    index = torch.as_tensor(best, device=fits.coef.device)[:, :, None, :, None]
    planes = fits.intercept.shape[-1]
    intercept = fits.intercept.gather(2, index.expand(-1, -1, -1, -1, planes))[:, :, 0]
    wide = index[..., None].expand(-1, -1, -1, -1, planes, fits.coef.shape[-1])
    return LinearFits(fits.coef.gather(2, wide)[:, :, 0], intercept)


def _positive(name: str, value: Any) -> float:
    if isinstance(value, str) or not 0 < value < float("inf"):
        raise InvalidInput(f"{name} must be a number above 0, or 'path', got {value!r}.")
    return float(value)
