"""The affine map that best turns one set of vectors into another: ridge regression, its penalty chosen on items kept aside."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

# Of the mean variance of a number of the source, so that scale does not matter.
PENALTIES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True, eq=False)
class AffineMap:
    """``x @ weight + bias``: (…, width of the source) → (…, width of the target), float64."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x, dtype=np.float64) @ self.weight + self.bias


@dataclass
class Moments:
    """Sums over items of what a regression of y on x needs: items can be forgotten once they are added."""

    width_x: int
    width_y: int
    n: int = 0
    x: Tensor = field(init=False)
    y: Tensor = field(init=False)
    xx: Tensor = field(init=False)
    xy: Tensor = field(init=False)
    yy: Tensor = field(init=False)

    def __post_init__(self) -> None:
        zeros = lambda *shape: torch.zeros(*shape, dtype=torch.float64)  # noqa: E731
        self.x, self.y, self.yy = zeros(self.width_x), zeros(self.width_y), zeros(self.width_y)
        self.xx, self.xy = zeros(self.width_x, self.width_x), zeros(self.width_x, self.width_y)

    def add(self, x: Tensor, y: Tensor) -> None:
        """``x (n, width_x)`` and ``y (n, width_y)`` of the same items."""
        x, y = x.double().cpu(), y.double().cpu()
        self.n += len(x)
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += (y * y).sum(0)

    def centred(self) -> tuple[Tensor, Tensor, Tensor]:
        """Covariances times n: of x, of x with y, and the variances of y."""
        mean_x, mean_y = self.x / self.n, self.y / self.n
        return (
            self.xx - self.n * torch.outer(mean_x, mean_x),
            self.xy - self.n * torch.outer(mean_x, mean_y),
            (self.yy - self.n * mean_y**2).clamp(min=0),
        )


def fit_map(training: Moments, held_out: Moments) -> tuple[AffineMap, float, float]:
    """The ridge map fitted on ``training`` whose penalty does best on ``held_out``; its R² there, and the penalty.

    R² is 1 less the share of the variance of all of y's numbers together that is left. The penalty is relative to the mean variance
    of x's numbers.
    """
    xx, xy, _ = training.centred()
    values, vectors = torch.linalg.eigh(xx)
    values, rotated = values.clamp(min=0), vectors.T @ xy
    scale = float(values.sum()) / training.width_x or 1.0
    best: tuple[float, float, AffineMap] | None = None
    for penalty in PENALTIES:
        weight = vectors @ (rotated / (values + penalty * scale)[:, None])
        bias = training.y / training.n - (training.x / training.n) @ weight
        score = _r2(weight, bias, held_out)
        if best is None or score > best[0]:
            best = score, penalty, AffineMap(weight.numpy(), bias.numpy())
    assert best is not None
    return best[2], best[0], best[1]


def _r2(weight: Tensor, bias: Tensor, held_out: Moments) -> float:
    """R² of a map on items known by their moments alone."""
    n, total = held_out.n, float(held_out.centred()[2].sum())
    # Σ ‖y − xW − b‖², multiplied out.
    left = held_out.yy.sum() - 2 * (weight * held_out.xy).sum() - 2 * bias @ held_out.y
    left += ((held_out.xx @ weight) * weight).sum() + 2 * (held_out.x @ weight) @ bias + n * bias @ bias
    return 1 - max(float(left), 0.0) / total if total > 0 else float("nan")
