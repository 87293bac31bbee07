"""From token ids to rows: full blocks that every prediction falls into once, or a sample a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from layerwise.errors import UserError

IGNORED = -100  # the label that no loss counts, everywhere in transformers


@dataclass(frozen=True)
class Coded:
    """One sample in tokens: its ids, and for each whether the loss counts it."""

    ids: NDArray[np.int32]
    counted: NDArray[np.bool_]


class Rows(Dataset[dict[str, torch.Tensor]]):
    """Rows of token ids, each ``{input_ids, labels}`` of shape (tokens,) int64; labels are the ids, -100 where no loss counts.

    All tokens lie one after the other in ``tokens`` (total,) int32, with ``counted`` (total,) bool beside them; row i is the
    ``lengths[i]`` tokens from ``starts[i]``. Rows may overlap.
    """

    def __init__(
        self, tokens: torch.Tensor, counted: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor
    ) -> None:
        self.tokens, self.counted, self.starts, self.lengths = tokens, counted, starts, lengths

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        start = int(self.starts[row])
        piece = slice(start, start + int(self.lengths[row]))
        ids = self.tokens[piece].long()
        return {"input_ids": ids, "labels": torch.where(self.counted[piece], ids, IGNORED)}

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        """Several rows, gathered at once: torch's loaders ask for a batch this way."""
        starts, lengths = self.starts[list(rows)], self.lengths[list(rows)]
        places = starts[:, None] + torch.arange(int(lengths.max()))
        places.clamp_(max=len(self.tokens) - 1)  # behind a shorter row, which is cut below
        ids = self.tokens[places].long()
        labels = torch.where(self.counted[places], ids, IGNORED)
        return [
            {"input_ids": ids[place, :length], "labels": labels[place, :length]}
            for place, length in enumerate(lengths.tolist())
        ]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything, by name, as it is saved."""
        return {"tokens": self.tokens, "counted": self.counted, "starts": self.starts, "lengths": self.lengths}


def pad(rows: Sequence[dict[str, torch.Tensor]], pad_id: int) -> dict[str, torch.Tensor]:
    """A batch of rows, padded on the right: ``input_ids``, ``labels`` and ``attention_mask``, each (rows, longest) int64."""
    ids = [row["input_ids"] for row in rows]
    lengths = torch.tensor([len(row) for row in ids])
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_id),
        "labels": pad_sequence([row["labels"] for row in rows], batch_first=True, padding_value=IGNORED),
        "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
    }


def one_a_row(samples: Iterable[Coded]) -> Rows:
    """Each sample is a row."""
    kept = list(samples)
    lengths = np.array([len(sample.ids) for sample in kept], dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)[:-1]]) if len(kept) else lengths
    return _rows(kept, starts, lengths)


def in_blocks(samples: Iterable[Coded], context: int) -> Rows:
    """Samples one after the other, cut into blocks of ``context`` tokens; what does not fill a last block is left out.

    A block begins with the token the one before it ended with: a block of n tokens holds n - 1 predictions, and so every
    token but the very first is predicted exactly once. Tokens that fill no block at all are one short row.
    """
    kept = list(samples)
    total = sum(len(sample.ids) for sample in kept)
    if context < 2:
        raise UserError(f"blocks of {context} token hold nothing to predict: the context must be at least 2.")
    count = (total - 1) // (context - 1)
    starts = np.arange(max(count, 1), dtype=np.int64) * (context - 1)
    lengths = np.full(len(starts), context if count else total, dtype=np.int64)
    return _rows(kept, starts, lengths)


def _rows(samples: Sequence[Coded], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Rows:
    ids = np.concatenate([np.zeros(0, dtype=np.int32), *(sample.ids for sample in samples)], dtype=np.int32)
    counted = np.concatenate([np.zeros(0, dtype=np.bool_), *(sample.counted for sample in samples)])
    return Rows(torch.from_numpy(ids), torch.from_numpy(counted), torch.from_numpy(starts), torch.from_numpy(lengths))
