"""What an alignment is told: which variable of which task is looked for, where, and how its rotations are trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from layerwise.errors import UserError

Method = Literal["low_rank", "rotation", "boundless", "mask", "rotated_mask", "interchange"]


@dataclass(frozen=True)
class Training:
    """How operations are trained.

    epochs: times that all pairs are seen.
    batch_size: pairs in a batch.
    accumulate: batches whose gradients make one step.
    learning_rate: of Adam, reached after a tenth of the steps and falling to 0 from there.
    temperature: of boundaries and masks, from the first step to the last, falling by an equal factor each step.
    penalty: how much of a boundary, or of a mask's mean share, is added to the loss.
    loss: file.py:name or package.module.name of a function from (rows, answers) numbers and (rows,) right ones to (rows,) losses;
        cross-entropy by default.
    """

    epochs: int = 4
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-2
    temperature: tuple[float, float] = (10.0, 0.1)
    penalty: float = 0.0
    loss: str = ""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise UserError(f"training.{name} must be at least 1, got {getattr(self, name)}.")
        if self.learning_rate <= 0:
            raise UserError(f"training.learning_rate must be above 0, got {self.learning_rate}.")
        if min(self.temperature) <= 0:
            raise UserError(f"training.temperature must be above 0 from start to end, got {self.temperature}.")
        if self.penalty < 0:
            raise UserError(f"training.penalty must be at least 0, got {self.penalty}.")


@dataclass(frozen=True)
class Alignment:
    """Find where a model holds a variable of a causal model (distributed alignment search, Geiger et al. 2023).

    task: agreement, arithmetic, price_tagging, hierarchical_equality, or file.py:name of one of your own.
    variables: which are looked for; by default all between inputs and answer.
    together: the variables get parts of one rotation, and are exchanged alone and at once; otherwise each has rotations of its own.
    method: what is learned: low_rank, rotation, boundless, mask or rotated_mask; or interchange, which takes numbers of the model's own.
    size: numbers of the space that stand for one variable (low_rank, rotation, interchange).
    train_model: interchange intervention training (Geiger et al. 2022): the model itself is trained too, until exchanging its own first
        ``size`` numbers at the places does what exchanging the variable would do. It is looked into before and after, in the same way.
    sites, positions: every pair of a site and positions is a place that is tried; a position is as in plans: last, -3, part:subject.
    joint: what is exchanged at once. nothing: one place, the tokens of a position alike; tokens: the tokens of a position are one long
        vector with one rotation; places: all places, each with a rotation of its own, beside each alone (do they vote?).
    pairs, held_out: how many counterfactuals are trained on, and judged by.
    known_only: leave out pairs whose base or source the model answers wrongly.
    training: how.
    """

    kind: Literal["alignment"] = field(default="alignment", kw_only=True)
    task: str = "agreement"
    variables: tuple[str, ...] = ()
    together: bool = False
    method: Method = "low_rank"
    size: int = 1
    sites: tuple[str, ...] = ("resid_post.*",)
    positions: tuple[str, ...] = ("last",)
    joint: Literal["nothing", "tokens", "places"] = "nothing"
    pairs: int = 128
    held_out: int = 128
    known_only: bool = True
    train_model: bool = False
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        for name in ("size", "pairs", "held_out"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not self.sites or not self.positions:
            raise UserError("an alignment needs sites and positions to look at.")
        if self.together and self.method not in ("low_rank", "rotation", "interchange"):
            raise UserError(
                f"variables share a basis only with low_rank, rotation or interchange, not with {self.method}."
            )
