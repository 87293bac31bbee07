"""The rest of a forward: what a kept pass leaves to be run again after a change at one layer and column.

A change at layer l and column c leaves all before it as it was: blocks below l hand their input on, and in causal attention the
tokens before c keep their keys and values, so only tokens c, c + 1, … run again, through blocks l, l + 1, ….
Where tokens see those after them, or a state stands in place of keys and values, all tokens run again from layer l; which of both
holds is tried on the model itself once, with numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from layerwise.models.batch import Batch, Ids, make_batch
from layerwise.models.restart import Start
from layerwise.models.sites import SiteMap
from layerwise.models.taps import Read, Write, run
from layerwise.models.tried import tried_once

_BY_TOKEN = ("input_ids", "position_ids", "token_type_ids")


class _Model(Protocol):
    @property
    def module(self) -> nn.Module: ...
    @property
    def sites(self) -> SiteMap: ...


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward over a batch of n texts.

    residuals: by layer, ``resid_pre`` (n, tokens, width) of the stack ``prefix``.
    states: by layer, keys and values (n, key-value heads, tokens, head_dim); none where they cannot be used again.
    read: what else was read.
    """

    batch: Batch
    prefix: str
    residuals: tuple[Tensor, ...]
    states: tuple[tuple[Tensor, Tensor], ...]
    read: dict[str, Tensor]

    @property
    def length(self) -> int:
        """Columns of the batch."""
        return int(self.batch.mask.shape[1])

    def first_column(self, column: int) -> int:
        """Where a run must begin whose first change is at ``column``."""
        return column if self.states else 0


def keep_pass(
    model: _Model,
    batch: Batch,
    reads: Mapping[str, Read] | None = None,
    writes: Mapping[str, Write] | None = None,
    *,
    prefix: str = "",
) -> Pass:
    """Run a batch, with ``writes``, and keep what its parts need to run again.

    ``prefix``: the stack, ``decoder.`` in an encoder-decoder. Writes below the layer where a rest begins stay as they were; a
    write above it must be given to :func:`run_rest` again.
    """
    return _kept(model, batch, reads or {}, prefix, not prefix and can_reuse(model), writes)


def _kept(
    model: _Model,
    batch: Batch,
    reads: Mapping[str, Read],
    prefix: str,
    reuse: bool,
    writes: Mapping[str, Write] | None = None,
) -> Pass:
    names = [f"{prefix}resid_pre.{layer}" for layer in range(model.sites.stacks[prefix].n_layers)]
    last = f"{prefix}resid_post.-1"  # so that the pass reaches the last block, and its keys and values are kept
    cache = DynamicCache() if reuse else None
    found = run(model, batch, {**dict.fromkeys(names), last: None, **reads}, writes, cache=cache)
    states = tuple((layer.keys, layer.values) for layer in cache.layers) if cache is not None else ()
    return Pass(batch, prefix, tuple(found[name] for name in names), states, found)


def run_rest(
    model: _Model,
    kept: Pass,
    layer: int,
    column: int,
    copies: int,
    reads: Mapping[str, Read],
    writes: Mapping[str, Write],
    *,
    grad: bool = False,
) -> dict[str, Tensor]:
    """Run tokens ``column``, … of a kept pass through blocks ``layer``, …, ``copies`` times side by side, with ``writes``.

    Row c·n + i is copy c of text i. Tensors at most sites hold the tokens from ``kept.first_column(column)`` on; ``k``, ``v``
    and the last axis of ``pattern`` hold all. Returns what ``reads`` keep, as :func:`taps.run` does; gradients are recorded
    only with ``grad``.
    """
    column = kept.first_column(column)

    def repeated(value: Tensor) -> Tensor:
        return value.repeat(copies, *[1] * (value.dim() - 1))

    inputs = {
        name: repeated(value[:, column:] if name in _BY_TOKEN else value) for name, value in kept.batch.inputs.items()
    }
    batch = Batch(inputs, repeated(kept.batch.mask), kept.batch.lengths.repeat(copies))
    cache = None
    if column:
        cache = DynamicCache()
        # Those of skipped blocks are not read, but for how many tokens came before, which the first one tells.
        for number in sorted({0, *range(layer, len(kept.states))}):
            keys, values = kept.states[number]
            cache.update(repeated(keys[:, :, :column]), repeated(values[:, :, :column]), number)
    start = Start(f"{kept.prefix}resid_pre.{layer}", repeated(kept.residuals[layer][:, column:]))
    return run(model, batch, reads, writes, start=start, cache=cache, grad=grad)


@tried_once
def can_reuse(model: Any) -> bool:
    """Whether keys and values of tokens before a change can be used again: a change in the middle has the same effect with them and without."""
    embedding: Any = model.module.get_input_embeddings()
    draw = np.random.default_rng(0)
    batch = make_batch(model, Ids([draw.integers(0, len(embedding.weight), size) for size in (7, 5)]), [0, 1])
    kept = _kept(model, batch, {}, "", reuse=True)
    layers, column = len(kept.residuals), 3
    if len(kept.states) != layers or any(keys.shape[2] != kept.length for keys, _ in kept.states):
        return False
    layer = layers // 2
    change = torch.from_numpy(draw.standard_normal(kept.residuals[layer].shape[-1])).to(kept.residuals[layer])
    site, last = f"resid_pre.{layer}", "resid_post.-1"

    def changed(value: Tensor) -> Tensor:
        at = column - (kept.length - value.shape[1])
        return value.index_put((torch.arange(len(value)), torch.tensor(at)), value[:, at] + change)

    whole = Pass(batch, "", kept.residuals, (), {})
    want = run_rest(model, whole, layer, column, 1, {last: None}, {site: changed})[last]
    have = run_rest(model, kept, layer, column, 1, {last: None}, {site: changed})[last]
    real = batch.mask[:, column:]
    before, after = want[:, :column] - kept.read[last][:, :column], want[:, column:][real]
    tolerance = (1e-4 if want.dtype in (torch.float32, torch.float64) else 2e-2) * float(after.abs().max())
    return bool(float(before.abs().max()) <= tolerance and float((after - have[real]).abs().max()) <= tolerance)
