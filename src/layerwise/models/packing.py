"""Several texts of one beginning in one row of a forward: how the rows are made, run, and where that is right.

A row holds the common beginning of its texts, then each one's rest, which sees the beginning and itself alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.models.architecture import config_of
from layerwise.models.batch import SHIFT_INVARIANT, Ids, make_batch
from layerwise.models.continuations import Continuation
from layerwise.models.model import LanguageModel
from layerwise.models.taps import single_pass
from layerwise.models.tried import tried_once

_WINDOWS = ("sliding_window", "window_size", "attention_chunk_size", "local_attention")


@dataclass(frozen=True)
class Row:
    """One row of a forward: texts of one group that begin alike.

    ids, positions, branch: (n,); branch is 0 in the common beginning, 1, 2, … in the rest of each text.
    members: which texts; reads: per text the (tokens - 1,) columns whose logits predict its tokens from the second on.
    """

    members: list[tuple[int, int]]
    ids: np.ndarray
    positions: np.ndarray
    branch: np.ndarray
    reads: list[np.ndarray]


def make_rows(number: int, group: Sequence[Continuation], together: float) -> Iterator[Row]:
    """The group's texts in rows of at most ``together`` tokens each; 0: each text alone."""
    members: list[int] = []
    size = 0
    shared = common_length([text.ids for text in group]) if together else 0
    for place, text in enumerate(group):
        rest = max(len(text.ids) - 1 - shared, 0)
        if members and shared + size + rest > together:
            yield make_row(number, group, members)
            members, size = [], 0
        members.append(place)
        size += rest
    if members:
        yield make_row(number, group, members)


def make_row(number: int, group: Sequence[Continuation], members: list[int]) -> Row:
    texts = [group[place].ids for place in members]
    shared = common_length(texts) if len(texts) > 1 else max(len(texts[0]) - 1, 1)
    ids, positions, branch, reads = [texts[0][:shared]], [np.arange(shared)], [np.zeros(shared, dtype=np.int64)], []
    end = shared
    for place, text in enumerate(texts, 1):
        rest = text[shared:-1]
        ids.append(rest)
        positions.append(np.arange(shared, shared + len(rest)))
        branch.append(np.full(len(rest), place))
        before = np.arange(len(text) - 1)
        reads.append(np.where(before < shared, before, before - shared + end))
        end += len(rest)
    return Row(
        [(number, place) for place in members],
        np.concatenate(ids), np.concatenate(positions), np.concatenate(branch), reads,
    )  # fmt: skip


def common_length(texts: Sequence[np.ndarray]) -> int:
    """How many tokens all texts begin with."""
    shortest = min(map(len, texts))
    table = np.stack([text[:shortest] for text in texts])
    differs = np.flatnonzero((table != table[0]).any(axis=0))
    return int(differs[0]) if len(differs) else shortest


def run_rows(model: LanguageModel, rows: list[Row]) -> Tensor:
    """Logits (rows, tokens, vocabulary): each token sees the common beginning and the part of its own text before it."""
    device = model.device
    longest = max(len(row.ids) for row in rows)

    def padded(values: list[np.ndarray], fill: int) -> Tensor:
        table = np.full((len(values), longest), fill, dtype=np.int64)
        for place, value in enumerate(values):
            table[place, : len(value)] = value
        return torch.from_numpy(table).to(device)

    branch = padded([row.branch for row in rows], -1)
    key, query = branch[:, None, :], branch[:, :, None]
    sees = ((key == 0) | (key == query)) & torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
    mask = torch.zeros(sees.shape, dtype=model.dtype, device=device).masked_fill(~sees, torch.finfo(model.dtype).min)
    output = model.module(
        input_ids=padded([row.ids for row in rows], 0),
        position_ids=padded([row.positions for row in rows], 0),
        attention_mask=mask[:, None],
        **single_pass(model.module, model.module),
    )
    logits: Tensor = output.logits
    return logits


def _attention(model: LanguageModel) -> str:
    """The attention function, which taps change for a time."""
    return str(getattr(config_of(model.module), "_attn_implementation", ""))


@partial(tried_once, kind=_attention)
def can_share(model: LanguageModel) -> bool:
    """Whether several texts of one beginning can go through the model in one row; tried once per model and attention, with numbers."""
    return _takes_positions(model.module, _attention(model)) and _packing_holds(model)


def _takes_positions(module: nn.Module, attention: str) -> bool:
    names = inspect.signature(module.forward).parameters
    own_mask = "flash" not in attention  # fused kernels take none
    return "position_ids" in names and config_of(module).model_type not in SHIFT_INVARIANT and own_mask


def window(module: nn.Module) -> float:
    """How many tokens every layer sees at least; infinite where attention is never local."""
    config: Any = config_of(module).get_text_config()
    if getattr(config, "use_sliding_window", True) is False:
        return float("inf")
    stated = [getattr(config, name, None) for name in _WINDOWS]
    return min((size for size in stated if isinstance(size, int) and size > 0), default=float("inf"))


def _packing_holds(model: LanguageModel) -> bool:
    """Whether three short texts in one row get the numbers that each of them gets alone."""
    draw = np.random.default_rng(0)
    small = window(model.module) < 10
    shared = draw.integers(0, model.vocabulary_size, 2 if small else 4)
    group = []
    for length in (2, 1, 2) if small else (3, 1, 4):
        ids = np.concatenate([shared, draw.integers(0, model.vocabulary_size, length)])
        group.append(Continuation(ids, len(shared), np.ones(len(ids), dtype=bool)))
    row = make_row(0, group, [0, 1, 2])
    batch = make_batch(model, Ids([text.ids for text in group]), range(3))
    alone = model.module(**batch.inputs, **single_pass(model.module, model.module)).logits
    together = run_rows(model, [row])[0]
    tolerance = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.25
    for text, reads, expected in zip(group, row.reads, alone, strict=True):
        want = expected[: len(text.ids) - 1].float().log_softmax(-1)
        have = together[torch.from_numpy(reads).to(together.device)].float().log_softmax(-1)
        if not bool(torch.isfinite(have).all()) or float((want - have).abs().max()) > tolerance:
            return False
    return True
