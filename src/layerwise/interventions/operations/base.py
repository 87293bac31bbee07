"""What every operation is: a module from the rows it is given to the rows that take their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import torch
from torch import Tensor, nn

from layerwise.errors import UserError
from layerwise.interventions.settings_base import Settings


@dataclass(frozen=True, eq=False)
class Row:
    """What belongs to the rows of one call, all aligned with them.

    example, position: (rows,) which text and which of its columns each row is from.
    source: (rows, width) values of the other run. input: (rows, any) the module's input.
    chosen: (rows, size) True at the numbers, of the operation's own space, that are acted on; None for all.
    """

    example: Tensor
    position: Tensor
    source: Tensor | None = None
    input: Tensor | None = None
    chosen: Tensor | None = None


class Operation(nn.Module):
    """One operation at one place.

    ``forward(base, row)``: (rows, width) → (rows, width), in the number format of ``base``; ``base`` is not changed in
    place. The maths are in ``changed``, in the operation's own precision (float32 where the model has less). What
    is not ``chosen`` keeps its value: by default in the model's basis, else ``size`` says how large its space is.

    ``replaces``: nothing of what was there before is left. ``needs_input``: it takes the module's input.
    ``fits``: it must see data (``fit``) before it can act.
    """

    replaces: ClassVar[bool] = False
    needs_input: bool = False
    fits: bool = False

    def __init__(self, settings: Settings, width: int | None) -> None:
        super().__init__()
        self.settings, self.width = settings, width

    @property
    def size(self) -> int | None:
        """How many numbers ``chosen`` chooses among; None where only a run can tell."""
        return self.width

    def forward(self, base: Tensor, row: Row) -> Tensor:
        dtype = self._dtype(base)
        source = None if row.source is None else row.source.to(dtype)
        inner = None if row.input is None else row.input.to(dtype)
        new = self.changed(base.to(dtype), Row(row.example, row.position, source, inner, row.chosen))
        return new.to(base.dtype)

    def changed(self, base: Tensor, row: Row) -> Tensor:
        """The new rows; ``new`` where chosen."""
        new = self.new(base, row)
        return new if row.chosen is None else torch.where(row.chosen, new, base)

    def new(self, base: Tensor, row: Row) -> Tensor:
        """The new rows, were all numbers chosen."""
        raise TypeError(f"{type(self).__name__} says neither what is new nor what is changed.")

    def constant(self) -> Tensor | None:
        """(width,): what it adds to each row, whatever the row is; None where that is not all it does."""
        return None

    def fit(self, rows: Tensor) -> None:
        """Learn from (rows, width) what the operation needs to know of the data. Only where ``fits``."""
        raise TypeError(f"{type(self).__name__} has nothing to fit.")

    def penalty(self) -> Tensor | None:
        """What training may add to its loss to keep the operation small; None for most."""
        return None

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the parameters and buffers that were saved. Raises UserError for other names or shapes."""
        own = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        empty = {name for name, value in self._buffers.items() if value is None}
        kept = set(self.state_dict()) | (empty & set(tensors))
        if set(tensors) != kept:
            odd = sorted(set(tensors) ^ kept)
            raise UserError(f"the saved tensors do not belong to a {type(self).__name__}: {', '.join(odd)}.")
        for name, tensor in tensors.items():
            if name in empty:
                setattr(self, name, tensor)
            elif own[name].shape != tensor.shape:
                raise UserError(
                    f"{name} was saved with the shape {tuple(tensor.shape)}, and this model needs {tuple(own[name].shape)}:\n"
                    "the plan was made for another model."
                )
            else:
                own[name].data.copy_(tensor)

    def _dtype(self, base: Tensor) -> torch.dtype:
        for tensor in chain(self.parameters(), self.buffers()):
            if tensor.is_floating_point():
                return tensor.dtype
        return torch.promote_types(base.dtype, torch.float32)


def need_width(settings: Settings, width: int | None) -> int:
    """``width``, or UserError where the site has none that is known beforehand."""
    if width is None:
        raise UserError(
            f"{getattr(settings, 'kind', 'this')} needs to know how wide its site is, which only a run can tell here.\n"
            "Give an example batch: Intervened(model, plan, example=batch)."
        )
    return width


def need_source(row: Row) -> Tensor:
    """The source's rows of an operation that always has some."""
    if row.source is None:
        raise UserError("this operation reads a source, and its step has none.")
    return row.source
