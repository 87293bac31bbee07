"""How a model is trained: length, evaluation, stopping, checkpoints, and what a person changes.

Imports nothing heavy: ``--help`` reads this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from layerwise.errors import UserError
from layerwise.training.optimization_config import AdamW, Cosine, Optimizer, Schedule, not_negative, positive


@dataclass(frozen=True)
class TrainingConfig:
    """How long, and in what batches.

    steps: optimizer steps; none: as many as the epochs have.
    epochs: how often the training data is gone through, where steps are not given.
    batch_size: samples of one forward pass, on each device.
    accumulation: forward passes of one optimizer step.
    clip: the largest norm of the gradient; 0: not clipped.
    precision: ``bf16`` and ``fp16`` compute in half, the weights stay in float32.
    compile: torch.compile; worth its half minute from a thousand steps on.
    activation_checkpointing: activations are computed twice and not kept: less memory, a third more time.
    device: ``auto`` or ``cpu``.
    """

    steps: int | None = None
    epochs: float = 1.0
    batch_size: int = 32
    accumulation: int = 1
    clip: float = 1.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    activation_checkpointing: bool = False
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        positive(
            training__steps=self.steps,
            training__epochs=self.epochs,
            training__batch_size=self.batch_size,
            training__accumulation=self.accumulation,
        )
        not_negative(training__clip=self.clip)


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, and how often.

    every: steps between evaluations; none: ten evaluations in all.
    samples: samples of each split that are evaluated; none: all.
    batch_size: samples of one forward pass; none: as in training.
    answers: held-out prompts of a task that are answered freely, for the exact match.
    texts: texts that are written in each evaluation, for the table.
    prompts: how the texts begin; none: as held-out ones do.
    new_tokens: length of a written text.
    temperature: of written texts; 0: always the likeliest token.
    log_every: steps between lines of the curve.
    norms_every: steps between norms of every module's weights, gradients and steps; none: they are not measured.
    largest_parameter: follow the largest weight.
    """

    every: int | None = None
    samples: int | None = 1000
    batch_size: int | None = None
    answers: int = 100
    texts: int = 4
    prompts: list[str] = field(default_factory=list, metadata={"splits": False})
    new_tokens: int = 60
    temperature: float = 1.0
    log_every: int = 10
    norms_every: int | None = None
    largest_parameter: bool = False

    def __post_init__(self) -> None:
        positive(
            evaluation__every=self.every, evaluation__samples=self.samples, evaluation__batch_size=self.batch_size,
            evaluation__new_tokens=self.new_tokens, evaluation__log_every=self.log_every,
            evaluation__norms_every=self.norms_every,
        )  # fmt: skip
        not_negative(
            evaluation__answers=self.answers, evaluation__texts=self.texts, evaluation__temperature=self.temperature
        )


@dataclass(frozen=True)
class StoppingConfig:
    """When training ends before its time: the validation loss gets no better, or enough has been seen.

    patience_steps: steps without a better validation loss.
    patience_samples: samples without a better validation loss.
    improvement: how much lower counts as better.
    samples: end after so many samples.
    exact_match: end when this share of held-out prompts is answered exactly.
    """

    patience_steps: int | None = None
    patience_samples: int | None = None
    improvement: float = 0.0
    samples: int | None = None
    exact_match: float | None = None

    def __post_init__(self) -> None:
        positive(
            stopping__patience_steps=self.patience_steps, stopping__patience_samples=self.patience_samples,
            stopping__samples=self.samples, stopping__exact_match=self.exact_match,
        )  # fmt: skip
        not_negative(stopping__improvement=self.improvement)
        if self.exact_match is not None and self.exact_match > 1:
            raise UserError(f"stopping.exact_match is a share of answers, at most 1: got {self.exact_match}.")


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept on the way.

    every: steps between checkpoints; none: one with each evaluation; 0: none but the last.
    keep: how many are kept to resume from.
    log: record each as a model of its own, loadable by run and step.
    best: keep the weights with the lowest validation loss as the model, not the last ones.
    folder: where they lie while training runs; none: in the cache.
    """

    every: int | None = None
    keep: int = 2
    log: bool = True
    best: bool = False
    folder: str | None = None

    def __post_init__(self) -> None:
        positive(checkpoints__keep=self.keep)
        if self.every is not None:
            not_negative(checkpoints__every=self.every)


@dataclass(frozen=True)
class ChangesConfig:
    """Changes to the training itself.

    freeze_layers: layers, drawn anew in each step, that do not learn from it.
    corrupt_inputs: share of the input tokens that are replaced by random ones; targets stay what they are.
    loss: a loss of one's own, ``file.py:function``; the default is training/losses.py's ``cross_entropy``.
    callbacks: transformers' TrainerCallbacks of one's own, ``file.py:Class``.
    """

    freeze_layers: int = 0
    corrupt_inputs: float = 0.0
    loss: str | None = None
    callbacks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        not_negative(changes__freeze_layers=self.freeze_layers)
        if not 0 <= self.corrupt_inputs < 1:
            raise UserError(f"changes.corrupt_inputs must be at least 0 and less than 1, got {self.corrupt_inputs}.")


@dataclass(frozen=True)
class FitConfig:
    """All that ``fit`` reads; the job ``train`` has the same fields."""

    optimizer: Optimizer = field(default_factory=AdamW)
    schedule: Schedule = field(default_factory=Cosine)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    stopping: StoppingConfig = field(default_factory=StoppingConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    changes: ChangesConfig = field(default_factory=ChangesConfig)
    seed: int = 0
