"""Settings of the sweeps. Nothing here imports more than the standard library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from layerwise.errors import UserError

PARTS = ("layers", "attention", "mlps", "heads")


@dataclass(frozen=True)
class Ablation:
    """Each layer, attention, MLP or head in turn is taken away, and the metric looked at.

    parts: which: ``layers`` (attention and MLP together), ``attention``, ``mlps``, ``heads``.
    method: what takes its place: ``zero``; the ``mean`` over all tokens of the prompts; ``resample``, the value of another prompt, counted
        from its end; ``corrupted``, that of the pair's other prompt.
    controls: of the strongest cells, how many are set beside a change as large in a random direction.
    """

    kind: Literal["ablation"] = field(default="ablation", kw_only=True)
    parts: list[Literal["layers", "attention", "mlps", "heads"]] = field(
        default_factory=lambda: ["layers", "mlps", "heads"]
    )
    method: Literal["zero", "mean", "resample", "corrupted"] = "mean"
    controls: int = 10

    def __post_init__(self) -> None:
        if not self.parts:
            raise UserError(f"intervention.parts is empty: name some of {', '.join(PARTS)}.")
        check_controls(self.controls)


def check_controls(controls: int) -> None:
    """UserError for a negative number of them."""
    if controls < 0:
        raise UserError(f"intervention.controls must be 0 or more, got {controls}.")
