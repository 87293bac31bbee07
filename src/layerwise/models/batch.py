"""Batches: token ids to the tensors of one forward, with explicit masks and positions by the architecture's own rule.

Positions, by what the model is:
- it takes ``position_ids``: they count the real tokens of each text from 0;
- RoBERTa and its kin, ESM: they count from behind the padding index, and padding has the padding index;
- it works them out from the mask (BLOOM, MPT and Falcon's ALiBi), from distances (T5) or has none (Mamba): nothing is
  given;
- it numbers the columns itself and takes no positions (BART): only padding on the right is right.
An encoder-decoder gets as its decoder's input the same text, one token later, behind its start token, under the same mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.errors import UserError
from layerwise.models.architecture import body_of, config_of

Side = Literal["left", "right"]

# Model types that need no position ids: distances, slopes or a recurrence that a shift does not change.
SHIFT_INVARIANT = ("bloom", "mpt", "t5", "mt5", "umt5", "mamba", "mamba2", "falcon_mamba")


TOKEN_BUDGET = 1024  # padded tokens of one forward on a CPU, where more gains nothing; a GPU takes 16 times as many


@dataclass(frozen=True)
class Ids:
    """Token ids that no tokenizer of the model's made, as :func:`make_batch` wants them: (tokens,) of each text."""

    ids: Sequence[np.ndarray]
    type_ids: None = None


@dataclass(frozen=True)
class Batch:
    """One forward's ``inputs``; ``mask`` (batch, tokens) is True at real tokens, ``lengths`` (batch,) counts them."""

    inputs: dict[str, Tensor]
    mask: Tensor
    lengths: Tensor


class _Model(Protocol):
    @property
    def module(self) -> nn.Module: ...


class _Tokens(Protocol):
    @property
    def ids(self) -> Sequence[np.ndarray]: ...
    @property
    def type_ids(self) -> Sequence[np.ndarray] | None: ...


def make_batch(model: _Model, tokens: _Tokens, indices: Sequence[int] | np.ndarray, side: Side | None = None) -> Batch:
    """The texts ``indices`` of ``tokens`` as one batch on the model's device, padded on ``side`` (the right by default).

    Raises UserError for an empty text, and for a side the model has no positions for.
    """
    module = model.module
    rows = [np.asarray(tokens.ids[index], dtype=np.int64) for index in indices]
    if not rows or any(len(row) == 0 for row in rows):
        raise UserError("a batch needs at least one text, and a text at least one token.")
    if side == "left" and not takes_left_padding(module):
        raise UserError(
            f"{type(module).__name__} numbers its positions by column, so its texts can be padded on the right only.\n"
            "Leave the padding side out, or say right."
        )
    config = config_of(module)
    pad = getattr(config, "pad_token_id", None)
    lengths = torch.tensor([len(row) for row in rows])
    ids = _padded(rows, pad if isinstance(pad, int) and pad >= 0 else 0, side)
    mask = _mask(lengths, ids.shape[1], side)
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    names = inspect.signature(body_of(module).forward).parameters
    if "position_ids" in names and config.model_type not in SHIFT_INVARIANT:
        inputs["position_ids"] = _positions(module, mask)
    if tokens.type_ids is not None and "token_type_ids" in names:
        inputs["token_type_ids"] = _padded([tokens.type_ids[index] for index in indices], 0, side)
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = _shifted(ids, mask, config)
        inputs["decoder_attention_mask"] = mask.long()
    device = next(module.parameters()).device
    return Batch({name: tensor.to(device) for name, tensor in inputs.items()}, mask.to(device), lengths.to(device))


def budget_of(device: torch.device, asked: int | None = None) -> int:
    """Padded tokens of one forward: as many as were asked for, or what suits the device."""
    return asked or TOKEN_BUDGET * (1 if device.type == "cpu" else 16)


def takes_left_padding(module: nn.Module) -> bool:
    """Whether a model's results do not depend on the padding side, given the right positions."""
    takes_positions = "position_ids" in inspect.signature(body_of(module).forward).parameters
    return takes_positions or config_of(module).model_type in SHIFT_INVARIANT


def _padded(rows: Sequence[np.ndarray], fill: int, side: Side | None) -> Tensor:
    """Rows of unequal length as (batch, tokens)."""
    longest = max(len(row) for row in rows)
    table = np.full((len(rows), longest), fill, dtype=np.int64)
    for index, row in enumerate(rows):
        table[index, longest - len(row) if side == "left" else 0 :][: len(row)] = row
    return torch.from_numpy(table)


def _mask(lengths: Tensor, longest: int, side: Side | None) -> Tensor:
    columns = torch.arange(longest).expand(len(lengths), -1)
    return columns >= (longest - lengths)[:, None] if side == "left" else columns < lengths[:, None]


def _positions(module: nn.Module, mask: Tensor) -> Tensor:
    """Positions of real tokens, counted per text, by the model's own rule. Padding gets a position that exists."""
    counted = mask.long().cumsum(-1)
    padding_index = _padding_index(module)
    if padding_index is not None:
        return counted * mask + padding_index
    return (counted - 1).clamp(min=0)


def _padding_index(module: nn.Module) -> int | None:
    """The index positions start behind in RoBERTa and its kin, whose embeddings know it; None for all others."""
    embeddings: Any = getattr(body_of(module), "embeddings", None)
    return getattr(embeddings, "padding_idx", None)


def _shifted(ids: Tensor, mask: Tensor, config: Any) -> Tensor:
    """(batch, tokens): each text one token later, behind the decoder's start token, its last token left out."""
    start = config.decoder_start_token_id
    if start is None:
        start = config.pad_token_id
    shifted = ids.roll(1, dims=-1)
    shifted[torch.arange(len(ids)), mask.long().argmax(-1)] = start
    return shifted.where(mask, ids)
