"""A grid of plans on one set of pairs: what the model's runs left of them, and which plans run together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layerwise.activations.store import Store
from layerwise.interventions.alignment.counterfactuals import Counterfactuals
from layerwise.interventions.alignment.stacked import Cells, Stack, form
from layerwise.interventions.alignment.stored import Bases, collect_sources, columns_of, make_bases
from layerwise.interventions.alignment.tasks import AlignmentTask, classes
from layerwise.interventions.intervened import Intervened


@dataclass(frozen=True)
class Means:
    """What may be used: tokens of one forward, bytes of bases kept, the store."""

    token_budget: int
    memory: int
    store: Store | None = None


@dataclass(frozen=True, eq=False)
class Side:
    """n pairs, for training or held out, as the model meets them.

    sources: by variable, then by place and positions, (n, count, width). active: by variable, (n,) whether it is exchanged.
    right: (n,) the number of the right answer.
    """

    bases: Bases
    sources: dict[str, dict[tuple[str, str], Tensor]]
    active: dict[str, Tensor]
    right: Tensor

    @classmethod
    def of(
        cls, model: Any, task: AlignmentTask, pairs: Counterfactuals, plans: Sequence[Intervened], means: Means
    ) -> Side:
        """Run the bases once and each source once, and keep what all the plans need."""
        units = [unit for plan in plans for unit in plan.units]
        wanted = list(
            {
                (str(unit.read), str(unit.step.positions)): (unit.read, str(unit.step.positions)) for unit in units
            }.values()
        )
        return cls(
            make_bases(model, task, pairs.base, memory=means.memory, token_budget=means.token_budget),
            {
                name: collect_sources(
                    model, task, pairs.sources[name], wanted, token_budget=means.token_budget, store=means.store
                )
                for name in pairs.variables
            },
            {
                name: torch.tensor([name in swapped for swapped in pairs.swapped], device=model.device)
                for name in pairs.variables
            },
            classes(task, pairs.answers).to(model.device),
        )  # fmt: skip

    def cells(self, stack: Stack) -> Cells:
        """Where the plans of a stack act on these pairs, and with what."""
        columns, values, active = [], [], []
        for units in stack.units:
            columns.append(torch.stack([columns_of(self.bases.prompts, str(unit.step.positions)) for unit in units]))
            source = self.sources[units[0].step.source]
            values.append(torch.stack([source[str(unit.read), str(unit.step.positions)] for unit in units]))
            active.append(self.active[units[0].step.source])
        return Cells(columns, values, active)


@dataclass(frozen=True, eq=False)
class Group:
    """Plans that run together from one block on: their numbers in the list of all."""

    numbers: list[int]
    layer: int
    column: int


def group_plans(plans: Sequence[Intervened], bases: Bases, batch_size: int, token_budget: int) -> list[Group]:
    """Plans of one form that begin at one block, near enough in their columns that few tokens run in vain."""
    found: list[Group] = []
    begins = []
    for number, plan in enumerate(plans):
        layer = min(bases.start(unit.place.site)[1] for unit in plan.units)
        column = min(int(columns_of(bases.prompts, str(unit.step.positions)).min()) for unit in plan.units)
        begins.append((layer, -column, repr(form(plan)), number))
    latest: dict[tuple[int, str], Group] = {}
    for layer, column, kind, number in sorted(begins):
        cost, group = bases.cost(layer, -column), latest.get((layer, kind))
        near = group is not None and cost <= 2 * bases.cost(layer, group.column)
        if group is None or not near or (len(group.numbers) + 1) * batch_size * cost > token_budget:
            latest[layer, kind] = group = Group([], layer, -column)
            found.append(group)
        group.numbers.append(number)
    return found


def acting_alone(stack: Stack, cells: Cells, place: int) -> Cells:
    """The cells with one place of each plan acting, the others left as they are."""
    keys = list(dict.fromkeys(units[0].key for units in stack.units))
    active = [
        part if units[0].key == keys[place] else torch.zeros_like(part)
        for part, units in zip(cells.active, stack.units, strict=True)
    ]
    return Cells(cells.columns, cells.values, active)
