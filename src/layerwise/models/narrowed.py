"""The last block's MLP, run only for the tokens whose results are read: nobody looks at what it makes of the others.

An MLP sees each token by itself, so leaving tokens out changes none of the others; whether it holds for a model is tried on it once,
with numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.models.batch import Ids, make_batch
from layerwise.models.ports import input_key, with_input
from layerwise.models.replaced import forward_replaced
from layerwise.models.sites import parse_site
from layerwise.models.taps import run
from layerwise.models.tried import tried_once

_BEFORE_MLP = {"embed", "resid_pre", "attn_in", "q", "k", "v", "pattern", "z", "attn_out", "resid_mid"}


@contextmanager
def last_mlp_only_at(model: Any, rows: Tensor, places: Tensor, writes: Iterable[str] = ()) -> Iterator[None]:
    """The model with the MLP of its last block run for tokens ``places`` of ``rows`` alone; what it adds to others is 0.

    Only what those tokens come to may be read while it lasts. Where a site is written that could lie in that MLP or behind it, or
    the model does not allow it, the model stays as it is.
    """
    with ExitStack() as undo:
        module = _last_mlp(model)
        if module is not None and all(_ends_before(model, name) for name in writes) and _narrowing_holds(model):
            undo.enter_context(_narrowed(module, rows, places))
        yield


@contextmanager
def _narrowed(module: nn.Module, rows: Tensor, places: Tensor) -> Iterator[None]:
    whole = module.forward

    def narrow(*args: Any, **kwargs: Any) -> Any:
        key = input_key(args, kwargs, "mlp_out.-1")
        hidden = args[key] if isinstance(key, int) else kwargs[key]
        if 2 * len(rows) > hidden.shape[0] * hidden.shape[1]:
            return whole(*args, **kwargs)
        part = hidden[rows, places][None]
        given, named = with_input(args, kwargs, key, part)
        made: Tensor = whole(*given, **named)
        return made.new_zeros(*hidden.shape[:2], made.shape[-1]).index_put((rows, places), made[0])

    with forward_replaced(module, narrow):
        yield


def _last_mlp(model: Any) -> nn.Module | None:
    """The module whose output is ``mlp_out`` of the last block; None where there is none or more than one, and of mixtures of experts."""
    if list(model.sites.stacks) != [""]:
        return None
    last = model.sites.n_layers - 1
    port = model.sites.ports.get(f"mlp_out.{last}")
    if port is None or port.side != "output" or f"router.{last}" in model.sites.ports:
        return None
    found: nn.Module = port.module(model.module)
    return found


def _ends_before(model: Any, name: str) -> bool:
    """Whether all that a site's name means comes before the last block's MLP."""
    last = model.sites.n_layers - 1
    sites = [parse_site(one) for one in model.sites.expand(name)]
    return all(
        not site.is_path and (site.name in _BEFORE_MLP or (site.layer is not None and site.layer < last))
        for site in sites
    )


@tried_once
def _narrowing_holds(model: Any) -> bool:
    """Whether two tokens come to the same with the others left out of the last MLP."""
    module = _last_mlp(model)
    assert module is not None
    embedding: Any = model.module.get_input_embeddings()
    draw = np.random.default_rng(2)
    batch = make_batch(model, Ids([draw.integers(0, len(embedding.weight), size) for size in (7, 5)]), [0, 1])
    device = batch.mask.device
    rows, places = torch.tensor([0, 1], device=device), torch.tensor([3, 6], device=device)
    last = "resid_post.-1"
    whole = run(model, batch, {last: None})[last]
    with torch.no_grad(), _narrowed(module, rows, places):
        narrow = run(model, batch, {last: None})[last]
    tolerance = (1e-4 if whole.dtype in (torch.float32, torch.float64) else 2e-2) * float(
        whole[rows, places].abs().max()
    )
    return float((whole[rows, places] - narrow[rows, places]).abs().max()) <= tolerance
