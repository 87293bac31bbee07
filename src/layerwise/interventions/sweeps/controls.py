"""The control of a sweep: a change as large as a cell's own, at the same place, in a random direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from layerwise.interventions.cell_plan import Cell, CellPlan
from layerwise.interventions.sweeps.asked import AskedPairs, Side
from layerwise.interventions.sweeps.sweep import Act, Chunk, Values, of_rows, sweep, writing
from layerwise.models.taps import Write, run


def strongest(changes: np.ndarray, count: int) -> np.ndarray:
    """The numbers of the cells with the largest change, the largest first; those without a number never."""
    size = np.where(np.isfinite(changes), np.abs(changes), -1.0)
    return np.argsort(-size, kind="stable")[: min(count, int((size >= 0).sum()))]


def beside_random(
    asked: AskedPairs,
    cells: Sequence[Cell],
    chosen: np.ndarray,
    metric: str,
    values: Values,
    *,
    base: Side = "clean",
    source: Side | None = None,
    writes: Callable[[np.ndarray], Mapping[str, Write]] = lambda rows: {},
    acting: Callable[[Values], Act] = writing,
    seed: int = 0,
    token_budget: int | None = None,
) -> np.ndarray:
    """(chosen,): the change of the mean metric when the chosen cells' change is made in a random direction.

    The direction is drawn for each token and site anew; its length is that of the cell's own change there, head by head.
    acting: what is done to a cell, given the values that are written.
    """
    if not len(chosen):
        return np.zeros(0)
    picked = [cells[number] for number in chosen]

    def random(chunk: Chunk, plan: CellPlan) -> Mapping[str, Tensor]:
        written = values(chunk, plan)
        own = run(plan.model, chunk.base, dict.fromkeys(plan.sites), writes(chunk.rows))
        draw = torch.Generator().manual_seed(seed)
        found = {}
        for site, before in own.items():
            there = [of_rows(cell, chunk.rows) for cell in picked if site in map(plan.whole, cell.sites)]
            to = _aligned(written[site], before, there)
            found[site] = before + as_large(to - before, draw)
        return found

    # What is written is that of the cell's own columns now, whatever the source's were.
    at_base = [replace(cell, source_columns=None) for cell in picked]
    swept = sweep(
        asked, at_base, metric, acting(random), base=base, source=source, writes=writes, token_budget=token_budget
    )
    return swept.changes


def as_large(change: Tensor, draw: torch.Generator) -> Tensor:
    """A change of the same length, by the last axis, in a random direction."""
    noise = torch.randn(change.shape, generator=draw).to(change)
    return noise / noise.norm(dim=-1, keepdim=True).clamp(min=1e-12) * change.norm(dim=-1, keepdim=True)


def _aligned(written: Tensor, before: Tensor, cells: Sequence[Cell]) -> Tensor:
    """What the source gives, laid out in the columns of the base that it is for; the base's own elsewhere."""
    to = before.clone()
    for cell in cells:
        for text, columns in enumerate(cell.columns):
            to[text, list(columns)] = written[text, list((cell.source_columns or cell.columns)[text])].to(to)
    return to
