"""Several layers as one input: their mean, maximum or minimum, side by side, or each layer a training row.

Works on pooled activations, so for poolers that take single tokens or means the order of pooling over tokens and over
layers makes no difference for ``mean``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from layerwise.activations.result import Activations
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
    stacked = _stack(layers, how)
    if how == "mean":
        return stacked.mean(axis=1)
    return stacked.max(axis=1) if how == "max" else stacked.min(axis=1)


@dataclass(frozen=True)
class LayerRows:
    """Each layer of a text as a training row of its own, with the text's label; L times the rows for one probe.

    train: (n·L, width), the L rows of a text one after another. ``repeat`` makes labels and groups to go with it.
    evaluation: (n, width), the last layer named: one row and so one answer a text, as PoolToken's ``extend`` had it.
    """

    stacked: np.ndarray  # (n, L, width)

    @property
    def train(self) -> np.ndarray:
        return self.stacked.reshape(-1, self.stacked.shape[2])

    @property
    def evaluation(self) -> np.ndarray:
        return self.stacked[:, -1]

    def repeat(self, per_text: np.ndarray) -> np.ndarray:
        """(n, …) → (n·L, …) for ``train``."""
        return np.repeat(per_text, self.stacked.shape[1], axis=0)

    def average(self, scores: np.ndarray) -> np.ndarray:
        """Scores of ``train`` rows (n·L, …) → one score a text (n, …): the other way to evaluate, every layer a vote."""
        return scores.reshape(len(self.stacked), self.stacked.shape[1], *scores.shape[1:]).mean(1)

    def select(self, indices: np.ndarray) -> LayerRows:
        """The texts at ``indices``, all their rows together, so that no text is split between folds."""
        return LayerRows(self.stacked[indices])


def layer_rows(layers: Sequence[np.ndarray]) -> LayerRows:
    """L matrices (n, width) as training rows. Raises UserError where widths differ."""
    return LayerRows(_stack(layers, "rows"))


def over_layers(activations: Activations, sites: Sequence[str], pooler: str | None, how: LayerReduction) -> np.ndarray:
    """``combine`` over sites of a collection."""
    return combine([activations.matrix(site, pooler) for site in sites], how)


def _stack(layers: Sequence[np.ndarray], how: str) -> np.ndarray:
    if not layers:
        raise UserError("no layers to combine.")
    widths = {matrix.shape[1] for matrix in layers}
    if len(widths) > 1:
        raise UserError(f"layers of widths {sorted(widths)} cannot be combined by {how}; concat takes any widths.")
    return np.stack(layers, axis=1)
