"""Features on the device, row by row, checked when they come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerwise.errors import UserError
from layerwise.probes.training_loop import Rows

SMALLEST_SCALE = 1e-6


class InputRows(Protocol):
    """Rows a network reads, on the device: ``take`` gives what it is called with for row numbers (members, rows)."""

    @property
    def width(self) -> int: ...

    def __len__(self) -> int: ...

    def take(self, rows: Tensor) -> Any: ...


@dataclass(frozen=True)
class DenseRows:
    """One feature vector a row; values: (n, width) float32."""

    values: Tensor

    @classmethod
    def of(cls, X: Any, device: torch.device) -> DenseRows:
        """Raises UserError unless X is a finite, not empty (n, width) array of numbers."""
        values = np.asarray(X, dtype=np.float32)
        if values.ndim != 2 or 0 in values.shape:
            raise UserError(
                f"a probe takes (n, width) features with at least one row and column, got the shape {values.shape}."
            )
        check_finite(values)
        return cls(torch.from_numpy(np.ascontiguousarray(values)).to(device))

    @property
    def width(self) -> int:
        return self.values.shape[1]

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: Tensor) -> Tensor:
        return self.values[rows]

    def moments(self, members: Sequence[Rows]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each member's rows, (members, 1, width); constant features have scale 1."""
        pairs = [moments(self.values[torch.from_numpy(rows)]) for rows in members]
        return torch.stack([mean for mean, _ in pairs])[:, None], torch.stack([scale for _, scale in pairs])[:, None]


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """(width,) mean and standard deviation of (rows, width) values; constant columns have scale 1."""
    scale, mean = torch.std_mean(values, dim=0, correction=0)
    return mean, torch.where(scale <= SMALLEST_SCALE * mean.abs().clamp_min(SMALLEST_SCALE), 1.0, scale)


def check_finite(values: NDArray[Any]) -> None:
    """UserError naming the first row that has a NaN or an infinity."""
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))[0])
        raise UserError(
            f"row {row} of the features has a value that is not a finite number (NaN or infinity).\nLeave such rows out."
        )
