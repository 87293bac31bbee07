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


@dataclass(frozen=True)
class Patching:
    """Values of one prompt of a pair are put into the other's run, site by layer by position.

    sites: which; ``z.*.*`` is every head by itself.
    positions: ``tokens``, each by itself, where all prompts have equally many; ``parts``, the named parts of the prompts and what is between
        them; or positions as plans have them, such as ``last`` or ``part:subject:last``.
    direction: ``denoising`` puts the clean prompt's values into the corrupted run (what suffices), ``noising`` the other way round (what
        is needed).
    window: so many neighbouring layers at once.
    controls: of the strongest cells, how many are set beside a change as large in a random direction.
    """

    kind: Literal["patching"] = field(default="patching", kw_only=True)
    sites: list[str] = field(default_factory=lambda: ["resid_pre.*", "attn_out.*", "mlp_out.*"])
    positions: list[str] = field(default_factory=lambda: ["parts"])
    direction: Literal["denoising", "noising", "both"] = "both"
    window: int = 1
    controls: int = 10

    def __post_init__(self) -> None:
        if not self.sites or not self.positions:
            raise UserError(
                "intervention.sites and intervention.positions name at least one each, such as resid_pre.* and last."
            )
        check_window(self.window)
        check_controls(self.controls)


@dataclass(frozen=True)
class Tracing:
    """Causal tracing (Meng et al. 2022): noise on a part of the clean prompt, then values of the clean run restored, place by place.

    part: the part of the prompt that gets noise.
    noise: its standard deviation, in those of the part's embeddings.
    draws: how often noise is drawn.
    sites: what is restored.
    window: so many layers at once for ``attn_out`` and ``mlp_out``; one at ``resid_post``.
    controls: of the strongest cells, how many are set beside a change as large in a random direction.
    """

    kind: Literal["tracing"] = field(default="tracing", kw_only=True)
    part: str = "subject"
    noise: float = 3.0
    draws: int = 3
    sites: list[str] = field(default_factory=lambda: ["resid_post.*", "mlp_out.*", "attn_out.*"])
    window: int = 10
    controls: int = 10

    def __post_init__(self) -> None:
        if self.noise <= 0:
            raise UserError(f"intervention.noise must be above 0, got {self.noise}.")
        if self.draws < 1:
            raise UserError(f"intervention.draws must be at least 1, got {self.draws}.")
        if not self.sites:
            raise UserError("intervention.sites names at least one, such as resid_post.*.")
        check_window(self.window)
        check_controls(self.controls)


@dataclass(frozen=True)
class PathPatching:
    """Path patching (Wang et al. 2022): a sender's value of the corrupted run reaches the receivers, and nothing else, in the clean run.

    senders: whose value goes, one at a time: heads (``z.*.*``), ``mlp_out.*``, ``attn_out.*``.
    receivers: who takes it in, all at once: ``logits`` (the direct path to the last residual), or queries, keys and values of heads
        (``q.9.6``, ``v.7.*``) and ``mlp_out`` of MLPs.
    freeze: what else stays as in the clean run: ``attention`` (MLPs between go on with what they get), or ``all`` (the direct path alone).
    positions: where the sender's value goes.
    controls: of the strongest senders, how many are set beside a change as large in a random direction, sent the same way.
    """

    kind: Literal["path"] = field(default="path", kw_only=True)
    senders: list[str] = field(default_factory=lambda: ["z.*.*", "mlp_out.*"])
    receivers: list[str] = field(default_factory=lambda: ["logits"])
    freeze: Literal["attention", "all"] = "attention"
    positions: str = "all"
    controls: int = 10

    def __post_init__(self) -> None:
        check_controls(self.controls)
        if not self.senders or not self.receivers:
            raise UserError(
                "intervention.senders and intervention.receivers name at least one each, such as z.*.* and logits."
            )
        if "logits" in self.receivers and len(self.receivers) > 1:
            raise UserError("intervention.receivers: logits are a receiver by themselves; name them alone.")


@dataclass(frozen=True)
class Attribution:
    """Effects of patching estimated from gradients, and how far a sample of them is from true patching.

    of: ``cells``: each site at each position (attribution patching, Nanda 2023); ``edges``: each path from one part of the model straight
        to another (edge attribution, Syed et al. 2023; with integrated gradients, Hanna et al. 2024).
    sites, positions: of cells, as for patching.
    steps: points between the two prompts' embeddings at which gradients are taken; 1 takes them at the clean prompt alone.
    sample: how many are patched truly: half of them the strongest, half drawn; beside each a change as large in a random direction.
    """

    kind: Literal["attribution"] = field(default="attribution", kw_only=True)
    of: Literal["cells", "edges"] = "cells"
    sites: list[str] = field(default_factory=lambda: ["resid_pre.*", "attn_out.*", "mlp_out.*", "z.*.*"])
    positions: list[str] = field(default_factory=lambda: ["parts"])
    steps: int = 1
    sample: int = 60

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"intervention.steps must be at least 1, got {self.steps}.")
        if self.sample < 0:
            raise UserError(f"intervention.sample must be 0 or more, got {self.sample}.")


def check_window(window: int) -> None:
    """UserError for less than one layer."""
    if window < 1:
        raise UserError(f"intervention.window must be at least 1 layer, got {window}.")


def check_controls(controls: int) -> None:
    """UserError for a negative number of them."""
    if controls < 0:
        raise UserError(f"intervention.controls must be 0 or more, got {controls}.")
