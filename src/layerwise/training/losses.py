"""The loss that training lowers, as transformers' Trainer calls it: the place to begin for a loss of one's own."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional


def cross_entropy(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Mean negative log-likelihood of the next token, in nats.

    outputs: of the model, with ``logits`` (batch, tokens, vocabulary). labels: (batch, tokens) token ids, -100 where nothing is to be
    predicted; token i is predicted at i - 1. num_items_in_batch: how many tokens are predicted in all batches of the step: the
    sum is divided by it, so that accumulated gradients are the mean over all of them.
    """
    logits, targets = outputs.logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
    total = functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
    return total / ((targets != -100).sum() if num_items_in_batch is None else num_items_in_batch)
