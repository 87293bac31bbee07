"""Running: a plan's sources in their order, and from them what is to be done to the base.

Every run has its own texts, mask and positions. Sources whose values nobody trains through run without gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layerwise.errors import UserError, nearest
from layerwise.interventions.acting import Act, Source, Writer, inputs_of
from layerwise.interventions.cells import Cells, find_cells, has_tokens, seen, take
from layerwise.interventions.operations.ablation import ResampleAblation
from layerwise.interventions.operations.swaps import Kept
from layerwise.interventions.plan import BASE, When
from layerwise.interventions.positions import PerText, Positions
from layerwise.interventions.prompts import Prompts, as_prompts
from layerwise.interventions.units import Place, Unit, chosen_numbers, unknown_step
from layerwise.models.batch import Batch
from layerwise.models.taps import Read, Write, nothing, run

Run = Prompts | Batch | Sequence[str]
Given = Run | Tensor | Mapping[str, Tensor] | None  # of a source: a run, stored values, those by step, or left out
Located = str | int | PerText


@dataclass(frozen=True, eq=False)
class Request:
    """What one call asks for.

    sources: by run; None leaves the run's steps out. positions: by step, ``{"base": …, "source": …}`` or what both use.
    subspaces: by step, numbers of the operation's space (or parts of its partition), one list or one per text.
    """

    base: Prompts
    sources: Mapping[str, Given]
    positions: Mapping[str, Any]
    subspaces: Mapping[str, Any]
    generates: bool = False
    train_model: bool = False
    measure: bool = False


@dataclass(frozen=True, eq=False)
class Taps:
    """What the engine is asked for in one run: ``reads`` and ``writes`` by site, and the acts behind them."""

    reads: dict[str, Read]
    writes: dict[str, Write]
    acts: list[Act]


class Running:
    """One call's runs: sources run when their values are first asked for, each once."""

    def __init__(self, model: Any, units: list[Unit], order: list[str], request: Request) -> None:
        self.model, self.request = model, request
        self.plain = not model.sites.stacks
        self.runs: dict[str, Prompts] = {BASE: request.base}
        self.stored: dict[str, Tensor | Mapping[str, Tensor]] = {}
        self._sort_sources(order)
        left_out = set(order) - set(self.runs) - set(self.stored)
        self.units = [unit for unit in units if unit.step.source not in left_out and unit.step.into not in left_out]
        for what, named in (("positions", request.positions), ("subspaces", request.subspaces)):
            for name in named:
                if name not in {unit.step.name for unit in units}:
                    raise unknown_step(name, units, what)
        self.acts: list[Act] = []
        self._values: dict[tuple[str, Unit], Source] = {}
        self._found: dict[tuple[str, str, bool], Cells] = {}
        for name in [source for source in order if source in self.runs]:
            self._run_source(name)
        if any(unit.step.source == BASE for unit in self.units):
            self._run_source(BASE)

    def base(self) -> Taps:
        """What is done to the base."""
        return self._taps(BASE)

    def _sort_sources(self, order: list[str]) -> None:
        for name in self.request.sources:
            if name not in order:
                raise UserError(
                    f"the plan has no source {name!r}.{nearest(name, order)}\nIt has: {', '.join(order) or 'none'}."
                )
        for name in order:
            if name not in self.request.sources:
                raise UserError(
                    f"the plan reads from {name!r}: give sources={{{name!r}: …}}, or None to leave its steps out."
                )
            given = self.request.sources[name]
            if isinstance(given, Tensor) or (isinstance(given, Mapping) and not isinstance(given, Prompts)):
                self.stored[name] = given
            elif given is not None:
                self.runs[name] = as_prompts(self.model, given)
                n, own = len(self.request.base), len(self.runs[name])
                if own not in (1, n):
                    raise UserError(
                        f"the source {name!r} has {own} texts and the base {n}: give as many, or one for all."
                    )

    def _run_source(self, name: str) -> None:
        """Run a source, with what is written into it, as far as its last value that is wanted."""
        prompts = self.runs[name]
        wanted = [unit for unit in self.units if unit.step.source == name]
        taps = self._taps(name) if name != BASE else Taps({}, {}, [])
        trains = self.request.train_model or any(
            any(parameter.requires_grad for parameter in act.unit.operation.parameters())
            or (act.source is not None and act.source.rows.requires_grad)
            for act in taps.acts
        )
        by_site: dict[str, list[tuple[Unit, Cells]]] = {}
        for unit in wanted:
            by_site.setdefault(unit.read.site, []).append((unit, self._cells(unit, name, reading=True)))
        # A pass ends with its last read, so what a step keeps is asked for too.
        reads = {act.unit.place.site: nothing for act in taps.acts if isinstance(act.unit.operation, Kept)} | taps.reads
        for site, asked in by_site.items():
            reads[site] = self._reader(site, asked, name, len(prompts), taps.reads.get(site))
        run(self.model, prompts.batch, reads, taps.writes, grad=trains and torch.is_grad_enabled())

    def _reader(self, site: str, asked: list[tuple[Unit, Cells]], name: str, n: int, also: Read) -> Read:
        """A read that keeps the rows that units ask for at one site."""

        def read(value: Tensor) -> Tensor:
            if also is not None:
                also(value)
            for unit, cells in asked:
                self._values[name, unit] = self._repeated(taken(value, unit.read, cells, self._tokens(name)), n)
            return nothing(value)

        return read

    def _repeated(self, source: Source, n: int) -> Source:
        """The values of one text for all texts of the base."""
        wanted = len(self.request.base)
        if n == wanted:
            return source
        return Source(source.rows.repeat(wanted, 1), source.counts * wanted)

    def _tokens(self, name: str) -> int | None:
        return self.runs[name].batch.mask.shape[1] if self.plain else None

    def _cells(self, unit: Unit, name: str, *, reading: bool) -> Cells:
        step = unit.step
        said: Located = step.source_positions if reading and step.source_positions != "" else step.positions
        given = self.request.positions.get(step.name)
        if isinstance(given, Mapping):
            odd = set(given) - {"base", "source"}
            if odd:
                raise UserError(f"positions of {step.name} are of its 'base' and its 'source', got {odd.pop()!r}.")
            given = given.get("source" if reading else "base")
        if given is not None:
            said = given
        prompts = self.runs[name]
        decoder = self.request.generates and name == BASE and not reading and self._is_decoder(unit.place)
        if decoder:
            mask = torch.ones(len(prompts), 1, dtype=torch.bool, device=prompts.batch.mask.device)
            prompts = Prompts(Batch({}, mask, mask.sum(1)))
        if not isinstance(said, (str, int)):
            return find_cells(said, prompts, step.name)
        key = (name, str(said), decoder)
        if key not in self._found:  # the same for all the sites of a step
            self._found[key] = find_cells(Positions(str(said)), prompts, step.name)
        return self._found[key]

    def _is_decoder(self, place: Place) -> bool:
        stacks = self.model.sites.stacks
        return "decoder." in stacks and self.model.sites.stack_of(place.site).prefix == "decoder."

    def _taps(self, name: str) -> Taps:
        """What is done to a run, from the values of the runs before it."""
        prompts = self.runs[name]
        acts = [self._act(unit, name) for unit in self.units if unit.step.into == name]
        by_site: dict[str, list[Act]] = {}
        for act in acts:
            by_site.setdefault(act.unit.place.site, []).append(act)
        inputs: dict[str, Tensor] = {}
        writes: dict[str, Write] = {}
        for site, there in by_site.items():
            _check_conflicts(there)
            length = prompts.batch.mask.shape[1]
            if self.request.generates and name == BASE and self._is_decoder(there[0].unit.place):
                length = 1
            writes[site] = Writer(there, len(prompts), length, inputs, plain=self.plain, measure=self.request.measure)
        self.acts += acts
        return Taps(inputs_of((act.unit for act in acts), inputs), writes, acts)

    def _act(self, unit: Unit, name: str) -> Act:
        step, n = unit.step, len(self.runs[name])
        when = When(str(step.when))
        if not self.request.generates and not when.on_prompt:
            raise UserError(
                f"{step.name} acts on new tokens only (when: {step.when}), and here none are made: say when: prompt or every, or generate."
            )
        cells = self._cells(unit, name, reading=False) if when.on_prompt else None
        source = self._source(unit, n) if step.source else None
        chosen = chosen_numbers(unit, self.request.subspaces.get(step.name), n)
        device = self.runs[name].batch.mask.device
        return Act(unit, when, cells, source, None if chosen is None else chosen.to(device))

    def _source(self, unit: Unit, n: int) -> Source:
        stored = self.stored.get(unit.step.source)
        if stored is None:
            source = self._values[unit.step.source, unit]
        else:
            source = _given_values(unit, stored, n)
        if isinstance(unit.operation, ResampleAblation):
            donors = unit.operation.donors(n).tolist()
            groups = source.rows.split(source.counts)
            source = Source(torch.cat([groups[donor] for donor in donors]), [source.counts[donor] for donor in donors])
        return source


def taken(value: Tensor, place: Place, cells: Cells, tokens: int | None) -> Source:
    """The rows of a place at some cells."""
    if place.head_axis == 2 and not has_tokens(value, tokens):
        if not cells.whole:
            raise UserError(
                f"{place} has no axis of tokens, its shape is {tuple(value.shape)}: leave out the positions."
            )
        return Source(value.flatten(1), [1] * len(value))
    tensor = seen(value, place.head_axis, tokens)
    return Source(take(tensor, cells.example, cells.column, place.heads), cells.counts)


def _given_values(unit: Unit, stored: Tensor | Mapping[str, Tensor], n: int) -> Source:
    """Stored values: (width,) for all, (n, width) for each text, or (n, tokens, width)."""
    step = unit.step.name
    if isinstance(stored, Mapping):
        if step not in stored:
            raise UserError(f"the source {unit.step.source!r} holds no values for {step}; it has: {', '.join(stored)}.")
        stored = stored[step]
    if stored.dim() == 1:
        return Source(stored.expand(n, -1), [1] * n)
    if stored.dim() not in (2, 3) or len(stored) != n:
        raise UserError(
            f"{step}: stored values are (width,), ({n}, width) or ({n}, tokens, width) for {n} texts, got {tuple(stored.shape)}."
        )
    rows = stored if stored.dim() == 2 else stored.flatten(0, 1)
    return Source(rows, [len(rows) // n] * n)


def _check_conflicts(acts: list[Act]) -> None:
    """Raises UserError where a later step leaves nothing of what an earlier one wrote at the same place."""
    writing = [act for act in acts if not isinstance(act.unit.operation, Kept)]
    for number, later in enumerate(writing):
        for earlier in writing[:number]:
            if later.unit.operation.replaces and _overlap(earlier, later):
                raise UserError(
                    f"{later.unit.step.name} overwrites what {earlier.unit.step.name} wrote at {later.unit.place}.\n"
                    "Give them other positions, heads or dims, or leave one out."
                )


def _overlap(one: Act, other: Act) -> bool:
    if one.unit.place.heads and other.unit.place.heads and not set(one.unit.place.heads) & set(other.unit.place.heads):
        return False
    if (
        one.chosen is not None
        and other.chosen is not None
        and one.chosen.shape == other.chosen.shape
        and not bool((one.chosen & other.chosen).any())
    ):
        return False
    tokens = range(1, 257)  # numbers of new tokens a plan may tell apart
    if any(one.when.on_token(token) and other.when.on_token(token) for token in tokens):
        return True
    if one.cells is None or other.cells is None:
        return False
    pairs = [
        set(zip(act.cells.example.tolist(), act.cells.column.tolist(), strict=True))
        for act in (one, other)
        if act.cells
    ]
    return bool(pairs[0] & pairs[1])
