"""Gram matrices (upper halves) of the rows of many training sets: that of all rows, less that of the rows a set leaves out (down-dating)."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from layerwise.probes.solvers.dense import half_gram
from layerwise.probes.solvers.linear_fits import Masks, rows_of

KEPT_ELEMENTS = (
    2**25
)  # of the matrices kept for the next solver; where they are more, each training set computes its own


class TrainingGrams:
    """``Rᵀ R`` over the rows of each training set, 0 below the diagonal.

    Args:
        rows: (sites, n, d), centred, so that taking away loses no digits.
        masks: (sets, n), the rows of each set.
    """

    def __init__(self, rows: Tensor, masks: Masks) -> None:
        self.rows, self.masks = rows, masks
        self._kept: dict[int, Tensor] = {}
        self.keeps = (len(masks) + 1) * len(rows) * rows.shape[2] ** 2 <= KEPT_ELEMENTS

    @cached_property
    def whole(self) -> Tensor:
        """(sites, d, d) of all rows. Where the first sets leave out each row once, as folds do, it is the sum of theirs."""
        complete = ((~self.masks).cumsum(0) == 1).all(1)
        if not (self.keeps and complete.any()):
            return half_gram(self.rows)
        total = self._left_out(0).clone()
        for which in range(1, int(complete.argmax()) + 1):
            total += self._left_out(which)
        return total

    def of(self, which: int, into: Tensor | None = None) -> Tensor:
        """(sites, d, d) of one set, in memory of its own, or in ``into``."""
        mask = self.masks[which]
        if 2 * mask.sum() <= len(mask):
            found = half_gram(self.rows[:, rows_of(mask, self.rows)])
            return found if into is None else into.copy_(found)
        return torch.sub(self.whole, self._left_out(which), out=into)

    def _left_out(self, which: int) -> Tensor:
        if which in self._kept:
            return self._kept[which]
        found = half_gram(self.rows[:, rows_of(~self.masks[which], self.rows)])
        if self.keeps:
            self._kept[which] = found
        return found
