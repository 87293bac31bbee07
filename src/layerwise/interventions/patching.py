"""Activation patching: a value of one run put into another, cell by cell, and what that does to a metric of the logits.

Every cell is one or more sites and, per text, some columns. Cells that begin at one layer run together, from the residuals kept at
that layer and, in causal attention, with the keys and values of the tokens before the first cell (``models/rest.py``). Only the rows
that the metric reads go through the head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.cells import put, seen, take, unseen
from layerwise.interventions.metrics import Measure
from layerwise.models.batch import Batch, budget_of
from layerwise.models.names import parse_site
from layerwise.models.readout import Readout
from layerwise.models.rest import Pass, keep_pass, run_rest
from layerwise.models.taps import Write, run

Metric = Callable[[Tensor, Tensor], Tensor]
"""Logits (rows, vocabulary) at one column of each text, and the number of each row's text → (rows,)."""
_MOST_LOGITS = 1 << 26  # logits held at once


@dataclass(frozen=True)
class Cell:
    """What is patched at once.

    sites: all of them, each by the source's value at the same site; ``z.5.3`` is one head.
    columns: per text, the columns of the padded base that are written; a text without any is left as it is.
    source_columns: per text, the columns of the source that are read, as many; by default the same.
    """

    sites: tuple[str, ...]
    columns: tuple[tuple[int, ...], ...]
    source_columns: tuple[tuple[int, ...], ...] | None = None


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


class CellPlan:
    """Cells, checked against the model and the batches they are of: where each begins.

    sites: the sites whose values the source must give, without their heads. prefix: the stack they are of.
    """

    def __init__(self, model: Any, cells: Sequence[Cell], base: Batch, source: Batch | None = None) -> None:
        """``source`` is None where values come from no run of their own, and are those of the base's columns."""
        if not cells:
            raise UserError("there is nothing to patch: give at least one cell.")
        self.model, self.cells = model, list(cells)
        names = [model.sites.one(site) for site in dict.fromkeys(site for cell in cells for site in cell.sites)]
        self.parsed = {str(site): site for site in names}
        self.named = {site: str(model.sites.one(site)) for cell in cells for site in cell.sites}
        prefixes = {model.sites.stack_of(site).prefix for site in self.parsed}
        if len(prefixes) != 1:
            raise UserError(f"cells are of one stack, got sites of {' and '.join(sorted(prefixes))}.")
        self.prefix = prefixes.pop()
        # The tensor of all heads is read once for every head.
        self.sites = list(dict.fromkeys(whole_site(site) for site in self.parsed))
        self.layers = [min(self._layer(site) for site in cell.sites) for cell in self.cells]
        masks = [base.mask.cpu(), (source or base).mask.cpu()]
        self.firsts = [self._first(cell, *masks) for cell in self.cells]

    def whole(self, site: str) -> str:
        """The site, as cells name it, whose tensor is read and written: without its head."""
        return whole_site(self.named[site])

    def _layer(self, site: str) -> int:
        layer = self.model.sites.layer_of(self.named[site])
        return 0 if layer is None else int(layer)

    def _first(self, cell: Cell, base: Tensor, source: Tensor) -> int:
        n = len(base)
        pairs = ((cell.columns, base, "base"), (cell.source_columns or cell.columns, source, "source"))
        for columns, mask, name in pairs:
            if len(columns) != n:
                raise UserError(f"a cell has columns of {len(columns)} texts, and there are {n}.")
            for text, row in enumerate(columns):
                for column in row:
                    if not 0 <= column < mask.shape[1] or not bool(mask[text, column]):
                        raise UserError(f"column {column} holds no token of text {text} of the {name}.")
        if cell.source_columns is not None and [*map(len, cell.columns)] != [*map(len, cell.source_columns)]:
            raise UserError("a cell reads as many columns of a text's source as it writes of its base.")
        return min((column for row in cell.columns for column in row), default=base.shape[1] - 1)

    def groups(self, wanted: Sequence[int], budget: int, kept: Pass) -> Iterator[Group]:
        """Cells of one layer whose columns are near each other, so that few tokens run in vain."""
        n = len(kept.batch.mask)
        order = sorted(wanted, key=lambda number: (self.layers[number], self.firsts[number]))
        group: list[int] = []
        for number in order:
            first = kept.first_column(self.firsts[group[0]] if group else self.firsts[number])
            size = n * (kept.length - first)
            if group and (self.layers[group[0]] != self.layers[number] or (len(group) + 1) * size > budget):
                yield self._group(group)
                group = []
            group.append(number)
        if group:
            yield self._group(group)

    def _group(self, cells: list[int]) -> Group:
        return Group(cells, self.layers[cells[0]], self.firsts[cells[0]])


@dataclass(frozen=True)
class Group:
    """Cells that run together, from block ``layer`` and column ``column`` on."""

    cells: list[int]
    layer: int
    column: int


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
        for group in plan.groups(chosen, self.budget, self.kept):
            found[group.cells] = self._run(plan, group, values)
            done(group.cells, found[group.cells])
        return found

    def again(self, layer: int, column: int, copies: int, writes: Mapping[str, Write]) -> Tensor:
        """(copies, texts): the measure of so many runs side by side from block ``layer`` and ``column`` on, with ``writes``.

        Row c·n + i of what a write sees is copy c of text i; its columns are those from ``kept.first_column(column)`` on.
        """
        kept, n = self.kept, len(self.base)
        begin = kept.first_column(column)
        late = self.columns >= begin
        if not bool(late.any()):
            return self.base.expand(copies, -1)  # nothing that is read comes after the change
        texts, columns = self.texts[late], self.columns[late]
        rows = (torch.arange(copies, device=texts.device)[:, None] * n + texts).flatten()

        def at_read(states: Tensor) -> Tensor:
            return states[rows, columns.repeat(copies) - begin]

        states = run_rest(self.model, kept, layer, column, copies, {self.readout.site: at_read}, writes)
        new = _token_values(
            self.asked, self.readout, states[self.readout.site], texts.repeat(copies), columns.repeat(copies)
        )
        before = self._sums(self.tokens[~late], self.texts[~late])
        sums = before.repeat(copies).index_add(0, rows, new).view(copies, n)
        return self.asked.of(sums)

    def _run(self, plan: CellPlan, group: Group, values: Mapping[str, Tensor]) -> Tensor:
        """(cells of the group, texts)."""
        writes: dict[str, Write] = {}
        for site in _sites(plan, group):
            whole = whole_site(site)
            write = _write(plan, group, site, len(self.base), self.kept.length, values[whole])
            writes[whole] = _after(writes[whole], write) if whole in writes else write
        return self.again(group.layer, group.column, len(group.cells), writes)


def _sites(plan: CellPlan, group: Group) -> list[str]:
    return list(dict.fromkeys(plan.named[site] for number in group.cells for site in plan.cells[number].sites))


def _write(plan: CellPlan, group: Group, site: str, n: int, length: int, values: Tensor) -> Write:
    """Puts the source's values of one site into the rows of the cells that patch it."""
    rows: list[int] = []
    columns: list[int] = []
    source_rows: list[int] = []
    source_columns: list[int] = []
    for copy, number in enumerate(group.cells):
        cell = plan.cells[number]
        if site not in {plan.named[name] for name in cell.sites}:
            continue
        for text, (to, of) in enumerate(zip(cell.columns, cell.source_columns or cell.columns, strict=True)):
            rows += [copy * n + text] * len(to)
            columns += to
            source_rows += [text] * len(of)
            source_columns += of
    parsed = plan.parsed[site]
    axis = plan.model.sites.port(parsed).head_axis
    heads = None if parsed.head is None else [parsed.head]
    device = values.device
    row, column, source_row, source_column = (
        torch.tensor(numbers, device=device, dtype=torch.long)
        for numbers in (rows, columns, source_rows, source_columns)
    )
    new = take(seen(values, axis, None), source_row, source_column, heads)

    def write(value: Tensor) -> Tensor:
        tensor = seen(value, axis, None)
        before = length - tensor.shape[1]  # tokens that do not run again
        return unseen(put(tensor, row, column - before, heads, new), axis, value)

    return write


def _after(first: Write, second: Write) -> Write:
    return lambda value: second(first(value))


def whole_site(site: str) -> str:
    """The site without its head."""
    parsed = parse_site(site)
    return site if parsed.head is None else f"{parsed.name}.{parsed.layer}"
