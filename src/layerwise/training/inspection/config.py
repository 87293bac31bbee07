"""How a model is looked into: frozen dataclasses, no heavy import."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from layerwise.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How a model goes on from a prompt.

    max_new_tokens: how far.
    samples: how many continuations of each prompt; of beams, the best ones.
    temperature: the logits are divided by it; 0 takes the likeliest token each time.
    top_k: then only the k likeliest tokens are drawn from.
    top_p: then only the fewest tokens that together have this probability (the nucleus; Holtzman et al. 2020).
    beams: instead of drawing, a beam search of this width for the continuations that are likeliest per token.
    """

    max_new_tokens: int = 40
    samples: int = 1
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    beams: int = 1

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "samples", "beams"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.temperature < 0:
            raise UserError(f"temperature must be at least 0 (the likeliest token), got {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k must be at least 1, got {self.top_k}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be more than 0 and at most 1, got {self.top_p}.")
        unread = [name for name in ("top_k", "top_p") if getattr(self, name) is not None]
        if unread and not self.draws:
            why = "beams search" if self.beams > 1 else "temperature 0 takes the likeliest token"
            raise UserError(f"{' and '.join(unread)} are of drawing, and {why}: leave out one or the other.")
        if self.beams > 1 and self.temperature not in (0, 1):
            raise UserError(f"temperature {self.temperature} is of drawing, and beams search: leave out one of them.")
        most = self.beams if self.beams > 1 else self.samples if self.draws else 1
        if self.samples > most:
            raise UserError(f"samples {self.samples} is more than there are: {most} with {self._way()}.")

    @property
    def draws(self) -> bool:
        """Whether chance has a part in it."""
        return self.beams == 1 and self.temperature > 0

    def _way(self) -> str:
        return f"beams {self.beams}" if self.beams > 1 else "temperature 0"

    def __str__(self) -> str:
        parts = [f"top-k {self.top_k}"] if self.top_k is not None else []
        parts += [f"nucleus {self.top_p:g}"] if self.top_p is not None else []
        return ", ".join([f"temperature {self.temperature:g}" if self.draws else self._way(), *parts])


@dataclass(frozen=True)
class RepeatedTokens:
    """Random tokens that come twice, on which every head is asked what it does.

    length: tokens of a block; the sequence is the block twice. sequences: how many of them.
    """

    length: int = 24
    sequences: int = 16

    def __post_init__(self) -> None:
        if self.length < 2:
            raise UserError(f"length must be at least 2 tokens, got {self.length}.")
        if self.sequences < 1:
            raise UserError(f"sequences must be at least 1, got {self.sequences}.")


@dataclass(frozen=True)
class MetricPlot:
    """Metrics of several runs over one axis.

    metrics: their names, ``train/loss``; ``validation/*`` are all that begin so.
    runs: ids of runs; none: the run of the model. filter: or those that a query finds, ``model=layerwise, seed=1|2``.
    x: ``step``, ``time`` (seconds since the run's first value), or another metric that is logged at the same steps.
    y_scale: of the values.
    """

    metrics: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    filter: str | None = None
    x: str = "step"
    y_scale: Literal["linear", "log"] = "linear"

    def __post_init__(self) -> None:
        if not self.metrics:
            raise UserError("a plot needs metrics: name at least one, such as validation/loss.")
        if self.runs and self.filter is not None:
            raise UserError("a plot takes runs by id or by filter: give one of them.")
