"""Training of small torch probes: many independent ones at once, early stopping, best weights kept.

Members of a stack share every step (their parameters have a leading member axis) and nothing else: AdamW works element by
element, so each of them is trained as if it were alone. What a network computes is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layerwise.errors import UserError

Rows = NDArray[np.int64]
Loss = Callable[[Tensor, Tensor], Tensor]
SMALLEST_TO_HOLD_OUT = 10


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; ``patience`` counts epochs without a better validation loss."""

    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    batch_size: int = 64
    max_epochs: int = 100
    patience: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "batch_size", "max_epochs", "patience"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}.")
        if self.weight_decay < 0:
            raise UserError(f"weight_decay cannot be negative, got {self.weight_decay}.")


@dataclass(frozen=True)
class History:
    """Losses by epoch and member, and where the best was.

    train: (epochs, members) mean loss over the epoch's batches; validation: (epochs, members), or None without a held-out
    part; best_epoch: (members,) the epoch, from 0, whose weights were kept.
    """

    train: NDArray[np.float64]
    validation: NDArray[np.float64] | None
    best_epoch: Rows


def hold_out(y: NDArray[np.generic], share: float, seed: int, stratify: bool) -> tuple[Rows, Rows]:
    """(training rows, validation rows): ``share`` of the rows at random, of each class where ``stratify``.

    A class of a single row stays in training. Below ten rows, or with a share of 0, nothing is held out.
    """
    if not 0 <= share < 1:
        raise UserError(f"validation_share must be at least 0 and below 1, got {share}.")
    everything = np.arange(len(y))
    if len(y) < SMALLEST_TO_HOLD_OUT or share == 0:
        return everything, everything[:0]
    shuffled = np.random.default_rng(seed).permutation(len(y))
    blocks = [shuffled[y[shuffled] == value] for value in np.unique(y)] if stratify else [shuffled]
    held = [block[: max(round(share * len(block)), 1)] for block in blocks if len(block) > 1]
    validation = np.sort(np.concatenate(held)) if held else everything[:0]
    return np.setdiff1d(everything, validation), validation


def classification_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each row: outputs (members, rows, classes, or 1 for two), class positions (members, rows)."""
    if outputs.shape[-1] == 1:
        return nn.functional.binary_cross_entropy_with_logits(
            outputs[..., 0], targets.to(outputs.dtype), reduction="none"
        )
    return nn.functional.cross_entropy(outputs.movedim(-1, 1), targets.long(), reduction="none")


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error of each row: outputs (members, rows, 1), values (members, rows)."""
    return (outputs[..., 0] - targets) ** 2


def train(
    network: nn.Module,
    outputs: Callable[[Tensor], Tensor],
    targets: Tensor,
    training: Sequence[Rows],
    validation: Sequence[Rows],
    loss: Loss,
    schedule: Schedule,
) -> History:
    """Train every member on its own rows; ``network`` ends with each member's best weights.

    Args:
        network: its parameters have a leading axis of members, unless there is a single member.
        outputs: row numbers (members, rows) → network outputs (members, rows, columns).
        targets: (members, n).
        training, validation: the row numbers of each member. Without validation rows all epochs are run and the last
            weights are kept.
        loss: (members, rows, columns), (members, rows) → (members, rows).

    Raises UserError where the loss is no longer a number.
    """
    members, device = len(training), targets.device
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
    )
    generators = [torch.Generator().manual_seed(schedule.seed) for _ in range(members)]
    own_rows = [torch.as_tensor(rows) for rows in training]
    longest = max(len(rows) for rows in training)
    steps, size = -(-longest // schedule.batch_size), min(longest, schedule.batch_size)
    held = _padded(validation, device) if all(len(rows) for rows in validation) else None
    state = [*network.parameters(), *network.buffers()]
    best = [tensor.detach().clone() for tensor in state]
    best_loss, best_epoch = (
        torch.full((members,), torch.inf, device=device),
        torch.zeros(members, dtype=torch.int64, device=device),
    )
    train_losses, validation_losses = [], []
    for epoch in range(schedule.max_epochs):
        network.train()
        order = torch.stack([_shuffled(rows, steps, size, g) for rows, g in zip(own_rows, generators, strict=True)])
        sums = torch.zeros(members, device=device)
        for batch in order.to(device).unbind(1):
            value = loss(outputs(batch), targets.gather(1, batch)).mean(1)
            optimizer.zero_grad(set_to_none=True)
            value.sum().backward()
            optimizer.step()
            sums += value.detach()
        train_losses.append((sums / steps).cpu())
        if not bool(torch.isfinite(sums).all()):
            raise UserError(
                f"the probe's loss is not a number any more (epoch {epoch + 1}): lower learning_rate ({schedule.learning_rate})."
            )
        if held is None:
            continue
        value = _held_loss(network, outputs, targets, held, loss)
        validation_losses.append(value.cpu())
        # A member that has waited too long is done: what it would still find alone it must not find in company either.
        better = (value < best_loss) & (epoch - best_epoch <= schedule.patience)
        best_loss, best_epoch = torch.where(better, value, best_loss), torch.where(better, epoch, best_epoch)
        for kept, tensor in zip(best, state, strict=True):
            kept.copy_(torch.where(_member_mask(better, tensor), tensor.detach(), kept))
        if bool((epoch - best_epoch >= schedule.patience).all()):
            break
    if held is not None:
        with torch.no_grad():
            for kept, tensor in zip(best, state, strict=True):
                tensor.copy_(kept)
    else:
        best_epoch.fill_(schedule.max_epochs - 1)
    network.eval()
    return History(
        torch.stack(train_losses).double().numpy(),
        torch.stack(validation_losses).double().numpy() if validation_losses else None,
        best_epoch.cpu().numpy(),
    )


def _shuffled(rows: Tensor, steps: int, size: int, generator: torch.Generator) -> Tensor:
    """(steps, size) row numbers in a new order, filled up from the front, so that all batches of all members are equally large."""
    order = rows[torch.randperm(len(rows), generator=generator)]
    return order.repeat(-(-steps * size // len(rows)))[: steps * size].view(steps, size)


def _padded(rows: Sequence[Rows], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ragged row numbers as (members, longest) and their weights, which sum to 1 for each member."""
    longest = max(len(row) for row in rows)
    numbers, weights = np.zeros((len(rows), longest), dtype=np.int64), np.zeros((len(rows), longest), dtype=np.float32)
    for member, row in enumerate(rows):
        numbers[member, : len(row)], weights[member, : len(row)] = row, 1 / len(row)
    return torch.from_numpy(numbers).to(device), torch.from_numpy(weights).to(device)


@torch.no_grad()
def _held_loss(
    network: nn.Module, outputs: Callable[[Tensor], Tensor], targets: Tensor, held: tuple[Tensor, Tensor], loss: Loss
) -> Tensor:
    network.eval()
    rows, weights = held
    return (loss(outputs(rows), targets.gather(1, rows)) * weights).sum(1)


def _member_mask(mask: Tensor, tensor: Tensor) -> Tensor:
    return mask[0] if tensor.ndim == 0 else mask.view(-1, *[1] * (tensor.ndim - 1))
