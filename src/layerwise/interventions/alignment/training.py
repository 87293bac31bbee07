"""Training what exchanges variables: stacked rotations of a frozen model, or a model itself, by counterfactual answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import get_linear_schedule_with_warmup

from layerwise.data.custom import find_function
from layerwise.errors import UserError
from layerwise.interventions.alignment.config import Training
from layerwise.interventions.alignment.stacked import Cells, Stack
from layerwise.interventions.alignment.stored import Bases

Loss = Callable[[Tensor, Tensor], Tensor]
"""(rows, answers) numbers, (rows,) which is right → (rows,) losses."""


def loss_of(settings: Training) -> Loss:
    """The loss the settings name. Raises UserError where there is none of that name."""
    if settings.loss:
        return find_function(settings.loss, "training.loss")
    return lambda scores, right: nn.functional.cross_entropy(scores.float(), right, reduction="none")


@dataclass(eq=False)
class Steps:
    """The steps of a training: batches in a new order each epoch, gradients accumulated, the learning rate and temperature falling.

    ``for rows, temperature in steps: … steps.back(loss)``
    """

    parameters: list[Tensor]
    n: int
    settings: Training
    seed: int

    def __post_init__(self) -> None:
        own = self.settings
        self.batches = -(-self.n // own.batch_size)
        self.total = own.epochs * -(-self.batches // own.accumulate)
        self.optimizer = torch.optim.Adam(self.parameters, own.learning_rate)
        self.schedule = get_linear_schedule_with_warmup(self.optimizer, self.total // 10, self.total)
        self.done = self._waiting = 0

    def __iter__(self) -> Iterator[tuple[Tensor, float]]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.settings.epochs):
            parts = torch.randperm(self.n, generator=generator).split(self.settings.batch_size)
            for number, rows in enumerate(parts):
                self._last = number + 1 == len(parts)
                yield rows, self.temperature

    @property
    def temperature(self) -> float:
        """Falls from start to end by an equal factor each step."""
        start, end = self.settings.temperature
        return float(start * (end / start) ** (self.done / max(1, self.total - 1)))

    def back(self, loss: Tensor) -> None:
        """Add the gradients of a batch's loss; after enough batches, or an epoch's last, make a step."""
        (loss / self.settings.accumulate).backward()
        self._waiting += 1
        if self._waiting == self.settings.accumulate or self._last:
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            self.done, self._waiting = self.done + 1, 0


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradients for a module's parameters, for the time of the context."""
    wanted = [part for part in module.parameters() if part.requires_grad]
    for part in wanted:
        part.requires_grad_(False)
    try:
        yield
    finally:
        for part in wanted:
            part.requires_grad_(True)


def train_stack(
    stack: Stack,
    bases: Bases,
    cells: Cells,
    right: Tensor,
    layer: int,
    settings: Training,
    seed: int,
    done: Callable[[int], None] = lambda pairs: None,
) -> np.ndarray:
    """Train all operations of a stack on the same batches, each as it would be trained alone; (steps, k) their losses.

    right: (n,) the number of each pair's right answer. done: is told how many pairs each batch has finished.
    Raises UserError where a loss is not finite.
    """
    loss_function, losses = loss_of(settings), []
    steps = Steps(stack.parameters, len(right), settings, seed)
    for rows, temperature in steps:
        rows = rows.to(right.device)
        stack.set_temperature(temperature)
        scores = bases.scores(stack, cells.rows(rows), rows, layer, grad=True)
        k, n = scores.shape[:2]
        loss = loss_function(scores.flatten(0, 1), right[rows].repeat(k)).view(k, n).mean(1)
        if not bool(torch.isfinite(loss).all()):
            raise UserError("the loss is no longer a number: lower training.learning_rate.")
        losses.append(loss.detach().float().cpu().numpy())
        for penalty in stack.penalties.values():
            loss = loss + settings.penalty * penalty
        steps.back(loss.sum())
        done(k * n)
    stack.restore()
    return np.stack(losses)


@torch.no_grad()
def answers_of_stack(stack: Stack, bases: Bases, cells: Cells, layer: int, batch_size: int) -> Tensor:
    """(k, n) the number of the answer that the network gives to every pair under every plan."""
    n = cells.active[0].shape[0]
    parts = torch.arange(n, device=cells.active[0].device).split(batch_size)
    return torch.cat([bases.scores(stack, cells.rows(rows), rows, layer).argmax(-1) for rows in parts], 1)


def train_by_batches(
    forward: Callable[[Tensor, float], tuple[Any, Tensor]],
    parameters: list[Tensor],
    n: int,
    settings: Training,
    seed: int,
) -> np.ndarray:
    """Train any parameters by batches: ``forward(rows, temperature)`` gives scores and right answers; (steps,) the losses."""
    loss_function, losses = loss_of(settings), []
    steps = Steps(parameters, n, settings, seed)
    for rows, temperature in steps:
        scores, right = forward(rows, temperature)
        loss = loss_function(scores, right).mean()
        losses.append(float(loss.detach()))
        steps.back(loss)
    return np.array(losses)
