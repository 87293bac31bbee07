"""The rest of a forward for many changes at once: the tokens that each one changes stand side by side in one row per text.

Tokens of a change see the kept keys and values of the tokens before it, and their own; so no token runs again in vain, whatever columns
the changes begin at. It needs attention that takes any mask, tokens whose positions are given, and keys and values that can be used
again; whether a model has all that is tried on it once, with numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from layerwise.models.batch import Batch, Ids, make_batch
from layerwise.models.packing import window
from layerwise.models.rest import Pass, can_reuse, keep_pass, run_rest
from layerwise.models.restart import Start
from layerwise.models.taps import Read, Write, run
from layerwise.models.tried import tried_once


@dataclass(frozen=True)
class Packing:
    """Where the tokens of each change stand in the row: change c has columns ``firsts[c]``, … of a batch of ``length`` columns."""

    firsts: tuple[int, ...]
    length: int

    @property
    def offsets(self) -> list[int]:
        """Where each change begins, and where the row ends."""
        return [0, *accumulate(self.length - first for first in self.firsts)]

    @property
    def columns(self) -> np.ndarray:
        """(row,): the column of the batch that each token of the row is of."""
        return np.concatenate([np.arange(first, self.length) for first in self.firsts])

    def allowed(self) -> np.ndarray:
        """(row, length + row) True where a token may look: at the batch's tokens before its change, and at its own change's so far."""
        change = np.repeat(np.arange(len(self.firsts)), [self.length - first for first in self.firsts])
        columns = self.columns
        before = np.arange(self.length) < np.array(self.firsts)[change][:, None]
        own = (change[:, None] == change) & (columns[:, None] >= columns)
        return np.concatenate([before, own], axis=1)


def run_packed(
    model: Any, kept: Pass, layer: int, packing: Packing, reads: Mapping[str, Read], writes: Mapping[str, Write]
) -> dict[str, Tensor]:
    """Run a kept pass again from block ``layer`` on; tensors at sites are (texts, row, …). ``k``, ``v`` and ``pattern`` are not theirs."""
    device = kept.batch.mask.device
    columns = torch.from_numpy(packing.columns).to(device)
    inputs = {
        name: value[:, columns]
        for name, value in kept.batch.inputs.items()
        if name in ("input_ids", "position_ids", "token_type_ids")
    }
    real = torch.cat([kept.batch.mask, kept.batch.mask[:, columns]], dim=1)
    allowed = torch.from_numpy(packing.allowed()).to(device) & real[:, None, None, :]
    hidden = kept.residuals[layer][:, columns]
    # A padding token looks at nobody real; it looks at itself, so that nothing becomes NaN.
    place = torch.arange(len(columns), device=device)
    allowed[:, :, place, packing.length + place] = True
    inputs["attention_mask"] = torch.zeros_like(allowed, dtype=hidden.dtype).masked_fill(
        ~allowed, torch.finfo(hidden.dtype).min
    )
    cache = DynamicCache()
    for number in sorted({0, *range(layer, len(kept.states))}):
        cache.update(*kept.states[number], number)
    batch = Batch(inputs, kept.batch.mask[:, columns], kept.batch.lengths)
    return run(model, batch, reads, writes, start=Start(f"{kept.prefix}resid_pre.{layer}", hidden), cache=cache)


def can_pack(model: Any, kept: Pass) -> bool:
    """Whether changes to a kept pass can run in this way; tried once per model, with numbers."""
    return bool(kept.states) and not kept.prefix and kept.length <= window(model.module) and _packing_holds(model)


@tried_once
def _packing_holds(model: Any) -> bool:
    """Whether two changes in one row have the effects that each has by itself."""
    if not can_reuse(model):
        return False
    embedding: Any = model.module.get_input_embeddings()
    draw = np.random.default_rng(1)
    ids: Sequence[np.ndarray] = [draw.integers(0, len(embedding.weight), size) for size in (8, 6)]
    batch = make_batch(model, Ids(ids), [0, 1])
    kept = keep_pass(model, batch)
    layer = len(kept.residuals) // 2
    site, last = f"resid_pre.{layer}", "resid_post.-1"
    change = torch.from_numpy(draw.standard_normal(kept.residuals[layer].shape[-1])).to(kept.residuals[layer])
    packing = Packing((3, 1), kept.length)

    def added(places: list[int]) -> Write:
        def write(value: Tensor) -> Tensor:
            new = value.clone()
            new[:, places] += change
            return new

        return write

    together = run_packed(model, kept, layer, packing, {last: None}, {site: added(packing.offsets[:2])})[last]
    for number, first in enumerate(packing.firsts):
        alone = run_rest(model, kept, layer, first, 1, {last: None}, {site: added([0])})[last]
        part = together[:, packing.offsets[number] : packing.offsets[number + 1]]
        real = batch.mask[:, first:]
        tolerance = (1e-4 if alone.dtype in (torch.float32, torch.float64) else 2e-2) * float(alone[real].abs().max())
        if not float((alone[real] - part[real]).abs().max()) <= tolerance:
            return False
    return True
