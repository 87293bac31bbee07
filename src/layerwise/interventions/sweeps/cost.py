"""What a sweep will cost, told before it begins."""

from __future__ import annotations

import time
from collections.abc import Sequence

from layerwise.interventions.cell_plan import Cell
from layerwise.interventions.sweeps.asked import AskedPairs, Side
from layerwise.models.rest import can_reuse
from layerwise.models.taps import run


def passes(asked: AskedPairs, cells: Sequence[Cell], side: Side = "clean") -> float:
    """How many passes over all prompts the cells amount to: each runs the layers above its own, and the tokens from its first on."""
    layers = asked.model.sites.n_layers
    reuse = can_reuse(asked.model)
    longest = int(asked.lengths(side).max())
    total = 0.0
    for cell in cells:
        first = min((column for row in cell.columns for column in row), default=0) if reuse else 0
        layer = min(asked.model.sites.layer_of(site) or 0 for site in cell.sites)
        total += (layers - layer) / layers * (longest - first) / longest
    return total


def cost_line(asked: AskedPairs, cells: Sequence[Cell], repeats: int = 1, side: Side = "clean") -> str:
    """Cells, pairs, passes and seconds in words; one batch is run and timed for it."""
    rows = asked.chunks()[0]
    batch = asked.batch(side, rows)
    begin = time.perf_counter()
    run(asked.model, batch, {"resid_post.-1": None})
    seconds = (time.perf_counter() - begin) * len(asked) / len(rows)
    amount = passes(asked, cells, side) * repeats
    return (
        f"{len(cells) * repeats:,} cells on {len(asked)} pairs: as much as {amount:,.0f} passes over all prompts, some "
        f"{_duration(amount * seconds)}"
    )


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
