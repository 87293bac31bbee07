"""Cells: what is patched at once; where each begins in a model; which of them run together; what puts their values in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.cells import put, seen, take, unseen
from layerwise.models.batch import Batch
from layerwise.models.names import parse_site
from layerwise.models.packed_rest import Packing
from layerwise.models.rest import Pass
from layerwise.models.taps import Write

_LONGEST_ROW = 512  # tokens of a packed row: their attention to each other grows with its square


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

    def groups(self, wanted: Sequence[int], budget: int, kept: Pass, packs: bool = False) -> Iterator[Group]:
        """Cells of one layer whose columns are near each other, so that few tokens run in vain. ``packs``: each cell runs its own alone."""
        n = len(kept.batch.mask)
        order = sorted(wanted, key=lambda number: (self.layers[number], self.firsts[number]))
        group: list[int] = []
        for number in order:
            beside = [*group, number]
            if packs:
                row = sum(kept.length - self.firsts[one] for one in beside)
                full = n * row > budget or row > _LONGEST_ROW
            else:
                full = len(beside) * n * (kept.length - kept.first_column(self.firsts[beside[0]])) > budget
            if group and (full or self.layers[group[0]] != self.layers[number]):
                yield self._group(group)
                group = []
            group.append(number)
        if group:
            yield self._group(group)

    def packable(self, wanted: Sequence[int]) -> bool:
        """Whether all cells write sites that hold the tokens that run, and no others."""
        kinds = {self.parsed[self.named[site]].kind for number in wanted for site in self.cells[number].sites}
        return not kinds & {"k", "v", "pattern"} and not any(self.parsed[site].is_path for site in self.parsed)

    def _group(self, cells: list[int]) -> Group:
        return Group(cells, self.layers[cells[0]], tuple(self.firsts[number] for number in cells))


@dataclass(frozen=True)
class Group:
    """Cells that run together, from block ``layer`` on, each changing tokens from its column of ``firsts`` on."""

    cells: list[int]
    layer: int
    firsts: tuple[int, ...]

    @property
    def column(self) -> int:
        """The first of them."""
        return min(self.firsts)


def group_writes(
    plan: CellPlan, group: Group, kept: Pass, values: Mapping[str, Tensor], packing: Packing | None = None
) -> dict[str, Write]:
    """What puts ``values`` into the copies of a kept pass, the cells of a group one after the other, or packed into one row."""
    writes: dict[str, Write] = {}
    for site in _sites(plan, group):
        whole = whole_site(site)
        write = _write(plan, group, site, kept, values[whole], packing)
        writes[whole] = _after(writes[whole], write) if whole in writes else write
    return writes


def _sites(plan: CellPlan, group: Group) -> list[str]:
    return list(dict.fromkeys(plan.named[site] for number in group.cells for site in plan.cells[number].sites))


def _write(plan: CellPlan, group: Group, site: str, kept: Pass, values: Tensor, packing: Packing | None) -> Write:
    """Puts the source's values of one site into the rows of the cells that patch it."""
    n = len(kept.batch.mask)
    rows: list[int] = []
    columns: list[int] = []
    source_rows: list[int] = []
    source_columns: list[int] = []
    for copy, number in enumerate(group.cells):
        cell = plan.cells[number]
        if site not in {plan.named[name] for name in cell.sites}:
            continue
        for text, (to, of) in enumerate(zip(cell.columns, cell.source_columns or cell.columns, strict=True)):
            if packing is None:
                rows += [copy * n + text] * len(to)
                columns += to
            else:
                begin = packing.offsets[copy] - packing.firsts[copy]
                rows += [text] * len(to)
                columns += [begin + column for column in to]
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
        before = 0 if packing is not None else kept.length - tensor.shape[1]  # tokens that do not run again
        return unseen(put(tensor, row, column - before, heads, new), axis, value)

    return write


def _after(first: Write, second: Write) -> Write:
    return lambda value: second(first(value))


def whole_site(site: str) -> str:
    """The site without its head."""
    parsed = parse_site(site)
    return site if parsed.head is None else f"{parsed.name}.{parsed.layer}"
