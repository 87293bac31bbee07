"""Ablation sweep: every layer, attention, MLP and head in turn is taken away; what that does to a metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.cell_plan import Cell, CellPlan
from layerwise.interventions.sweeps.asked import AskedPairs, of_equal_length
from layerwise.interventions.sweeps.config import Ablation
from layerwise.interventions.sweeps.controls import beside_random, strongest
from layerwise.interventions.sweeps.ledger import Ledgers
from layerwise.interventions.sweeps.sweep import Chunk, Swept, Values, sweep, writing
from layerwise.models.taps import run

NAMES = {"attention": "attn_out", "mlps": "mlp_out", "heads": "z"}


@dataclass(frozen=True, eq=False)
class Ablated:
    """parts: a row for each part, with ``part``, ``layer``, ``head`` (-1 for none); its effects are those of ``swept``.

    controls: the strongest parts beside a change as large in a random direction.
    """

    parts: pd.DataFrame
    swept: Swept
    controls: pd.DataFrame


def ablation_parts(model: Any, wanted: Sequence[str]) -> pd.DataFrame:
    """Every part of a model: ``part``, ``layer``, ``head`` and the ``sites`` that are taken away for it."""
    names = model.sites.names()
    rows: list[dict[str, Any]] = []
    for part in dict.fromkeys(wanted):
        kinds = ("attn_out", "mlp_out") if part == "layers" else (NAMES[part],)
        if any(kind not in names for kind in kinds):
            raise UserError(
                f"{model.name} has no {' and '.join(kind for kind in kinds if kind not in names)}: leave {part} out of the parts."
            )
        for layer in range(model.sites.n_layers):
            heads = range(model.sites.n_heads) if part == "heads" else [-1]
            for head in heads:
                sites = tuple(f"{kind}.{layer}" if head < 0 else f"{kind}.{layer}.{head}" for kind in kinds)
                rows.append({"part": part, "layer": layer, "head": head, "sites": sites})
    return pd.DataFrame(rows)


def ablate(
    asked: AskedPairs,
    settings: Ablation,
    metric: str,
    *,
    seed: int = 0,
    ledgers: Ledgers | None = None,
    token_budget: int | None = None,
    done: Callable[[int], None] = lambda runs: None,
) -> Ablated:
    """The sweep on the clean prompts. Raises UserError for parts that the model lacks.

    ledgers: where values go, and what is known of them already.
    """
    if settings.method == "corrupted":
        asked = of_equal_length(asked)
    parts = ablation_parts(asked.model, settings.parts)
    everywhere = asked.columns("clean", "all")
    cells = [Cell(sites, everywhere) for sites in parts["sites"]]
    values = _values(asked, settings, cells, seed)
    ledger = (ledgers or Ledgers()).open("cells", len(cells), len(asked))
    swept = sweep(asked, cells, metric, writing(values), ledger=ledger, token_budget=token_budget, done=done)
    chosen = strongest(swept.changes, settings.controls)
    controls = beside_random(asked, cells, chosen, metric, values, seed=seed, token_budget=token_budget)
    return Ablated(parts, swept, parts.iloc[chosen].assign(change=swept.changes[chosen], random=controls))


def _values(asked: AskedPairs, settings: Ablation, cells: Sequence[Cell], seed: int) -> Values:
    if settings.method == "corrupted":
        return lambda chunk, plan: chunk.found
    if settings.method == "zero":
        return lambda chunk, plan: {site: torch.zeros_like(value) for site, value in _own(chunk, plan).items()}
    if settings.method == "resample":
        return _Donors(asked, seed).values
    means = _means(asked, cells)
    return lambda chunk, plan: {
        site: means[site].to(value).expand_as(value) for site, value in _own(chunk, plan).items()
    }


def _own(chunk: Chunk, plan: CellPlan) -> dict[str, Tensor]:
    return run(plan.model, chunk.base, dict.fromkeys(plan.sites))


def _means(asked: AskedPairs, cells: Sequence[Cell]) -> dict[str, Tensor]:
    """By site, the mean over all tokens of all clean prompts."""
    sums: dict[str, Tensor] = {}
    count = 0
    for rows in asked.chunks():
        batch = asked.batch("clean", rows)
        plan = CellPlan(asked.model, [Cell(cell.sites, ((),) * len(rows)) for cell in cells], batch)
        mask = batch.mask

        def summed(value: Tensor, mask: Tensor = mask) -> Tensor:
            return value[mask].double().sum(0)

        found = run(asked.model, batch, dict.fromkeys(plan.sites, summed))
        sums = {site: sums.get(site, 0) + value for site, value in found.items()}
        count += int(mask.sum())
    return {site: total / count for site, total in sums.items()}


class _Donors:
    """Another clean prompt for each, none for itself: its values, counted from the end, its first token's where it is shorter."""

    def __init__(self, asked: AskedPairs, seed: int) -> None:
        if len(asked) < 2:
            raise UserError("resample takes values of another prompt, and there is one pair only: raise pairs.limit.")
        self.asked = asked
        order = np.random.default_rng(seed).permutation(len(asked))
        self.donor = np.empty(len(asked), dtype=np.int64)
        self.donor[order] = np.roll(order, 1)

    def values(self, chunk: Chunk, plan: CellPlan) -> Mapping[str, Tensor]:
        donors = self.donor[chunk.rows]
        batch = self.asked.batch("clean", donors)
        found = run(plan.model, batch, dict.fromkeys(plan.sites))
        own, given = self.asked.lengths("clean")[chunk.rows], self.asked.lengths("clean")[donors]
        columns = np.arange(chunk.base.mask.shape[1])
        numbers = np.clip(columns + (given - own)[:, None], 0, given[:, None] - 1)
        index = torch.from_numpy(numbers).to(batch.mask.device)
        rows = torch.arange(len(donors), device=index.device)[:, None]
        return {site: value[rows, index] for site, value in found.items()}
