"""Rows made while they are trained on, for texts that fit neither memory nor disk."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from layerwise.errors import UserError
from layerwise.training.packing import IGNORED, Coded
from layerwise.training.text_rows import TextCoder

_BUFFER = 1024  # rows among which the next is drawn


class StreamedRows(IterableDataset[dict[str, torch.Tensor]]):
    """Rows ``{input_ids, labels}`` as ``Rows`` has them, packed as the texts come; each pass begins anew, with the same rows.

    A row is drawn from the next 1,024 with ``seed``, for a source may be in an order. It has no length: training is told its steps.
    """

    def __init__(self, texts: Callable[[], Iterator[str]], coder: TextCoder, seed: int) -> None:
        self.texts, self.coder, self.seed = texts, coder, seed

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        workers = get_worker_info()
        if workers is not None and workers.num_workers > 1:
            raise UserError(f"a stream is read by one data loader worker at most, got {workers.num_workers}.")
        generator = random.Random(self.seed)
        buffer: list[Coded] = []
        for row in self._packed():
            buffer.append(row)
            if len(buffer) == _BUFFER:
                yield _tensors(buffer.pop(generator.randrange(_BUFFER)))
        generator.shuffle(buffer)
        yield from map(_tensors, buffer)

    def _packed(self) -> Iterator[Coded]:
        pieces = (piece for text in self.coder.code(self.texts()) for piece in text)
        if self.coder.packing == "samples":
            yield from pieces
            return
        ids, counted = np.zeros(0, np.int32), np.zeros(0, bool)
        for piece in pieces:
            ids, counted = np.concatenate([ids, piece.ids]), np.concatenate([counted, piece.counted])
            context, start = self.coder.context, 0
            while len(ids) - start >= context:
                yield Coded(ids[start : start + context], counted[start : start + context])
                start += context - 1
            ids, counted = ids[start:], counted[start:]


def _tensors(row: Coded) -> dict[str, torch.Tensor]:
    ids = torch.from_numpy(row.ids).long()
    return {"input_ids": ids, "labels": torch.where(torch.from_numpy(row.counted), ids, IGNORED)}
