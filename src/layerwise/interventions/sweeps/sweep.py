"""One sweep: many cells over many pairs of prompts, some pairs at a time, its anchors beside it, to be stopped and gone on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from layerwise.interventions.metrics import Measure, Questions, make_measure
from layerwise.interventions.patching import Cell, CellPlan, Rerun, whole_run
from layerwise.interventions.sweeps.asked import AskedPairs, Side
from layerwise.interventions.sweeps.ledger import Ledger
from layerwise.models.batch import Batch
from layerwise.models.readout import Readout
from layerwise.models.rest import Pass, keep_pass
from layerwise.models.taps import Write, run

OTHER: dict[Side, Side] = {"clean": "corrupted", "corrupted": "clean"}


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some pairs of a sweep, as batches of their base and their source.

    pass_: the base's run, kept. source: the source's run by site, as far as a sweep reads it.
    """

    rows: np.ndarray
    pass_: Pass
    base: Batch
    source: Batch
    found: Mapping[str, Tensor]


Values = Callable[[Chunk, CellPlan], Mapping[str, Tensor]]
"""What a sweep writes into its cells: by site, (texts, tokens, …)."""


@dataclass(frozen=True, eq=False)
class Swept:
    """A metric over all cells.

    values: (cells, texts). base, source: (texts,) the anchors: the run that is changed, and the one that values come from (or that the
    pair's other prompt gives).
    """

    values: np.ndarray
    base: np.ndarray
    source: np.ndarray

    @property
    def effects(self) -> np.ndarray:
        """(cells,): how far the mean metric moved from the base's, 1 being all the way to the source's."""
        gap = float(self.source.mean() - self.base.mean())
        moved = self.values.mean(1) - self.base.mean()
        return moved / gap if abs(gap) > 1e-9 else np.full(len(moved), np.nan)

    @property
    def changes(self) -> np.ndarray:
        """(cells,): how far the mean metric moved, in its own units."""
        return self.values.mean(1) - self.base.mean()


def sweep(
    asked: AskedPairs,
    cells: Sequence[Cell],
    metric: str,
    values: Values,
    *,
    base: Side = "clean",
    writes: Callable[[np.ndarray], Mapping[str, Write]] = lambda rows: {},
    ledger: Ledger | None = None,
    token_budget: int | None = None,
    done: Callable[[int], None] = lambda runs: None,
) -> Swept:
    """Write each cell into the ``base`` prompts and measure.

    Args:
        cells: over all pairs, their columns a list for each.
        values: what is written.
        writes: what is done to the base's run itself, before any cell (noise): by site, for the pairs ``rows``.
        ledger: what is known already, and where new values go.
        done: is told how many runs, one for each cell and pair, each forward has finished.
    """
    ledger = ledger or Ledger(len(cells), len(asked))
    anchors: dict[str, np.ndarray] = {name: np.empty(len(asked)) for name in ("base", "source")}
    readout = Readout.of(asked.model)
    for rows in asked.chunks(token_budget):
        chunk_cells = [of_rows(cell, rows) for cell in cells]
        batches = {side: asked.batch(side, rows) for side in OTHER}
        own, other = batches[base], batches[OTHER[base]]
        plan = CellPlan(asked.model, chunk_cells, own, other)
        kept = keep_pass(asked.model, own, {readout.site: None}, writes(rows), prefix=plan.prefix)
        found = run(asked.model, other, {**dict.fromkeys(plan.sites), readout.site: None})
        chunk = Chunk(rows, kept, own, other, found)
        measures = measures_of(asked, metric, chunk, base, readout)
        rerun = Rerun(asked.model, kept, measures[0], readout, token_budget)
        anchors["base"][rows] = rerun.base.double().cpu().numpy()
        anchors["source"][rows] = whole_run(measures[1], readout, found[readout.site]).double().cpu().numpy()

        def take(numbers: list[int], new: Tensor, rows: np.ndarray = rows) -> None:
            ledger.put(numbers, rows, new)
            done(len(numbers) * len(rows))

        wanted = ledger.missing(rows)
        if wanted:
            rerun.measure(plan, values(chunk, plan), wanted, done=take)
    ledger.save()
    return Swept(ledger.values, anchors["base"], anchors["source"])


def measures_of(asked: AskedPairs, metric: str, chunk: Chunk, base: Side, readout: Readout) -> tuple[Measure, Measure]:
    """The metric of the base's run and of the source's."""
    clean = chunk.pass_.read[readout.site] if base == "clean" else chunk.found[readout.site]

    def clean_logits(texts: Tensor, columns: Tensor) -> Tensor:
        with torch.no_grad():
            return readout.logits(clean[texts, columns.clamp(max=clean.shape[1] - 1)])

    made = []
    for batch in (chunk.base, chunk.source):
        questions = Questions(
            batch, asked.tokens("answers", chunk.rows), asked.tokens("others", chunk.rows), clean_logits
        )
        made.append(make_measure(metric, questions))
    return made[0], made[1]


def of_rows(cell: Cell, rows: np.ndarray) -> Cell:
    """A cell of some of the pairs."""
    source = cell.source_columns
    return replace(
        cell,
        columns=tuple(cell.columns[row] for row in rows),
        source_columns=None if source is None else tuple(source[row] for row in rows),
    )
