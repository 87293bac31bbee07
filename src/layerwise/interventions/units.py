"""Units: a plan's steps on one model, one unit for each place a step acts at, with the operation that acts there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerwise.errors import UserError, nearest
from layerwise.interventions.cells import find_cells, seen
from layerwise.interventions.operations.base import Operation
from layerwise.interventions.operations.build import Given, build
from layerwise.interventions.plan import Plan, Step, parse_numbers
from layerwise.interventions.positions import Positions
from layerwise.interventions.prompts import Prompts
from layerwise.interventions.settings import Custom, LoRA, Skip
from layerwise.models.batch import Ids, make_batch
from layerwise.models.names import Site, parse_site
from layerwise.models.sites import SiteMap
from layerwise.models.taps import run


@dataclass(frozen=True, eq=False)
class Place:
    """One site's tensor, or some heads of it: ``site`` is what the taps take, ``head_axis`` where its heads are."""

    site: str
    heads: tuple[int, ...] | None
    head_axis: int

    def __str__(self) -> str:
        return self.site if self.heads is None else f"{self.site}.{'+'.join(map(str, self.heads))}"


@dataclass(frozen=True, eq=False)
class Unit:
    """One step at one place. ``inner``: the tap of the module's input, where the operation takes it."""

    step: Step
    place: Place
    read: Place
    key: str
    operation: Operation
    inner: str = ""


class Measure:
    """How wide places are: from the map of sites, or else seen in one forward over an example."""

    def __init__(self, model: Any, example: Prompts | None) -> None:
        self.model, self.example = model, example
        self.sites: SiteMap = model.sites

    def width(self, place: Place) -> int | None:
        """Numbers in one row of a place; None where no run has told."""
        whole = self.sites.width_of(place.site)
        if whole is None and place.head_axis == 2:
            whole = self.seen(place.site)
        if whole is None or place.heads is None:
            return whole
        return whole // self.sites.heads_of(parse_site(place.site).name) * len(place.heads)

    def seen(self, site: str) -> int | None:
        """Numbers a token has at a site in a forward over the example; None for a plain module without one."""
        if self.example is not None:
            batch = self.example.batch
        elif self.sites.stacks:
            batch = make_batch(self.model, Ids([np.array([1, 2, 3])]), [0])
        else:
            return None
        tokens = None if self.sites.stacks else batch.mask.shape[1]
        widths: list[int] = []

        def look(value: Tensor) -> Tensor:
            widths.append(seen(value, 2, tokens).flatten(2).shape[2])
            return torch.empty(0)

        run(self.model, batch, {site: look})
        return widths[0]

    def count(self, positions: str) -> int | None:
        """How many tokens of every text the positions mean; None where only the texts can tell."""
        if self.example is not None and positions != "each":
            counts = set(find_cells(Positions(positions), self.example, "the example").counts)
            return counts.pop() if len(counts) == 1 else None
        if positions in ("first", "last"):
            return 1
        try:
            return sum(
                1 if part.strip().startswith("-") else len(parse_numbers(part.strip())) for part in positions.split(",")
            )
        except UserError:
            return None


def make_units(
    plan: Plan,
    model: Any,
    *,
    given: Mapping[str, Given],
    example: Prompts | None,
    trust_code: bool,
    widths: Mapping[str, int | None] = MappingProxyType({}),
) -> list[Unit]:
    """The units of a plan on a model. Raises UserError for sites the model lacks and settings that do not fit its widths."""
    for name in given:
        plan.step(name)
    measure = Measure(model, example)
    shared: dict[str, Operation] = {}
    units = []
    for step in plan.steps:
        places = _places(step, step.sites, model.sites)
        reads = _places(step, step.read, model.sites) if step.read else places
        if len(reads) != len(places):
            raise UserError(f"{step.name} writes {len(places)} sites and reads {len(reads)}: name one for each.")
        for place, read in zip(places, reads, strict=True):
            key = step.weights or f"{step.name}@{str(place).replace('.', '-')}"
            needs_input = isinstance(step.operation, LoRA | Skip) or (
                isinstance(step.operation, Custom) and step.operation.input
            )
            inner = _inner(model.sites, place, step.name) if needs_input else ""
            if key not in shared:
                width = measure.width(place)
                if width is None or step.joined:
                    width = widths.get(key, width)
                if step.joined and width is not None and key not in widths:
                    count = measure.count(str(step.positions))
                    width = None if count is None else width * count
                inputs = measure.seen(inner) if isinstance(step.operation, LoRA) else None
                shared[key] = _built(step, width, inputs, given.get(step.name), trust_code)
            elif shared[key].settings != step.operation:
                raise UserError(f"steps share the weights {key!r} and differ in their operation.")
            elif shared[key].width not in (None, measure.width(place)) and not step.joined:
                raise UserError(
                    f"{step.name} shares the weights {key!r} of width {shared[key].width} with {place}, whose width is "
                    f"{measure.width(place)}."
                )
            units.append(Unit(step, place, read, key, shared[key], inner))
    return units


def _built(step: Step, width: int | None, inputs: int | None, given: Given | None, trust_code: bool) -> Operation:
    try:
        operation = build(step.operation, width, inputs=inputs, given=given, trust_code=trust_code)
    except UserError as error:
        raise UserError(f"{step.name}: {error}") from None
    whole, parts = operation.size, len(step.partition)
    _check_numbers(step, str(step.dims), parts or whole, "parts of its partition" if parts else "numbers")
    for text in step.partition:
        _check_numbers(step, str(text), whole, "numbers")
    return operation


def _check_numbers(step: Step, text: str, size: int | None, what: str) -> None:
    numbers = parse_numbers(text)
    if numbers and size is not None and max(numbers) >= size:
        raise UserError(f"{step.name}: dims {text} are beyond the {size} {what} of {step.operation.kind} at its site.")


def _places(step: Step, texts: tuple[str, ...], sites: SiteMap) -> list[Place]:
    """The places that sites mean: one per site and head, or with ``joined`` one per site with all its heads."""
    found: list[Place] = []
    for name in sites.expand(texts):
        site = parse_site(name)
        whole = str(Site(site.name, site.layer)) if not site.is_path else name
        axis = 2 if site.is_path else sites.port(Site(site.name, site.layer)).head_axis
        if site.head is None:
            found.append(Place(whole, None, axis))
        elif step.joined and found and found[-1].site == whole and found[-1].heads is not None:
            found[-1] = Place(whole, (*found[-1].heads, site.head), axis)
        else:
            found.append(Place(whole, (site.head,), axis))
    return found


def _inner(sites: SiteMap, place: Place, step: str) -> str:
    port = sites.port(parse_site(place.site))
    if port.side != "output" or not port.path:
        raise UserError(
            f"{step} takes a module's input, and {place.site} is no module's output.\n"
            "Sites that are: attn_out, mlp_out, resid_post, or a module's path with .output."
        )
    return f"{port.path}.input"


def numbers_per_text(unit: Unit, given: object, n: int) -> list[list[int]]:
    """Lists of numbers per text for a step's subspaces: one flat list is for all texts. Raises UserError where out of range."""
    rows: list[Any] = list(given) if isinstance(given, (list, tuple)) else [given]
    if all(isinstance(item, int) for item in rows):
        rows = [rows] * n
    if len(rows) != n:
        raise UserError(f"{unit.step.name}: subspaces for {len(rows)} texts, and there are {n}.")
    limit = len(unit.step.partition) or unit.operation.size
    for row in rows:
        for number in row:
            if limit is not None and not 0 <= number < limit:
                raise UserError(f"{unit.step.name}: subspace {number} is beyond the {limit} there are.")
    return rows


def chosen_numbers(unit: Unit, given: object, n: int) -> Tensor | None:
    """(n, size) True at the numbers each text's step acts on; None for all of them everywhere."""
    step, size = unit.step, unit.operation.size
    own = parse_numbers(str(step.dims))
    if given is None and not own:
        return None
    if size is None:
        raise UserError(f"{step.name}: dims need a site whose width is known beforehand.")
    parts = [parse_numbers(text) for text in map(str, step.partition)]
    mask = torch.zeros(n, size, dtype=torch.bool)
    for index, row in enumerate(numbers_per_text(unit, own if given is None else given, n)):
        for number in row:
            mask[index, parts[number] if parts else number] = True
    return mask


def unknown_step(name: str, units: list[Unit], what: str) -> UserError:
    """The error for run-time settings of a step that there is not."""
    names = list(dict.fromkeys(unit.step.name for unit in units))
    return UserError(
        f"{what} are given for {name!r}, which is no step.{nearest(name, names)}\nSteps: {', '.join(names)}."
    )
