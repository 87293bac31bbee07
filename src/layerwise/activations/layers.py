"""Several layers as one input: their mean, maximum or minimum, or side by side.

Works on pooled activations, so for poolers that take single tokens or means the order of pooling over tokens and over
layers makes no difference for ``mean``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from layerwise.errors import UserError, unknown

LayerReduction = Literal["mean", "max", "min", "concat"]


def combine(layers: Sequence[np.ndarray], how: LayerReduction) -> np.ndarray:
    """L matrices (n, width) → (n, width), element by element; ``concat`` → (n, L·width), in the order given.

    Raises UserError where widths differ and ``how`` is not ``concat``.
    """
    if how not in get_args(LayerReduction):
        raise unknown("way to combine layers", str(how), [*get_args(LayerReduction), "rows"])
    if not layers:
        raise UserError("no layers to combine.")
    if how == "concat":
        return np.concatenate(layers, axis=1)
    widths = {matrix.shape[1] for matrix in layers}
    if len(widths) > 1:
        raise UserError(f"layers of widths {sorted(widths)} cannot be combined by {how}; concat takes any widths.")
    stacked = np.stack(layers, axis=1)
    if how == "mean":
        return stacked.mean(axis=1)
    return stacked.max(axis=1) if how == "max" else stacked.min(axis=1)
