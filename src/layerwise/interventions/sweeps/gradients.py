"""Gradients of a metric at many sites of one run, at points between two prompts.

A zero is added at each site, and the gradient is taken by it: that reaches every site alike, whatever the model does with its tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.metrics import Measure
from layerwise.interventions.sweeps.asked import AskedPairs
from layerwise.interventions.sweeps.sweep import Chunk
from layerwise.models.readout import Readout
from layerwise.models.taps import Write, run


@dataclass(eq=False)
class Leaves:
    """By site, the zero that was added there, and the value that it was added to."""

    added: dict[str, Tensor] = field(default_factory=dict)
    seen: dict[str, Tensor] = field(default_factory=dict)

    def at(self, site: str, first: Write | None = None) -> Write:
        """A write that adds the zero, after another one."""

        def write(value: Tensor) -> Tensor:
            value = value if first is None else first(value)
            self.seen[site] = value
            self.added[site] = torch.zeros_like(value, requires_grad=True)
            return value + self.added[site]

        return write


def between(steps: int) -> list[float]:
    """Points on the way from the clean prompt (0) to the corrupted one (1): 0 alone, or the middles of ``steps`` equal parts."""
    return [0.0] if steps == 1 else [(step + 0.5) / steps for step in range(steps)]


def run_with_gradients(
    asked: AskedPairs,
    chunk: Chunk,
    measure: Measure,
    readout: Readout,
    sites: Sequence[str],
    at: float,
    use: Callable[[Leaves, Tensor], None],
) -> None:
    """The clean prompts' run, its embeddings moved by the share ``at`` towards the corrupted prompts', handed over with its graph.

    use: is given the leaves of the sites, and the metric summed over the texts.
    """
    start = "resid_pre.0"
    leaves = Leaves()
    other = chunk.found[start]

    def moved(value: Tensor) -> Tensor:
        return value + at * (other - value)

    writes = {site: leaves.at(site, moved if site == start else None) for site in dict.fromkeys([start, *sites])}
    texts, columns = measure.at.nonzero().unbind(1)
    states = run(asked.model, chunk.base, {readout.site: None}, writes, grad=True)[readout.site]
    with torch.enable_grad():
        values = measure.per_token(readout.logits(states[texts, columns]), texts, columns)
        if not values.requires_grad:
            raise UserError(
                f"{measure.name} has no gradient: take logit_difference, log_probability, probability, kl or loss."
            )
        sums = values.new_zeros(len(measure.at)).index_add(0, texts, values)
        use(leaves, measure.of(sums).sum())
