"""Plans of one form carried out side by side: their operations stacked, so that one batch trains all of them.

Row c·n + i of a batch is text i under plan c. Operations of a stack share nothing, so each is trained as it would be alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from layerwise.interventions.cells import seen, unseen
from layerwise.interventions.intervened import Intervened
from layerwise.interventions.operations.base import Operation, Row
from layerwise.interventions.plan import parse_numbers
from layerwise.interventions.units import Unit
from layerwise.models.taps import Write


def form(plan: Intervened) -> tuple[Any, ...]:
    """What plans must have in common to be stacked: sites, operations but for their seeds, widths, sources, shared weights."""
    keys = list(dict.fromkeys(unit.key for unit in plan.units))
    return tuple(
        (
            unit.place.site, len(unit.place.heads or ()), type(unit.operation), unit.operation.size, unit.operation.width,
            unit.step.source, str(unit.step.dims), unit.step.joined, keys.index(unit.key),
        )
        for unit in plan.units
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Cells:
    """Where the k plans act in n texts, and what they put there, unit by unit.

    columns: (k, n, positions) of each unit. values: (k, n, positions, width) of its source. active: (n,) whether it acts.
    """

    columns: list[Tensor]
    values: list[Tensor]
    active: list[Tensor]

    def rows(self, chosen: Tensor) -> Cells:
        """Some of the texts."""
        return Cells(
            [part[:, chosen] for part in self.columns],
            [part[:, chosen] for part in self.values],
            [part[chosen] for part in self.active],
        )

    @property
    def first(self) -> int:
        """The first column that any of them writes."""
        return min(int(part.min()) for part in self.columns)


class _Penalised(nn.Module):
    """An operation that says its penalty beside its rows."""

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, base: Tensor, row: Row) -> tuple[Tensor, Tensor]:
        penalty = self.operation.penalty()
        return self.operation(base, row), base.new_zeros(()) if penalty is None else penalty


@dataclass(eq=False)
class _Stacked:
    """Operations of one kind, their parameters and buffers stacked: (k, …) each."""

    template: nn.Module
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]


@dataclass(eq=False)
class Stack:
    """Plans of one form. ``parameters`` are what an optimizer trains; ``restore`` puts them back into the plans.

    penalties: (k,) what the operations ask to be kept small, of the latest forward.
    """

    plans: Sequence[Intervened]
    units: list[tuple[Unit, ...]] = field(init=False)
    penalties: dict[str, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.units = list(zip(*(plan.units for plan in self.plans), strict=True))
        self._stacked: dict[str, _Stacked] = {}
        for units in self.units:
            if units[0].key not in self._stacked:
                modules = [_Penalised(unit.operation) for unit in units]
                self._stacked[units[0].key] = _Stacked(modules[0], *stack_module_state(modules))

    @property
    def parameters(self) -> list[Tensor]:
        return [tensor for stacked in self._stacked.values() for tensor in stacked.parameters.values()]

    def set_temperature(self, temperature: float) -> None:
        """The temperature of every operation that has one."""
        for stacked in self._stacked.values():
            for name, buffer in stacked.buffers.items():
                if name.endswith("temperature"):
                    buffer.fill_(temperature)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the stacked parameters and buffers into the plans' own operations."""
        for key, stacked in self._stacked.items():
            for number in range(len(self.plans)):
                own = next(units[number] for units in self.units if units[0].key == key).operation
                state = {**dict(own.named_parameters()), **dict(own.named_buffers())}
                for name, tensor in {**stacked.parameters, **stacked.buffers}.items():
                    state[name.removeprefix("operation.")].copy_(tensor[number])

    def writes(self, cells: Cells, length: int, names: Mapping[str, str], tokens: int | None) -> dict[str, Write]:
        """The taps' writes for a batch of texts ``length`` columns long, of which the last ones may run alone.

        names: by site, the site to write in its place. tokens: as in :func:`cells.seen`.
        """
        self.penalties = {}
        by_site: dict[str, list[int]] = {}
        for number, units in enumerate(self.units):
            by_site.setdefault(units[0].place.site, []).append(number)

        def writing(numbers: list[int]) -> Write:
            def write(value: Tensor) -> Tensor:
                axis = self.units[numbers[0]][0].place.head_axis
                tensor = seen(value, axis, tokens)
                for number in numbers:
                    tensor = self._written(tensor, number, cells, length)
                return unseen(tensor, axis, value)

            return write

        return {names.get(site, site): writing(numbers) for site, numbers in by_site.items()}

    def _written(self, tensor: Tensor, number: int, cells: Cells, length: int) -> Tensor:
        """(k·n, tokens, …) after unit ``number`` of every plan."""
        columns, values, active = cells.columns[number], cells.values[number], cells.active[number]
        k, n, positions = columns.shape
        device = tensor.device
        row = torch.arange(k * n, device=device)[:, None].expand(-1, positions)
        column = columns.reshape(k * n, positions)
        if tokens_before := length - tensor.shape[1]:
            column = column - tokens_before
        index: tuple[Tensor, ...] = (row, column)
        heads = [unit.place.heads for unit in self.units[number]]
        if heads[0] is not None:
            chosen = torch.tensor(heads, device=device).repeat_interleave(n, 0)[:, None]  # (k·n, 1, heads)
            index = (row[..., None], column[..., None], chosen)
        now = tensor[index]
        step = self.units[number][0].step
        shape = (k, n, -1) if step.joined else (k, n * positions, -1)
        new = self._operated(now.reshape(shape), values.reshape(shape), active, number, 1 if step.joined else positions)
        return tensor.index_put(index, new.reshape(now.shape))

    def _operated(self, base: Tensor, source: Tensor, active: Tensor, number: int, repeats: int) -> Tensor:
        """(k, rows, width) after the stacked operation; rows of texts that are not ``active`` stay as they are."""
        unit = self.units[number][0]
        stacked = self._stacked[unit.key]
        chosen = self._chosen(unit, active.repeat_interleave(repeats))
        nothing = torch.empty(0, device=base.device)

        def call(
            parameters: dict[str, Tensor], buffers: dict[str, Tensor], base: Tensor, source: Tensor
        ) -> tuple[Tensor, Tensor]:
            row = Row(nothing, nothing, source, None, chosen)
            return functional_call(stacked.template, (parameters, buffers), (base, row))

        new, penalty = vmap(call)(stacked.parameters, stacked.buffers, base, source)
        self.penalties[unit.key] = penalty
        return new

    def _chosen(self, unit: Unit, active: Tensor) -> Tensor | None:
        """(rows, size) True at the numbers that are acted on; None for all of them everywhere."""
        numbers = parse_numbers(str(unit.step.dims))
        if not numbers and bool(active.all()):
            return None
        size = unit.operation.size
        assert size is not None
        mask = torch.zeros(size, dtype=torch.bool, device=active.device)
        mask[numbers or slice(None)] = True
        return active[:, None] & mask
