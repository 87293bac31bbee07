"""Ports: where in a running model one site's tensor passes, and how it is taken out and put back.

A port is a module's input or output, or a named point inside a module's forward (``q`` in an attention function).
Shapes the model uses (heads side by side, tokens of all texts in one row) are turned into the ones of DESIGN here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from layerwise.errors import UserError


@dataclass(frozen=True)
class Port:
    """One place a tensor passes.

    ``path`` names the module from the model's root ('' is the whole model). ``inside`` names a point in its forward.
    ``heads`` > 0 splits the last axis into (heads, head_dim). ``scale`` is what the model multiplies the tensor by
    before it adds it to the residual stream. ``shared``: the block uses the very same tensor a second time, so a
    write must change it in place. ``changed``: the model itself changes the tensor in place later, so reads copy.
    """

    path: str
    side: Literal["input", "output", "inside"]
    inside: str = ""
    heads: int = 0
    scale: float = 1.0
    shared: bool = False
    changed: bool = False
    width: int | None = None

    def module(self, root: nn.Module) -> nn.Module:
        return root.get_submodule(self.path)

    @property
    def head_axis(self) -> int:
        """The axis of heads in the tensor a tap sees: 1 in ``pattern`` (batch, heads, query, key), else 2."""
        return 1 if self.inside == "pattern" else 2

    def shaped(self, value: Tensor, batch: int) -> Tensor:
        """The tensor as a tap sees it: (batch, tokens, …), scaled as it is added, its heads apart."""
        if value.dim() == 2 and self.width is not None and self.path:
            value = value.view(batch, -1, value.shape[-1])
        if self.heads:
            value = value.unflatten(-1, (self.heads, -1))
        return value if self.scale == 1.0 else value * self.scale

    def restored(self, value: Tensor, like: Tensor) -> Tensor:
        """The tensor as the model wants it back: the inverse of :meth:`shaped`."""
        if self.scale != 1.0:
            value = value / self.scale
        return value if value.dim() == like.dim() else value.reshape(like.shape)


def first_tensor(value: Any) -> Tensor | None:
    """The tensor a module hands on: itself, or the first tensor of a tuple, list or model output."""
    if isinstance(value, Tensor):
        return value
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    return next((item for item in values if isinstance(item, Tensor)), None)


def with_first_tensor(value: Any, new: Tensor) -> Any:
    """The same output with its first tensor replaced."""
    if isinstance(value, Tensor):
        return new
    if isinstance(value, Mapping):
        key = next(key for key, item in value.items() if isinstance(item, Tensor))
        value[key] = new  # type: ignore[index]
        return value
    index = next(index for index, item in enumerate(value) if isinstance(item, Tensor))
    items = [*value[:index], new, *value[index + 1 :]]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def input_key(args: tuple, kwargs: Mapping[str, Any], path: str) -> int | str:
    """Which argument carries a module's input: the first positional tensor, else ``hidden_states``, else the only one.

    Raises UserError where several keyword tensors could be meant.
    """
    for index, item in enumerate(args):
        if isinstance(item, Tensor):
            return index
    names = [name for name, item in kwargs.items() if isinstance(item, Tensor)]
    if "hidden_states" in names:
        return "hidden_states"
    if len(names) != 1:
        raise UserError(f"{path}.input is not one tensor: the module is called with {', '.join(names) or 'none'}.")
    return names[0]


def with_input(
    args: tuple, kwargs: Mapping[str, Any], key: int | str, value: Tensor
) -> tuple[tuple, Mapping[str, Any]]:
    """A module's arguments with ``value`` in place of the one that ``key`` names, as :func:`input_key` gives it."""
    if isinstance(key, int):
        return (*args[:key], value, *args[key + 1 :]), kwargs
    return args, {**kwargs, key: value}
