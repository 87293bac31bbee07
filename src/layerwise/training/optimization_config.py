"""Optimizers and learning-rate schedules, as a config says them. Imports nothing heavy: ``--help`` reads this module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from layerwise.errors import UserError


def positive(**values: float | None) -> None:
    """UserError for a value that is not above 0; ``training__steps`` is called ``training.steps``."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise UserError(f"{name.replace('__', '.')} must be more than 0, got {value}.")


def not_negative(**values: float) -> None:
    """UserError for a value below 0."""
    for name, value in values.items():
        if not value >= 0:
            raise UserError(f"{name.replace('__', '.')} must be at least 0, got {value}.")


@dataclass(frozen=True)
class AdamW:
    """torch's AdamW, fused. Biases and norms do not decay.

    learning_rate: at its highest.
    weight_decay: decoupled from the gradient.
    beta1, beta2, epsilon: of the moments.
    """

    kind: ClassVar[str] = "adamw"

    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        positive(optimizer__learning_rate=self.learning_rate, optimizer__epsilon=self.epsilon)
        not_negative(optimizer__weight_decay=self.weight_decay)
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"optimizer.{name} must be at least 0 and less than 1, got {getattr(self, name)}.")


@dataclass(frozen=True)
class Muon:
    """torch's Muon for the 2-D weights between embedding and head; AdamW for all others.

    learning_rate, momentum, weight_decay: of Muon; steps are scaled to the size of AdamW's (Liu et al. 2025).
    others: the AdamW of embeddings, head, norms, biases and 3-D weights.
    """

    kind: ClassVar[str] = "muon"

    learning_rate: float = 1e-3
    momentum: float = 0.95
    weight_decay: float = 0.1
    others: AdamW = field(default_factory=AdamW)

    def __post_init__(self) -> None:
        positive(optimizer__learning_rate=self.learning_rate)
        not_negative(optimizer__weight_decay=self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise UserError(f"optimizer.momentum must be at least 0 and less than 1, got {self.momentum}.")


@dataclass(frozen=True)
class _Schedule:
    warmup_steps: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        not_negative(schedule__warmup_steps=self.warmup_steps)
        if not 0 <= self.floor <= 1:
            raise UserError(f"schedule.floor is a share of the learning rate, between 0 and 1: got {self.floor}.")


@dataclass(frozen=True)
class Constant:
    """The learning rate as it is, after a linear warm-up.

    warmup_steps: steps from 0 to the learning rate.
    """

    kind: ClassVar[str] = "constant"

    warmup_steps: int = 0

    def __post_init__(self) -> None:
        not_negative(schedule__warmup_steps=self.warmup_steps)


@dataclass(frozen=True)
class Linear(_Schedule):
    """Down to the floor in a line.

    warmup_steps: steps from 0 to the learning rate.
    floor: where it ends, as a share of the learning rate.
    """

    kind: ClassVar[str] = "linear"


@dataclass(frozen=True)
class Cosine(_Schedule):
    """Down to the floor along half a cosine.

    warmup_steps: steps from 0 to the learning rate.
    floor: where it ends, as a share of the learning rate.
    """

    kind: ClassVar[str] = "cosine"


@dataclass(frozen=True)
class Cyclic(_Schedule):
    """Up and down between the floor and the learning rate in triangles (Smith 2017).

    warmup_steps: steps from 0 to the floor's end of the first triangle.
    floor: the lowest, as a share of the learning rate.
    cycle_steps: steps of one triangle.
    """

    kind: ClassVar[str] = "cyclic"

    cycle_steps: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cycle_steps < 2:
            raise UserError(f"schedule.cycle_steps must be at least 2, got {self.cycle_steps}.")


@dataclass(frozen=True)
class WarmupStableDecay(_Schedule):
    """Level for most of the training, then down to the floor.

    warmup_steps: steps from 0 to the learning rate.
    floor: where it ends, as a share of the learning rate.
    decay_steps: the last steps, in which it falls; none: a tenth of all.
    shape: how it falls.
    """

    kind: ClassVar[str] = "warmup_stable_decay"

    decay_steps: int | None = None
    shape: Literal["linear", "cosine", "1-sqrt"] = "1-sqrt"


@dataclass(frozen=True)
class Plateau(_Schedule):
    """Lower whenever the validation loss has stopped falling.

    warmup_steps: steps from 0 to the learning rate.
    floor: the lowest, as a share of the learning rate.
    factor: what it is multiplied by.
    patience: evaluations without a better loss that are waited for.
    """

    kind: ClassVar[str] = "plateau"

    factor: float = 0.5
    patience: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.factor < 1:
            raise UserError(f"schedule.factor must lie between 0 and 1, got {self.factor}.")


Optimizer = AdamW | Muon
Schedule = Cosine | Constant | Linear | Cyclic | WarmupStableDecay | Plateau
