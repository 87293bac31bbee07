"""One sweep: many cells over many pairs of prompts, some pairs at a time, its anchors beside it, to be stopped and gone on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from layerwise.interventions.cell_plan import Cell, CellPlan
from layerwise.interventions.metrics import Measure, Questions, make_measure, metric_entry
from layerwise.interventions.patching import Rerun, last_columns, whole_run
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
Done = Callable[[list[int], Tensor], None]
Act = Callable[[Rerun, Chunk, CellPlan, list[int], Done], None]
"""Carries out cells of a plan by number, and tells the values (cells, texts) of those that are done."""


def writing(values: Values) -> Act:
    """Each cell by itself is written, and all that follows runs on."""

    def act(rerun: Rerun, chunk: Chunk, plan: CellPlan, wanted: list[int], done: Done) -> None:
        rerun.measure(plan, values(chunk, plan), wanted, done=done)

    return act


@dataclass(frozen=True, eq=False)
class Swept:
    """A metric over all cells.

    values: (cells, texts). base, source: (texts,) the anchors: the run that is changed as it is, and the one that values come from (or
    that the pair's other prompt gives). there: (cells, texts) False where a text has no token that the cell writes; means leave it out.
    """

    values: np.ndarray
    base: np.ndarray
    source: np.ndarray
    there: np.ndarray

    @property
    def changes(self) -> np.ndarray:
        """(cells,): how far the mean metric moved, in its own units; NaN for a cell that writes nothing."""
        return self._mean(self.values - self.base)

    @property
    def effects(self) -> np.ndarray:
        """(cells,): how far the mean metric moved from the base's, 1 being all the way to the source's; NaN without a way to go."""
        gap = self._mean(np.broadcast_to(self.source - self.base, self.values.shape))
        return np.divide(self.changes, gap, out=np.full(len(gap), np.nan), where=np.abs(gap) > 1e-9)

    def _mean(self, values: np.ndarray) -> np.ndarray:
        count = self.there.sum(1)
        # Not a product: what is infinite where a cell does not write would spoil it.
        total = np.where(self.there, values, 0.0).sum(1)
        return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def sweep(
    asked: AskedPairs,
    cells: Sequence[Cell],
    metric: str,
    act: Act,
    *,
    base: Side = "clean",
    source: Side | None = None,
    writes: Callable[[np.ndarray], Mapping[str, Write]] = lambda rows: {},
    ledger: Ledger | None = None,
    token_budget: int | None = None,
    done: Callable[[int], None] = lambda runs: None,
) -> Swept:
    """Write each cell into the ``base`` prompts and measure.

    Args:
        cells: over all pairs, their columns a list for each.
        act: what is done to a cell.
        source: which prompts the other anchor and ``Chunk.found`` are of; by default those that are not the base.
        writes: what is done to the base's run itself, before any cell (noise): by site, for the pairs ``rows``.
        ledger: what is known already, and where new values go.
        done: is told how many runs, one for each cell and pair, each forward has finished.
    """
    ledger = ledger or Ledger(len(cells), len(asked))
    anchors: dict[str, np.ndarray] = {name: np.empty(len(asked)) for name in ("base", "source")}
    readout = Readout.of(asked.model)
    for rows in asked.chunks(token_budget):
        chunk_cells = [of_rows(cell, rows) for cell in cells]
        own, other = asked.batch(base, rows), asked.batch(source or OTHER[base], rows)
        plan = CellPlan(asked.model, chunk_cells, own, other)
        kept = keep_pass(asked.model, own, {readout.site: None}, writes(rows), prefix=plan.prefix)
        found = run(asked.model, other, {**dict.fromkeys(plan.sites), readout.site: None})
        chunk = Chunk(rows, kept, own, other, found)
        measures = measures_of(asked, metric, chunk, (source or OTHER[base]) == "clean", readout)
        rerun = Rerun(asked.model, kept, measures[0], readout, token_budget)
        anchors["base"][rows] = rerun.base.double().cpu().numpy()
        anchors["source"][rows] = whole_run(measures[1], readout, found[readout.site]).double().cpu().numpy()

        def take(numbers: list[int], new: Tensor, rows: np.ndarray = rows) -> None:
            ledger.put(numbers, rows, new)
            done(len(numbers) * len(rows))

        wanted = ledger.missing(rows)
        if len(wanted) < len(cells):
            done((len(cells) - len(wanted)) * len(rows))
        try:
            if wanted:
                act(rerun, chunk, plan, wanted, take)
        finally:
            ledger.save()
    there = np.array([[bool(row) for row in cell.columns] for cell in cells])
    return Swept(ledger.values, anchors["base"], anchors["source"], there)


def measures_of(
    asked: AskedPairs, metric: str, chunk: Chunk, source_is_clean: bool, readout: Readout
) -> tuple[Measure, Measure]:
    """The metric of the base's run and of the source's; KL is that from whichever of them is the clean run."""
    clean, batch = (
        (chunk.found[readout.site], chunk.source) if source_is_clean else (chunk.pass_.read[readout.site], chunk.base)
    )
    last = metric_entry(metric).tokens == "last"

    def clean_logits(texts: Tensor, columns: Tensor) -> Tensor:
        # Prompts of a pair may differ in length: last tokens answer to each other, others to those of their column.
        columns = last_columns(batch)[texts] if last else columns.clamp(max=clean.shape[1] - 1)
        with torch.no_grad():
            return readout.logits(clean[texts, columns])

    made = []
    for own in (chunk.base, chunk.source):
        questions = Questions(
            own, asked.tokens("answers", chunk.rows), asked.tokens("others", chunk.rows), clean_logits
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
