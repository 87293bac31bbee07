"""Alignment: rotations are trained until exchanging a part of a model's activations does what exchanging a variable would do.

Interchange intervention accuracy is the share of held-out pairs on which the model then answers as the causal model says
(Geiger et al. 2021; 2023). Beside it stand what a random basis of the same form reaches, what exchanging all of the place
reaches, and how often the answer is right with nothing exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerwise.activations.store import Store
from layerwise.interventions.alignment.config import Method, Training
from layerwise.interventions.alignment.counterfactuals import Counterfactuals
from layerwise.interventions.alignment.hypotheses import Hypothesis, lay_over, plan_of
from layerwise.interventions.alignment.stacked import Cells, Stack, form
from layerwise.interventions.alignment.stored import Bases, collect_sources, columns_of, make_bases, part_of
from layerwise.interventions.alignment.tasks import AlignmentTask, classes
from layerwise.interventions.alignment.training import answers_of_stack, frozen, train_stack
from layerwise.interventions.intervened import Intervened
from layerwise.interventions.operations.rotations import BoundlessSwap, MaskedSwap, RotatedSwap
from layerwise.models.batch import budget_of

MEMORY = 2**30  # bytes of bases' residuals, keys and values that are kept; without room they are made again


@dataclass(frozen=True, eq=False)
class Aligned:
    """One hypothesis, trained and judged on n held-out pairs.

    right: (n,) whether the answer is the causal model's. control: the same in a random basis of the same form. whole: with all of the
    place exchanged; None where several variables share it. alone: place by place, where there are several.
    losses: (steps,). plan: the trained plan over the model.
    """

    hypothesis: Hypothesis
    plan: Intervened
    right: np.ndarray
    control: np.ndarray
    whole: np.ndarray | None
    alone: tuple[np.ndarray, ...]
    losses: np.ndarray

    @property
    def accuracy(self) -> float:
        """Interchange intervention accuracy."""
        return float(self.right.mean())

    @property
    def shares(self) -> list[np.ndarray] | None:
        """Of boundaries and masks: (width,) how much of each number of the basis is exchanged, place by place."""
        operations = [operation for operation in self.plan.operations.values()]
        if not all(isinstance(operation, BoundlessSwap | MaskedSwap) for operation in operations):
            return None
        return [operation.share().detach().cpu().numpy() for operation in operations]  # type: ignore[operator]

    @property
    def bases(self) -> list[np.ndarray] | None:
        """(width, rank) the learned basis of each place; None where the model's own is used."""
        found = [getattr(operation, "basis", None) for operation in self.plan.operations.values()]
        if any(basis is None for basis in found):
            return None
        return [basis.weight.detach().cpu().numpy() for basis in found]


@dataclass(frozen=True, eq=False)
class _Side:
    """Pairs of one side (training or held out) as the model meets them."""

    bases: Bases
    sources: dict[str, dict[tuple[str, str], Tensor]]
    active: dict[str, Tensor]
    right: Tensor


@dataclass(frozen=True, eq=False)
class _Group:
    """Plans that are trained together from one block on: their numbers in the list of hypotheses."""

    numbers: list[int]
    layer: int
    column: int


def align(
    model: Any,
    task: AlignmentTask,
    hypotheses: Sequence[Hypothesis],
    train: Counterfactuals,
    held_out: Counterfactuals,
    *,
    method: Method = "low_rank",
    size: int = 1,
    training: Training | None = None,
    seed: int = 0,
    store: Store | None = None,
    token_budget: int | None = None,
    memory: int = MEMORY,
    done: Callable[[int], None] = lambda pairs: None,
) -> Iterator[list[Aligned]]:
    """Train every hypothesis and judge it, group by group of those that run together.

    Args:
        hypotheses: all of the variables that the counterfactuals exchange.
        store: where sources' activations are looked for and kept.
        token_budget: tokens of one forward; more hypotheses are trained together.
        memory: bytes of residuals, keys and values that may be kept of the bases.
        done: is told how many pairs each batch has finished.

    Raises UserError for sites the model lacks, positions a text lacks, and sizes beyond a place's width.
    """
    training = training or Training()
    budget = budget_of(model.device, token_budget)
    example = part_of(task.encode(model, held_out.base[:2]), torch.arange(2, device=model.device))
    plans = [
        lay_over(model, one, plan_of(one, method, size, seed, temperature=training.temperature[0]), example, size)
        for one in hypotheses
    ]
    wanted = list(
        {
            (str(unit.read), str(unit.step.positions)): (unit.read, str(unit.step.positions))
            for plan in plans
            for unit in plan.units
        }.values()
    )
    sides = [
        _Side(
            make_bases(model, task, pairs.base, memory=memory // 2, token_budget=budget),
            {
                name: collect_sources(model, task, pairs.sources[name], wanted, token_budget=budget, store=store)
                for name in pairs.variables
            },
            {
                name: torch.tensor([name in swapped for swapped in pairs.swapped], device=model.device)
                for name in pairs.variables
            },
            classes(task, pairs.answers).to(model.device),
        )
        for pairs in (train, held_out)
    ]  # fmt: skip
    with frozen(model.module):
        for group in _groups(plans, sides[0], training.batch_size, budget):
            chosen = [plans[number] for number in group.numbers]
            yield _aligned(
                model, [hypotheses[number] for number in group.numbers], chosen, sides, group, method, size, training, seed,
                example, budget, done,
            )  # fmt: skip


def _aligned(
    model: Any, hypotheses: list[Hypothesis], plans: list[Intervened], sides: list[_Side], group: _Group, method: Method,
    size: int, training: Training, seed: int, example: Any, budget: int, done: Callable[[int], None],
) -> list[Aligned]:  # fmt: skip
    fitting, judging = sides
    stack = Stack(plans)
    cells = _cells(stack, fitting)
    losses = train_stack(stack, fitting.bases, cells, fitting.right, group.layer, training, seed, done)
    cells = _cells(stack, judging)
    batch = max(1, budget // (len(plans) * judging.bases.cost(group.layer, cells.first)))

    def right(stack: Stack, cells: Cells) -> np.ndarray:
        answers = answers_of_stack(stack, judging.bases, cells, group.layer, batch)
        return (answers == judging.right).cpu().numpy()

    def laid(method: Method | None, seed: int) -> list[Intervened]:
        return [lay_over(model, one, plan_of(one, method, size, seed), example, size) for one in hypotheses]

    found = right(stack, cells)
    random = Stack([_as_random(plan, other) for plan, other in zip(plans, laid(method, seed + 7919), strict=True)])
    control = right(random, cells)
    single = len(hypotheses[0].variables) == 1
    whole = right(Stack(laid(None, seed)), cells) if single else None
    places = len(hypotheses[0].places)
    alone = [right(stack, _only(stack, cells, place)) for place in range(places)] if places > 1 else []
    return [
        Aligned(
            hypothesis, plan, found[k], control[k], None if whole is None else whole[k], tuple(part[k] for part in alone), losses[:, k]
        )
        for k, (hypothesis, plan) in enumerate(zip(hypotheses, plans, strict=True))
    ]  # fmt: skip


def _groups(plans: Sequence[Intervened], side: _Side, batch_size: int, budget: int) -> Iterable[_Group]:
    """Plans of one form that begin at one block, near enough in their columns that few tokens run in vain."""
    found: list[_Group] = []
    begins = []
    for number, plan in enumerate(plans):
        starts = [side.bases.start(unit.place.site) for unit in plan.units]
        column = min(int(columns_of(side.bases.prompts, str(unit.step.positions)).min()) for unit in plan.units)
        begins.append((min(layer for _, layer in starts), -column, repr(form(plan)), number))
    forms: dict[tuple[int, str], _Group] = {}
    for layer, column, kind, number in sorted(begins):
        key, cost = (layer, kind), side.bases.cost(layer, -column)
        group = forms.get(key)
        near = group is not None and cost <= 2 * side.bases.cost(layer, group.column)
        if group is None or not near or (len(group.numbers) + 1) * batch_size * cost > budget:
            forms[key] = group = _Group([], layer, -column)
            found.append(group)
        group.numbers.append(number)
    return found


def _cells(stack: Stack, side: _Side) -> Cells:
    columns, values, active = [], [], []
    for units in stack.units:
        columns.append(torch.stack([columns_of(side.bases.prompts, str(unit.step.positions)) for unit in units]))
        source = side.sources[units[0].step.source]
        values.append(torch.stack([source[str(unit.read), str(unit.step.positions)] for unit in units]))
        active.append(side.active[units[0].step.source])
    return Cells(columns, values, active)


def _only(stack: Stack, cells: Cells, place: int) -> Cells:
    """The cells with one place acting alone."""
    keys = list(dict.fromkeys(units[0].key for units in stack.units))
    active = [
        part if units[0].key == keys[place] else torch.zeros_like(part)
        for part, units in zip(cells.active, stack.units, strict=True)
    ]
    return Cells(cells.columns, cells.values, active)


@torch.no_grad()
def _as_random(plan: Intervened, other: Intervened) -> Intervened:
    """``other``, whose bases are random, with as much exchanged as in ``plan``."""
    for key, operation in plan.operations.items():
        random = other.operations[key]
        if isinstance(operation, BoundlessSwap | MaskedSwap) and isinstance(random, BoundlessSwap | MaskedSwap):
            random.temperature.copy_(operation.temperature)
        if isinstance(operation, BoundlessSwap) and isinstance(random, BoundlessSwap):
            random.boundary.copy_(operation.boundary)
        if isinstance(operation, MaskedSwap) and isinstance(random, MaskedSwap):
            order = torch.randperm(len(operation.mask), generator=torch.Generator().manual_seed(0))
            random.mask.copy_(operation.mask[order.to(operation.mask.device)])
        assert isinstance(operation, BoundlessSwap | MaskedSwap | RotatedSwap)
    return other
