"""Activation patching: a value of one run put into another, cell by cell, and what that does to a metric of the logits.

Cells that begin at one layer run together, from the residuals kept at that layer and, in causal attention, with the keys and values of
the tokens before them (``models/rest.py``), each running its own tokens alone where the model can (``models/packed_rest.py``). Only the
rows that the metric reads go through the head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.cell_plan import Cell, CellPlan, Group, group_writes
from layerwise.interventions.metrics import Measure
from layerwise.models.batch import Batch, budget_of
from layerwise.models.narrowed import last_mlp_only_at
from layerwise.models.packed_rest import Packing, can_pack, run_packed
from layerwise.models.readout import Readout
from layerwise.models.rest import Pass, keep_pass, run_rest
from layerwise.models.taps import Read, Write, run

__all__ = ["Cell", "Metric", "Patched", "Rerun", "at_column", "last_columns", "patch", "whole_run"]

Metric = Callable[[Tensor, Tensor], Tensor]
"""Logits (rows, vocabulary) at one column of each text, and the number of each row's text → (rows,)."""
_MOST_LOGITS = 1 << 26  # logits held at once


@dataclass(frozen=True, eq=False)
class Patched:
    """values: (cells, texts), the metric of each patched run. base, source: (texts,), that of the two runs as they are."""

    values: Tensor
    base: Tensor
    source: Tensor

    @property
    def effects(self) -> Tensor:
        """(cells, texts): 0 where nothing changed, 1 where the patch alone brought the source's metric."""
        return (self.values - self.base) / (self.source - self.base)


def patch(
    model: Any,
    base: Batch,
    source: Batch,
    cells: Sequence[Cell],
    metric: Metric,
    *,
    at: Tensor | None = None,
    token_budget: int | None = None,
    done: Callable[[int], None] = lambda cells: None,
) -> Patched:
    """Patch each cell of ``base`` from ``source`` and measure.

    Args:
        base, source: the same number of texts; text i of one is patched from text i of the other.
        metric: of the logits at column ``at`` (texts,) of each text, by default the last real token.
        token_budget: tokens of one forward; more cells run together.
        done: is told how many cells each forward has finished.

    Raises UserError for a cell with a site the model lacks, columns beyond the text, and batches of different sizes.
    """
    if len(base.mask) != len(source.mask):
        raise UserError(f"{len(base.mask)} texts cannot be patched from {len(source.mask)}: give pairs.")
    readout = Readout.of(model)
    plan = CellPlan(model, cells, base, source)
    kept = keep_pass(model, base, {readout.site: None}, prefix=plan.prefix)
    found = run(model, source, {**dict.fromkeys(plan.sites), readout.site: None})
    measure, goal = (at_column(metric, batch, at) for batch in (base, source))
    rerun = Rerun(model, kept, measure, readout, token_budget)
    values = rerun.measure(plan, found, done=lambda numbers, values: done(len(numbers)))
    return Patched(values, rerun.base, whole_run(goal, readout, found[readout.site]))


def at_column(metric: Metric, batch: Batch, at: Tensor | None = None) -> Measure:
    """A plain metric of the logits at one column of each text, the last real one by default, as a measure."""
    ends = last_columns(batch) if at is None else at
    columns = torch.arange(batch.mask.shape[1], device=batch.mask.device)
    return Measure("metric", columns == ends[:, None], lambda logits, texts, columns: metric(logits, texts))


def last_columns(batch: Batch) -> Tensor:
    """(texts,): the column of each text's last real token."""
    columns = torch.arange(batch.mask.shape[1], device=batch.mask.device)
    return (batch.mask * columns).argmax(1)


def whole_run(measure: Measure, readout: Readout, states: Tensor) -> Tensor:
    """(texts,): a measure of a run as it is, from what its head takes in (texts, tokens, width)."""
    texts, columns = measure.at.nonzero().unbind(1)
    values = _token_values(measure, readout, states[texts, columns], texts, columns)
    return measure.of(values.new_zeros(len(states)).index_add(0, texts, values))


@torch.no_grad()
def _token_values(measure: Measure, readout: Readout, states: Tensor, texts: Tensor, columns: Tensor) -> Tensor:
    """(rows,) of what the head takes in (rows, width), as many rows at once as memory is meant for."""
    vocabulary = getattr(readout.head, "out_features", 1 << 16)
    parts = torch.arange(len(states), device=states.device).split(max(1, _MOST_LOGITS // int(vocabulary)))
    return torch.cat(
        [measure.per_token(readout.logits(states[part]), texts[part], columns[part]).float() for part in parts]
    )


class Rerun:
    """A kept pass that is run again for every cell, and what a measure says of each.

    base: (texts,) the measure of the pass as it was.
    """

    def __init__(
        self, model: Any, kept: Pass, measure: Measure, readout: Readout, token_budget: int | None = None
    ) -> None:
        self.model, self.kept, self.asked, self.readout = model, kept, measure, readout
        self.budget = budget_of(kept.batch.mask.device, token_budget)
        self.texts, self.columns = measure.at.nonzero().unbind(1)
        states = kept.read[readout.site][self.texts, self.columns]
        self.tokens = _token_values(measure, readout, states, self.texts, self.columns)
        self.base = measure.of(self._sums(self.tokens, self.texts))

    def _sums(self, values: Tensor, texts: Tensor) -> Tensor:
        return values.new_zeros(len(self.asked.at)).index_add(0, texts, values)

    def measure(
        self,
        plan: CellPlan,
        values: Mapping[str, Tensor],
        wanted: Sequence[int] | None = None,
        *,
        done: Callable[[list[int], Tensor], None] = lambda cells, values: None,
    ) -> Tensor:
        """(cells, texts): the measure with each cell of the plan written, or of the cells ``wanted`` (others are NaN).

        values: by site of the plan, what is written: (texts, tokens, …). done: is told the cells of each forward and their values.
        """
        found = torch.full((len(plan.cells), len(self.base)), float("nan"), device=self.base.device)
        chosen = range(len(plan.cells)) if wanted is None else wanted
        packs = plan.packable(chosen) and can_pack(self.model, self.kept)
        for group in plan.groups(chosen, self.budget, self.kept, packs):
            found[group.cells] = self._run(plan, group, values, packs)
            done(group.cells, found[group.cells])
        return found

    def _run(self, plan: CellPlan, group: Group, values: Mapping[str, Tensor], packs: bool) -> Tensor:
        """(cells of the group, texts)."""
        # Cells that all begin at one column waste nothing, and then copies of the texts attend to less than one long row.
        packing = Packing(group.firsts, self.kept.length) if packs and len(set(group.firsts)) > 1 else None
        writes = group_writes(plan, group, self.kept, values, packing)
        return self.rest(group.layer, group.column, len(group.cells), writes, packing)

    def rest(
        self, layer: int, column: int, copies: int, writes: Mapping[str, Write], packing: Packing | None = None
    ) -> Tensor:
        """(copies, texts): the measure of copies of the pass, run again from a layer and a column on with ``writes``.

        packing: the copies' tokens stand in one row per text, each from its own column on.
        """
        kept, n, device = self.kept, len(self.base), self.base.device
        firsts = [kept.first_column(column)] * copies if packing is None else list(packing.firsts)
        late = self.columns >= torch.tensor(firsts, device=device)[:, None]
        if not bool(late.any()):
            return self.base.expand(copies, -1)  # nothing that is read comes after the change
        copy, read = late.nonzero().unbind(1)
        texts, columns = self.texts[read], self.columns[read]
        begin = torch.tensor(
            firsts if packing is None else [f - o for f, o in zip(firsts, packing.offsets, strict=False)], device=device
        )
        rows = copy * n + texts if packing is None else texts
        places = columns - begin[copy]

        def at_read(states: Tensor) -> Tensor:
            return states[rows, places]

        reads: dict[str, Read] = {self.readout.site: at_read}
        with last_mlp_only_at(self.model, rows, places, writes):
            if packing is None:
                found = run_rest(self.model, kept, layer, column, copies, reads, writes)
            else:
                found = run_packed(self.model, kept, layer, packing, reads, writes)
        new = _token_values(self.asked, self.readout, found[self.readout.site], texts, columns)
        early_copy, early = (~late).nonzero().unbind(1)
        sums = self.tokens.new_zeros(copies * n)
        sums.index_add_(0, early_copy * n + self.texts[early], self.tokens[early])
        sums.index_add_(0, copy * n + texts, new)
        return self.asked.of(sums.view(copies, n))
