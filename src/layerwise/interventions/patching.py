"""Activation patching: a value of one run put into another, cell by cell, and what that does to a metric of the logits.

Every cell is one or more sites and, per text, some columns. Cells that begin at one layer run together, from the residuals kept at
that layer and, in causal attention, with the keys and values of the tokens before the first cell (``models/rest.py``). Only the rows
that the metric reads go through the head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.cells import put, seen, take, unseen
from layerwise.models.batch import Batch, budget_of
from layerwise.models.names import parse_site
from layerwise.models.readout import Readout
from layerwise.models.rest import Pass, keep_pass, run_rest
from layerwise.models.taps import Read, Write, run

Metric = Callable[[Tensor, Tensor], Tensor]
"""Logits (rows, vocabulary) at one column of each text, and the number of each row's text → (rows,)."""


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
    budget = budget_of(base.mask.device, token_budget)
    plan = _Plan(model, cells, base, source)
    readout = Readout.of(model)
    kept, ends = (
        keep_pass(model, base, {readout.site: None}, prefix=plan.prefix),
        last_columns(base) if at is None else at,
    )
    found = run(model, source, {**dict.fromkeys(plan.sites), readout.site: None})
    texts = torch.arange(len(base.mask), device=base.mask.device)
    source_ends = last_columns(source) if at is None else at
    with torch.no_grad():
        anchor = metric(readout.logits(kept.read[readout.site][texts, ends]), texts)
        goal = metric(readout.logits(found[readout.site][texts, source_ends]), texts)
    values = anchor.repeat(len(cells), 1)
    for group in plan.groups(budget, kept):
        values[group.cells] = _run_group(model, plan, group, kept, found, readout, metric, ends)
        done(len(group.cells))
    return Patched(values, anchor, goal)


def last_columns(batch: Batch) -> Tensor:
    """(texts,): the column of each text's last real token."""
    columns = torch.arange(batch.mask.shape[1], device=batch.mask.device)
    return (batch.mask * columns).argmax(1)


@dataclass(frozen=True)
class _Group:
    """Cells that run together, from block ``layer`` and column ``column`` on."""

    cells: list[int]
    layer: int
    column: int


class _Plan:
    """The cells, checked against the model: where each begins."""

    def __init__(self, model: Any, cells: Sequence[Cell], base: Batch, source: Batch) -> None:
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
        self.sites = list(dict.fromkeys(_whole(site) for site in self.parsed))
        self.layers = [min(self._layer(site) for site in cell.sites) for cell in self.cells]
        self.firsts = [self._first(cell, base, source) for cell in self.cells]

    def _layer(self, site: str) -> int:
        layer = self.model.sites.layer_of(self.named[site])
        return 0 if layer is None else int(layer)

    def _first(self, cell: Cell, base: Batch, source: Batch) -> int:
        n = len(base.mask)
        pairs = ((cell.columns, base, "base"), (cell.source_columns or cell.columns, source, "source"))
        for columns, batch, name in pairs:
            if len(columns) != n:
                raise UserError(f"a cell has columns of {len(columns)} texts, and there are {n}.")
            for text, row in enumerate(columns):
                for column in row:
                    if not 0 <= column < batch.mask.shape[1] or not bool(batch.mask[text, column]):
                        raise UserError(f"column {column} holds no token of text {text} of the {name}.")
        if cell.source_columns is not None and [*map(len, cell.columns)] != [*map(len, cell.source_columns)]:
            raise UserError("a cell reads as many columns of a text's source as it writes of its base.")
        return min((column for row in cell.columns for column in row), default=batch.mask.shape[1] - 1)

    def groups(self, budget: int, kept: Pass) -> Iterator[_Group]:
        """Cells of one layer whose columns are near each other, so that few tokens run in vain."""
        n = len(kept.batch.mask)
        order = sorted(range(len(self.cells)), key=lambda number: (self.layers[number], self.firsts[number]))
        group: list[int] = []
        for number in order:
            first = kept.first_column(self.firsts[group[0]] if group else self.firsts[number])
            size = n * (kept.length - first)
            if group and (self.layers[group[0]] != self.layers[number] or (len(group) + 1) * size > budget):
                yield self._group(group)
                group = []
            group.append(number)
        yield self._group(group)

    def _group(self, cells: list[int]) -> _Group:
        return _Group(cells, self.layers[cells[0]], self.firsts[cells[0]])


def _run_group(
    model: Any,
    plan: _Plan,
    group: _Group,
    kept: Pass,
    found: dict[str, Tensor],
    readout: Readout,
    metric: Metric,
    ends: Tensor,
) -> Tensor:
    """(cells of the group, texts)."""
    n = len(kept.batch.mask)
    column = min(group.column, int(ends.min()))
    begin = kept.first_column(column)
    texts = torch.arange(n, device=ends.device).repeat(len(group.cells))

    def at_ends(states: Tensor) -> Tensor:
        return states[torch.arange(len(states), device=states.device), ends[texts] - begin]

    reads: dict[str, Read] = {readout.site: at_ends}
    writes: dict[str, Write] = {}
    for site in _sites(plan, group):
        whole = _whole(site)
        write = _write(plan, group, site, n, kept.length, found[whole])
        writes[whole] = _after(writes[whole], write) if whole in writes else write
    states = run_rest(model, kept, group.layer, column, len(group.cells), reads, writes)[readout.site]
    with torch.no_grad():
        return metric(readout.logits(states), texts).view(len(group.cells), n)


def _sites(plan: _Plan, group: _Group) -> list[str]:
    return list(dict.fromkeys(plan.named[site] for number in group.cells for site in plan.cells[number].sites))


def _write(plan: _Plan, group: _Group, site: str, n: int, length: int, values: Tensor) -> Write:
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


def _whole(site: str) -> str:
    """The site without its head."""
    parsed = parse_site(site)
    return site if parsed.head is None else f"{parsed.name}.{parsed.layer}"
