"""Settings of erasure. Nothing here imports more than the standard library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from layerwise.data.config import DatasetConfig
from layerwise.errors import UserError
from layerwise.interventions.steering.config import Question, check_count

Method = Literal["leace", "inlp", "mean_projection", "random"]


@dataclass(frozen=True)
class Erasure:
    """A concept is erased from activations; what probes still find and what the model still does are looked at.

    methods: ``leace`` (closed form, least change), ``inlp``, ``mean_projection``, and ``random`` directions as the control.
    sites: where it is erased.
    apart: each site alone, rather than all together, each fitted to what those before it leave.
    tokens: the ``last`` token of a text, or ``all`` of them; what stands around it in a prompt stays.
    rounds: of inlp at most.
    question: what is asked about texts that no eraser was fitted to.
    neutral: texts whose likelihood should stay, erased from at all their tokens but, with ``last``, the first.
    """

    kind: Literal["erasure"] = field(default="erasure", kw_only=True)
    methods: list[Method] = field(default_factory=lambda: ["leace", "inlp", "mean_projection", "random"])
    sites: list[str] = field(default_factory=lambda: ["resid_post.*"])
    apart: bool = False
    tokens: Literal["last", "all"] = "last"
    rounds: int = 8
    question: Question = field(default_factory=Question)
    neutral: DatasetConfig = field(default_factory=lambda: DatasetConfig("topics", limit=16))

    def __post_init__(self) -> None:
        if not self.methods or not self.sites:
            raise UserError("intervention.methods and intervention.sites name at least one each.")
        check_count("rounds", self.rounds)
