"""Alignment: rotations are trained until exchanging a part of a model's activations does what exchanging a variable would do.

Interchange intervention accuracy is the share of held-out pairs on which the model then answers as the causal model says
(Geiger et al. 2021; 2023). Beside it stand what a random basis of the same form reaches, what exchanging all of the place
reaches, and how often the answer is right with nothing exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from layerwise.activations.store import Store
from layerwise.interventions.alignment.config import Method, Training
from layerwise.interventions.alignment.counterfactuals import Counterfactuals
from layerwise.interventions.alignment.grid import Means, Side, acting_alone, group_plans
from layerwise.interventions.alignment.hypotheses import Hypothesis, plan_of
from layerwise.interventions.alignment.stacked import Stack
from layerwise.interventions.alignment.stored import part_of
from layerwise.interventions.alignment.tasks import AlignmentTask
from layerwise.interventions.alignment.training import answers_of_stack, frozen, train_stack
from layerwise.interventions.intervened import Intervened
from layerwise.interventions.operations.rotations import BoundlessSwap, MaskedSwap
from layerwise.interventions.prompts import Prompts
from layerwise.models.batch import budget_of

MEMORY = 2**30  # bytes of bases' residuals, keys and values that are kept; without room they are made again
RANDOM_SEED = 7919  # added to the seed of a basis for the random one it is set beside


@dataclass(frozen=True, eq=False)
class Aligned:
    """One hypothesis, judged on n held-out pairs.

    right: (n,) whether the answer is the causal model's. control: the same in a random basis of the same form; None where the
    basis is the model's own. whole: with all of the place exchanged; None where several variables share it.
    alone: place by place, where there are several. losses: (steps,) of the training. plan: the trained plan over the model.
    """

    hypothesis: Hypothesis
    plan: Intervened
    right: np.ndarray
    control: np.ndarray | None
    whole: np.ndarray | None
    alone: tuple[np.ndarray, ...]
    losses: np.ndarray

    @property
    def accuracy(self) -> float:
        """Interchange intervention accuracy."""
        return float(self.right.mean())

    @property
    def shares(self) -> list[np.ndarray]:
        """Of boundaries and masks: (width,) how much of each number of the basis is exchanged, place by place; of others none."""
        operations = self.plan.operations.values()
        return [one.share().detach().cpu().numpy() for one in operations if isinstance(one, BoundlessSwap | MaskedSwap)]

    @property
    def bases(self) -> list[np.ndarray]:
        """(width, rank) the learned basis of each place; none where the model's own is used."""
        found = [getattr(operation, "basis", None) for operation in self.plan.operations.values()]
        return [basis.weight.detach().cpu().numpy() for basis in found if basis is not None]


@dataclass(frozen=True, eq=False)
class Alignment:
    """A search for variables in a model: the task, how they are exchanged, and what may be used for it.

    method, size: as in the settings. token_budget: tokens of one forward; with more, more hypotheses are trained together.
    memory: bytes of residuals, keys and values that may be kept of the bases. store: where sources' activations are kept.
    """

    model: Any
    task: AlignmentTask
    method: Method = "low_rank"
    size: int = 1
    training: Training = field(default_factory=Training)
    seed: int = 0
    token_budget: int | None = None
    memory: int = MEMORY
    store: Store | None = None

    @property
    def means(self) -> Means:
        """The tokens of a forward, half of the memory for each side, and the store."""
        return Means(budget_of(self.model.device, self.token_budget), self.memory // 2, self.store)

    def plans(
        self, hypotheses: Sequence[Hypothesis], pairs: Counterfactuals, method: Method | None, seed: int
    ) -> list[Intervened]:
        """A plan over the model for each hypothesis, untrained. Raises UserError for what does not fit the model."""
        temperature, example = self.training.temperature[0], self._example(pairs)
        return [
            Intervened(self.model, plan_of(one, method, self.size, seed, temperature=temperature), example=example)
            for one in hypotheses
        ]

    def search(
        self,
        hypotheses: Sequence[Hypothesis],
        train: Counterfactuals,
        held_out: Counterfactuals,
        done: Callable[[int], None] = lambda pairs: None,
    ) -> Iterator[tuple[int, Aligned]]:
        """Train every hypothesis and judge it, with its number, group by group of those that run together.

        hypotheses: of the variables that the counterfactuals exchange. done: is told how many pairs each batch has finished.
        Raises UserError for sites the model lacks, positions a text lacks, and sizes beyond a place's width.
        """
        plans = self.plans(hypotheses, train, self.method, self.seed)
        fitting, judging = (Side.of(self.model, self.task, pairs, plans, self.means) for pairs in (train, held_out))
        with frozen(self.model.module):
            for group in group_plans(plans, fitting.bases, self.training.batch_size, self.means.token_budget):
                stack = Stack([plans[number] for number in group.numbers])
                losses = train_stack(
                    stack,
                    fitting.bases,
                    fitting.cells(stack),
                    fitting.right,
                    group.layer,
                    self.training,
                    self.seed,
                    done,
                )
                chosen = [hypotheses[number] for number in group.numbers]
                judged = self._judged(chosen, stack, judging, group.layer, held_out, losses)
                yield from zip(group.numbers, judged, strict=True)

    def judge(
        self, hypotheses: Sequence[Hypothesis], plans: Sequence[Intervened], held_out: Counterfactuals
    ) -> Iterator[tuple[int, Aligned]]:
        """Judge plans as they are."""
        judging = Side.of(self.model, self.task, held_out, plans, self.means)
        with frozen(self.model.module):
            for group in group_plans(plans, judging.bases, 1, self.means.token_budget):
                stack = Stack([plans[number] for number in group.numbers])
                chosen, nothing = [hypotheses[number] for number in group.numbers], np.zeros((0, len(group.numbers)))
                judged = self._judged(chosen, stack, judging, group.layer, held_out, nothing)
                yield from zip(group.numbers, judged, strict=True)

    def _judged(
        self,
        hypotheses: list[Hypothesis],
        stack: Stack,
        side: Side,
        layer: int,
        pairs: Counterfactuals,
        losses: np.ndarray,
    ) -> list[Aligned]:
        cells = side.cells(stack)
        tokens = len(stack.plans) * side.bases.cost(layer, cells.first)
        batch = max(1, self.means.token_budget // tokens)

        def right(stack: Stack, cells: Any) -> np.ndarray:
            answers = answers_of_stack(stack, side.bases, cells, layer, batch)
            return (answers == side.right).cpu().numpy()

        found = right(stack, cells)
        control = None
        if self.method != "interchange":
            random = self.plans(hypotheses, pairs, self.method, self.seed + RANDOM_SEED)
            for plan, other in zip(stack.plans, random, strict=True):
                _take_shares(plan, other)
            control = right(Stack(random), cells)
        whole = None
        if len(hypotheses[0].variables) == 1:
            whole = right(Stack(self.plans(hypotheses, pairs, None, self.seed)), cells)
        places = len(hypotheses[0].places)
        alone = [right(stack, acting_alone(stack, cells, place)) for place in range(places)] if places > 1 else []
        return [
            Aligned(
                hypothesis, stack.plans[k], found[k], None if control is None else control[k], None if whole is None else whole[k],
                tuple(part[k] for part in alone), losses[:, k],
            )
            for k, hypothesis in enumerate(hypotheses)
        ]  # fmt: skip

    def _example(self, pairs: Counterfactuals) -> Prompts:
        settings = pairs.base[:2]
        return part_of(self.task.encode(self.model, settings), torch.arange(len(settings), device=self.model.device))


@torch.no_grad()
def _take_shares(plan: Intervened, random: Intervened) -> None:
    """As much is exchanged in the random basis as in the plan's own; of a mask without a basis, other numbers."""
    for key, own in plan.operations.items():
        other = random.operations[key]
        if isinstance(own, BoundlessSwap) and isinstance(other, BoundlessSwap):
            other.temperature.copy_(own.temperature)
            other.boundary.copy_(own.boundary)
        elif isinstance(own, MaskedSwap) and isinstance(other, MaskedSwap):
            other.temperature.copy_(own.temperature)
            order = torch.randperm(len(own.mask), generator=torch.Generator().manual_seed(0))
            other.mask.copy_(own.mask[order.to(own.mask.device)])
