"""How well a model predicts the tokens of a dataset: every token counts alike, whatever batch it is in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from layerwise.training.packing import IGNORED, pad

Batch = dict[str, Tensor]


def collate(rows: Sequence[Batch], pad_id: int) -> Batch:
    """A batch of rows ``{input_ids, labels}``: stacked where they are of one length, else padded on the right with a mask."""
    if len({len(row["input_ids"]) for row in rows}) == 1:
        return {name: torch.stack([row[name] for row in rows]) for name in ("input_ids", "labels")}
    return pad(rows, pad_id)


def hits(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How many tokens are predicted rightly, and how many there are to predict: two scalars.

    logits: (batch, tokens, vocabulary). labels: (batch, tokens), -100 where nothing is to be predicted.
    """
    targets = labels[:, 1:]
    counted = targets != IGNORED
    return ((logits[:, :-1].argmax(-1) == targets) & counted).sum(), counted.sum()


@torch.no_grad()
def predict_tokens(
    model: nn.Module,
    dataset: Dataset[Batch],
    *,
    batch_size: int,
    pad_id: int,
    device: torch.device,
    limit: int | None = None,
    share: tuple[int, int] = (0, 1),
) -> Tensor:
    """(3,) float64: the summed loss in nats, the tokens predicted rightly, all tokens predicted; over the first ``limit`` rows.

    ``share``: (i, n) takes every n-th row from the i-th, for one of n processes; their results add up.
    """
    was_training = model.training
    model.eval()
    found = torch.zeros(3, dtype=torch.float64, device=device)
    for batch in _batches(dataset, batch_size, pad_id, limit, share):
        batch = {name: value.to(device) for name, value in batch.items()}
        labels = batch.pop("labels")
        logits = model(**batch, use_cache=False).logits
        right, counted = hits(logits, labels)
        loss = functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
        )
        found += torch.stack([loss.double(), right.double(), counted.double()])
    model.train(was_training)
    return found


def _batches(dataset: Any, batch_size: int, pad_id: int, limit: int | None, share: tuple[int, int]) -> Any:
    first, step = share
    if isinstance(dataset, IterableDataset):
        return _streamed(dataset, batch_size, pad_id, limit, share)
    count = len(dataset) if limit is None else min(limit, len(dataset))
    # A fixed generator: a loader would else draw from the global one, and change the training that goes on afterwards.
    return DataLoader(
        Subset(dataset, range(first, count, step)),
        batch_size,
        collate_fn=lambda rows: collate(rows, pad_id),
        generator=torch.Generator(),
    )


def _streamed(dataset: Any, batch_size: int, pad_id: int, limit: int | None, share: tuple[int, int]) -> Any:
    rows: list[Batch] = []
    for place, row in enumerate(dataset):
        if limit is not None and place >= limit:
            break
        if place % share[1] == share[0]:
            rows.append(row)
        if len(rows) == batch_size:
            yield collate(rows, pad_id)
            rows = []
    if rows:
        yield collate(rows, pad_id)
