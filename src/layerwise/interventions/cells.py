"""Cells: the tokens of a batch that a step acts on, and how their rows are taken out of a site's tensor and put back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.positions import PerText, Positions, checked, per_text
from layerwise.interventions.prompts import Prompts


@dataclass(frozen=True, eq=False)
class Cells:
    """Tokens of ``n`` texts, text by text: ``example`` and ``column`` (rows,), the column counted with padding.

    whole: all tokens are meant, so a tensor without an axis of tokens is meant as a whole.
    """

    example: Tensor
    column: Tensor
    n: int
    whole: bool = False

    def __len__(self) -> int:
        return len(self.example)

    @property
    def counts(self) -> list[int]:
        """How many tokens of each text."""
        return torch.bincount(self.example, minlength=self.n).tolist()

    def mask(self, length: int) -> Tensor:
        """(n, length) True at the cells."""
        found = torch.zeros(self.n, length, dtype=torch.bool, device=self.example.device)
        return found.index_put((self.example, self.column), found.new_ones(()))


def find_cells(positions: Positions | PerText, prompts: Prompts, step: str) -> Cells:
    """The cells that positions mean in a batch, its own mask deciding which columns are real tokens."""
    mask = prompts.batch.mask.cpu()
    lists = None if isinstance(positions, Positions) else per_text(positions, len(mask), step)
    examples, columns = [], []
    for index, row in enumerate(mask):
        real = row.nonzero()[:, 0]
        if isinstance(positions, Positions):
            numbers = positions.of(index, len(real), prompts)
        else:
            assert lists is not None
            numbers = checked(lists[index], index, len(real))
        examples += [index] * len(numbers)
        columns += real[torch.tensor(numbers, dtype=torch.long)].tolist()
    if not examples:
        raise UserError(f"{step} acts on no token at all.\nGive at least one text a position.")
    device = prompts.batch.mask.device
    whole = isinstance(positions, Positions) and positions.text == "all"
    return Cells(torch.tensor(examples, device=device), torch.tensor(columns, device=device), len(mask), whole)


def has_tokens(value: Tensor, tokens: int | None) -> bool:
    """Whether a site's tensor has an axis of tokens: always, of three axes, where ``tokens`` does not say how many."""
    return value.dim() >= 3 and (tokens is None or value.shape[1] == tokens)


def seen(value: Tensor, head_axis: int, tokens: int | None) -> Tensor:
    """A site's tensor as (batch, tokens, …), heads if any on the third axis.

    One without an axis of tokens, (batch, width) or an image's, is one token per example.
    """
    if head_axis == 1:
        return value.transpose(1, 2)
    return value if has_tokens(value, tokens) else value.flatten(1)[:, None]


def unseen(value: Tensor, head_axis: int, like: Tensor) -> Tensor:
    """The inverse of :func:`seen`."""
    return value.transpose(1, 2) if head_axis == 1 else value.reshape(like.shape)


def take(value: Tensor, example: Tensor, column: Tensor, heads: Sequence[int] | None) -> Tensor:
    """(rows, width) of (batch, tokens, width) or (batch, tokens, heads, head_dim): the heads named, side by side."""
    if heads is None:
        return value[example, column].flatten(1)
    chosen = torch.tensor(heads, device=value.device)
    return value[example[:, None], column[:, None], chosen].flatten(1)


def put(value: Tensor, example: Tensor, column: Tensor, heads: Sequence[int] | None, rows: Tensor) -> Tensor:
    """``value`` with rows in the cells' place; ``value`` itself is not changed."""
    if heads is None:
        return value.index_put((example, column), rows.reshape(-1, *value.shape[2:]))
    chosen = torch.tensor(heads, device=value.device)
    return value.index_put(
        (example[:, None], column[:, None], chosen), rows.reshape(len(example), len(heads), *value.shape[3:])
    )
