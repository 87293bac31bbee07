"""Acting: what steps do to one run's tensors, forward after forward. These are the reads and writes that the taps are given.

A generation is many forwards. Which columns a forward holds follows from how many new tokens there are by then and from how
long its tensor is, so a step acts on the same tokens with a key-value cache and without, in sampling and in beams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.cells import Cells, has_tokens, put, seen, take, unseen
from layerwise.interventions.operations.base import Row
from layerwise.interventions.operations.swaps import Kept
from layerwise.interventions.plan import When
from layerwise.interventions.units import Unit
from layerwise.models.taps import Read, nothing


@dataclass(frozen=True, eq=False)
class Source:
    """Values of another run for n texts: ``rows`` text by text, ``counts`` how many each text has."""

    rows: Tensor
    counts: list[int]

    def at(self, where: Where, counts: list[int] | None, step: str) -> Tensor:
        """The value for each row of a call: of the same place in the text's list, or the only one of the text.

        counts: how many cells each text has in the run that is written.
        """
        if where.cell is not None and self.counts == counts:
            return self.rows[where.cell]
        if set(self.counts) == {1}:
            return self.rows[where.text]
        if where.cell is None:
            raise UserError(
                f"{step}: the source has several values for a text, and one goes to each token.\n"
                "Name one, for instance with source_positions: last."
            )
        assert counts is not None
        text = next(index for index, pair in enumerate(zip(self.counts, counts, strict=True)) if pair[0] != pair[1])
        raise UserError(
            f"{step}: text {text} has {self.counts[text]} tokens in the source and {counts[text]} where they go.\n"
            "Name as many with positions and source_positions, or one in the source for all."
        )


@dataclass(eq=False)
class Act:
    """One unit in one run: on which cells of the prompt, with which source and which chosen numbers (n, size)."""

    unit: Unit
    when: When
    cells: Cells | None = None
    source: Source | None = None
    chosen: Tensor | None = None
    kept: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)  # rows, their examples, their columns
    effect: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Where:
    """Rows of one forward's tensor: their example and column there, whose text they are, which cell of the prompt.

    ``start``: the tensor's first column, counted in the whole text. ``full``: the rows are all of the tensor, in its order.
    """

    example: Tensor
    column: Tensor
    text: Tensor
    cell: Tensor | None
    start: int
    full: bool


class Writer:
    """All acts at one site of one run, in the plan's order: a write for the taps."""

    def __init__(
        self, acts: list[Act], n: int, length: int, inputs: dict[str, Tensor], *, plain: bool, measure: bool = False
    ) -> None:
        """n texts of ``length`` columns. ``plain``: a module whose tensors may lack an axis of tokens."""
        self.acts, self.n, self.length, self.inputs, self.measure = acts, n, length, inputs, measure
        self.tokens = length if plain else None
        self.forwards = 0

    def __call__(self, value: Tensor) -> Tensor:
        number, self.forwards = self.forwards, self.forwards + 1
        if number and self.constants is not None and value.shape[1] == 1:
            return self._moved_token(value, number)
        if value.shape[0] % self.n:
            raise UserError(
                f"{self.acts[0].unit.place} has {value.shape[0]} rows for {self.n} texts: it mixes their tokens."
            )
        if not number and self.constants is not None and value.shape[1] == self.length:
            return self._moved_prompts(value)
        for act in self.acts:
            axis = act.unit.place.head_axis
            tensor = seen(value, axis, self.tokens)
            new = tensor
            for where in self._places(act, value, tensor, number):
                new = self._written(act, where, new)
            if new is not tensor:
                value = unseen(new, axis, value)
        return value

    @cached_property
    def constants(self) -> list[tuple[Act, Tensor]] | None:
        """What each act adds to a row, whatever the row is; None where one of them does more than add, or where rows must be found."""
        found = [(act, None if self.tokens is not None or self.measure else _constant(act)) for act in self.acts]
        known = [(act, move) for act, move in found if move is not None]
        return known if len(known) == len(found) else None

    def _moved_prompts(self, value: Tensor) -> Tensor:
        """The prompts with constants added: no row is taken out and put back."""
        for act, move in self.constants or ():
            if act.cells is not None:
                there = act.cells.mask(self.length).repeat_interleave(len(value) // self.n, 0)
                there = there.view(*there.shape, *[1] * (value.dim() - 2))
                value = torch.where(there, (value + move.view(value.shape[2:])).to(value.dtype), value)
        return value

    def _moved_token(self, value: Tensor, number: int) -> Tensor:
        """New token ``number`` of each text with constants added; this runs once a layer and token, so it does nothing else."""
        for act, move in self.constants or ():
            if act.when.on_token(number):
                new = value + (move if move.dim() + 2 == value.dim() else move.view(value.shape[2:]))
                value = new if new.dtype == value.dtype else new.to(value.dtype)
        return value

    def _written(self, act: Act, where: Where, tensor: Tensor) -> Tensor:
        """The tensor (batch, tokens, …) after an act on some of its rows."""
        heads, step = act.unit.place.heads, act.unit.step
        full = where.full and heads is None
        rows = tensor.reshape(len(where.example), -1) if full else take(tensor, where.example, where.column, heads)
        row = self._row(act, where)
        shape = rows.shape
        if step.joined:
            rows, row = _joined(rows, row, act)
        if row.source is not None and row.source.shape != rows.shape:
            raise UserError(
                f"{step.name}: a value of the source has {row.source.shape[-1]} numbers, and {act.unit.place} has "
                f"{rows.shape[-1]}."
            )
        if act.unit.operation.width not in (None, rows.shape[1]):
            raise UserError(
                f"{step.name} was made for {act.unit.operation.width} numbers, and {act.unit.place} has {rows.shape[1]}."
            )
        new = act.unit.operation(rows, row)
        if isinstance(act.unit.operation, Kept):
            act.kept.append((_kept(rows, row.chosen), row.example, row.position))
            return tensor
        if self.measure:
            act.effect = ((new - rows).norm() / rows.norm().clamp(min=1e-12)).detach()
        new = new.reshape(shape)
        return new.reshape(tensor.shape) if full else put(tensor, where.example, where.column, heads, new)

    def _row(self, act: Act, where: Where) -> Row:
        counts = None if act.cells is None else act.cells.counts
        source = None if act.source is None else act.source.at(where, counts, act.unit.step.name)
        inner = None
        if act.unit.inner:
            entering = seen(self.inputs[act.unit.inner], 2, self.tokens)
            inner = take(entering, where.example, where.column, None)
        chosen = None if act.chosen is None else act.chosen[where.text]
        return Row(where.text, where.start + where.column, source, inner, chosen)

    def _places(self, act: Act, value: Tensor, tensor: Tensor, number: int) -> list[Where]:
        """Where an act acts in forward ``number`` of a run: at cells of the prompt, and at tokens made since."""
        batch, length = tensor.shape[0], tensor.shape[1]
        everyone = torch.arange(batch, device=tensor.device)
        copies = batch // self.n  # beams and several answers: the rows of one text lie side by side
        if act.unit.place.head_axis == 2 and not has_tokens(value, self.tokens):
            if act.cells is not None and not act.cells.whole:
                raise UserError(
                    f"{act.unit.place} has no axis of {self.length} tokens, its shape is {tuple(value.shape)}: "
                    "leave out the positions, or say all."
                )
            return [Where(everyone, torch.zeros_like(everyone), everyone // copies, None, 0, True)]
        start = self.length + number - length
        # What is kept is kept once, also where a forward without a cache goes over all tokens again.
        first = max(start, self.length + number - 1) if number and isinstance(act.unit.operation, Kept) else start
        found: list[Where] = []
        if act.cells is not None and start < self.length and first < self.length:
            found += _in_prompt(act.cells, start, first, copies, length)
        for token in range(max(1, first - self.length + 1), number + 1):
            if act.when.on_token(token):
                column = torch.full_like(everyone, self.length + token - 1 - start)
                found.append(Where(everyone, column, everyone // copies, None, start, length == 1))
        return found


def _constant(act: Act) -> Tensor | None:
    """What an act adds to every row of its site; None where it does something else, or to a part of it."""
    place, operation = act.unit.place, act.unit.operation
    apart = place.heads is not None or place.head_axis != 2 or act.chosen is not None
    return None if apart else operation.constant()


def _in_prompt(cells: Cells, start: int, first: int, copies: int, length: int) -> list[Where]:
    """The cells of the prompt that a forward from column ``start`` holds, from column ``first`` on."""
    index = torch.arange(len(cells), device=cells.example.device)
    if first > 0:
        index = index[cells.column >= first]
    text = cells.example[index].repeat_interleave(copies)
    if not len(text):
        return []
    index = index.repeat_interleave(copies)
    example = text * copies + torch.arange(len(text), device=text.device) % copies
    if copies > 1:
        order = example.argsort(stable=True)
        example, text, index = example[order], text[order], index[order]
    full = cells.whole and len(index) == cells.n * copies * length
    return [Where(example, cells.column[index] - start, text, index, start, full)]


def _joined(rows: Tensor, row: Row, act: Act) -> tuple[Tensor, Row]:
    """The rows of each text as one long row. Raises UserError where texts have unequally many."""
    counts = set(act.cells.counts) if act.cells is not None else {1}
    if len(counts) != 1:
        raise UserError(f"{act.unit.step.name} joins the positions of a text, and texts have unequally many of them.")
    count = counts.pop()
    rows = rows.reshape(-1, count * rows.shape[1])
    source = None if row.source is None else row.source.reshape(len(rows), -1)
    inner = None if row.input is None else row.input.reshape(len(rows), -1)
    chosen = None if row.chosen is None else row.chosen[::count]
    return rows, Row(row.example[::count], row.position[::count], source, inner, chosen)


def _kept(rows: Tensor, chosen: Tensor | None) -> Tensor:
    """What is collected of the rows: the chosen numbers, of which each row must have as many."""
    if chosen is None:
        return rows
    counts = chosen.sum(1)
    if int(counts.min()) != int(counts.max()):
        raise UserError("collect needs equally many numbers of each text.")
    return rows[chosen].reshape(len(rows), -1)


def inputs_of(units: Iterable[Unit], inputs: dict[str, Tensor]) -> dict[str, Read]:
    """Reads that put the module inputs which some units take into ``inputs``, by tap."""

    def keeping(name: str) -> Callable[[Tensor], Tensor]:
        def keep(value: Tensor) -> Tensor:
            inputs[name] = value
            return nothing(value)

        return keep

    return {unit.inner: keeping(unit.inner) for unit in units if unit.inner}
