"""Restart: a forward that begins at a layer, from residuals stored before.

The blocks before it hand their input on unchanged and the block it begins at is given the stored residuals; all else
(embeddings, masks, rotary tables) is computed as always, so that the rest of the pass is the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from layerwise.errors import UserError
from layerwise.models.ports import input_key, with_first_tensor, with_input
from layerwise.models.replaced import forward_replaced
from layerwise.models.sites import SiteMap


@dataclass(frozen=True)
class Start:
    """Where a forward begins: ``site`` is a ``resid_pre``, ``hidden`` its value, (batch, tokens, width)."""

    site: str
    hidden: Tensor


class _Model(Protocol):
    @property
    def module(self) -> nn.Module: ...
    @property
    def sites(self) -> SiteMap: ...


@contextmanager
def restarted(model: _Model, start: Start | None) -> Iterator[None]:
    """The model with its blocks before ``start`` skipped, for the time of the context.

    In an encoder-decoder that starts in its decoder the encoder still runs (or is given as ``encoder_outputs``).
    Raises UserError for a start that is no ``resid_pre`` of the model.
    """
    if start is None:
        yield
        return
    site = model.sites.one(start.site)
    if site.kind != "resid_pre" or site.layer is None:
        raise UserError(f"a forward can start at a resid_pre only, but got {start.site!r}.")
    stack = model.sites.stacks[site.name.removesuffix("resid_pre")]
    blocks = [model.module.get_submodule(stack.block(layer)) for layer in range(site.layer + 1)]
    # Where blocks hand on more than the residual (T5's first makes the relative positions of all), the first one runs
    # and what else it returned goes on.
    skipped = blocks[:-1] if stack.plain_output else blocks[1:-1]
    returned: list[Any] = []

    def given(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        key = input_key(args, kwargs, start.site)
        return with_input(args, kwargs, key, start.hidden)

    def handing_on(*args: Any, **kwargs: Any) -> Any:
        key = input_key(args, kwargs, start.site)
        hidden = args[key] if isinstance(key, int) else kwargs[key]
        return with_first_tensor(returned[-1], hidden) if returned else hidden

    with ExitStack() as undo:
        undo.callback(blocks[-1].register_forward_pre_hook(given, with_kwargs=True, prepend=True).remove)
        if not stack.plain_output and len(blocks) > 1:
            undo.callback(blocks[0].register_forward_hook(lambda module, args, output: returned.append(output)).remove)
        for block in skipped:
            undo.enter_context(forward_replaced(block, handing_on))
        yield
