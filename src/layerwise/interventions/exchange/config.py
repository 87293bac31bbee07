"""Settings of carrying out any plan. Nothing here imports more than the standard library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from layerwise.errors import UserError


@dataclass(frozen=True)
class AnyPlan:
    """A plan is carried out on pairs of prompts: the metric before, under it, and under a control; and what the model then writes.

    plan: its steps, as in a plan's YAML. Sources that they read are the pair's other prompt.
    read: in its place a saved plan, a folder of pyvene or peft, a control vector, a YAML file, or a hub repository of one of these.
    base: which prompt of a pair is run under the plan; the other one is the source.
    prompts: what the model goes on from, before and under the plan.
    max_new_tokens: how far.
    register: a name in the model registry for the steered model. Plans that read no source are logged as one.
    trust_code: whether code that the plan names by path may run. Read that code first.
    """

    kind: Literal["plan"] = field(default="plan", kw_only=True)
    plan: dict[str, Any] | None = None
    read: str = ""
    base: Literal["clean", "corrupted"] = "clean"
    prompts: list[str] = field(default_factory=list, metadata={"splits": False})
    max_new_tokens: int = 24
    register: str | None = None
    trust_code: bool = False

    def __post_init__(self) -> None:
        if (self.plan is None) == (not self.read):
            raise UserError("intervention takes a plan, or read: where to find one; got both or neither.")
        if self.max_new_tokens < 1:
            raise UserError(f"intervention.max_new_tokens must be at least 1, got {self.max_new_tokens}.")
