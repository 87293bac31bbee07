"""Learning-rate schedules from their configs: transformers' and torch's own."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau
from transformers import TrainerCallback, get_constant_schedule_with_warmup, get_wsd_schedule
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup

from layerwise.errors import UserError
from layerwise.training.optimization_config import (
    Constant,
    Cosine,
    Cyclic,
    Linear,
    Plateau,
    Schedule,
    WarmupStableDecay,
)


def build_schedule(config: Schedule, optimizer: Optimizer, steps: int) -> LRScheduler:
    """The schedule of a training of that many steps; every learning rate of the optimizer follows it.

    Raises UserError where warm-up and decay are longer than the training.
    """
    decay = 0
    if isinstance(config, WarmupStableDecay):
        decay = max(1, steps // 10) if config.decay_steps is None else config.decay_steps
    if config.warmup_steps + decay > steps:
        what = "schedule.warmup_steps" + (" and decay_steps together" if decay else "")
        raise UserError(
            f"{what}: {config.warmup_steps + decay} of only {steps} steps. Warm up for fewer, or train longer."
        )
    match config:
        case Constant():
            return get_constant_schedule_with_warmup(optimizer, config.warmup_steps)
        case Cosine():
            return get_cosine_with_min_lr_schedule_with_warmup(
                optimizer, config.warmup_steps, steps, min_lr_rate=config.floor
            )
        case WarmupStableDecay():
            return get_wsd_schedule(
                optimizer,
                config.warmup_steps,
                decay,
                num_training_steps=steps,
                min_lr_ratio=config.floor,
                decay_type=config.shape,
            )
        case Linear():
            return LambdaLR(optimizer, partial(_linear, config, steps))
        case Cyclic():
            return LambdaLR(optimizer, partial(_triangles, config))
        case Plateau():
            floors = [group["lr"] * config.floor for group in optimizer.param_groups]
            return ReduceLROnPlateau(optimizer, factor=config.factor, patience=config.patience, min_lr=floors, eps=0.0)


def _linear(config: Linear, steps: int, step: int) -> float:
    if step < config.warmup_steps:
        return step / config.warmup_steps
    done = min((step - config.warmup_steps) / max(steps - config.warmup_steps, 1), 1.0)
    return 1 - (1 - config.floor) * done


def _triangles(config: Cyclic, step: int) -> float:
    if step < config.warmup_steps:
        return config.floor * step / config.warmup_steps
    place = (step - config.warmup_steps) % config.cycle_steps / config.cycle_steps
    return config.floor + (1 - config.floor) * (1 - abs(1 - 2 * place))


class WarmUp(TrainerCallback):
    """The warm-up of a schedule that has none of its own (torch's plateau)."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        if state.global_step > self.steps:
            return
        for group in optimizer.param_groups:
            peak = group.setdefault("initial_lr", group["lr"])
            group["lr"] = peak * min(state.global_step / self.steps, 1.0) if self.steps else group["lr"]
