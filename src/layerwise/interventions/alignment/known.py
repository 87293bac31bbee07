"""What a model answers to a task, and counterfactuals whose bases and sources it answers rightly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.alignment.causal_model import Setting
from layerwise.interventions.alignment.counterfactuals import Counterfactuals, draw_counterfactuals
from layerwise.interventions.alignment.stored import outputs_of, part_of, token_batches
from layerwise.interventions.alignment.tasks import AlignmentTask, classes
from layerwise.interventions.patching import last_columns
from layerwise.interventions.prompts import Prompts
from layerwise.models.batch import budget_of
from layerwise.models.model import LanguageModel
from layerwise.models.readout import Readout
from layerwise.models.taps import run

ROUNDS = 4  # times that as many pairs as are wanted are drawn


def scores_of(model: Any, prompts: Prompts, candidates: Tensor | None, *, grad: bool = False) -> Tensor:
    """(n, answers): what a network says to one batch; of a language model, the logits of the answers."""
    with torch.set_grad_enabled(grad):
        if not isinstance(model, LanguageModel):
            return outputs_of(model.module(**prompts.batch.inputs))
        readout, ends = Readout.of(model), last_columns(prompts.batch)
        rows = torch.arange(len(prompts), device=ends.device)
        states = run(model, prompts.batch, {readout.site: lambda value: value[rows, ends]}, grad=grad)[readout.site]
        return readout.logits(states, candidates)


def answers_right(
    model: Any, task: AlignmentTask, settings: Sequence[Setting], token_budget: int | None = None
) -> Tensor:
    """(n,) whether the model answers as the task says."""
    prompts, candidates = task.encode(model, settings), task.candidates(model)
    budget = budget_of(model.device, token_budget)
    parts = [
        scores_of(model, part_of(prompts, rows), candidates).argmax(-1) for rows in token_batches(prompts.batch, budget)
    ]
    return torch.cat(parts).cpu() == classes(task, [setting[task.causal.outputs[0]] for setting in settings])


@dataclass(frozen=True, eq=False)
class Drawn:
    """Counterfactuals, and the share of the drawn settings that the model answers rightly."""

    pairs: Counterfactuals
    accuracy: float


def draw_known(
    model: Any,
    task: AlignmentTask,
    variables: Sequence[str],
    n: int,
    seed: int,
    *,
    held_out: bool = False,
    known_only: bool = True,
    token_budget: int | None = None,
) -> Drawn:
    """n counterfactuals of the task; ``known_only``: those whose bases and sources the model answers rightly.

    Raises UserError where it answers so few that not even a quarter as many are found.
    """

    def wanted(setting: Setting) -> bool:
        sensible = task.allowed is None or task.allowed(setting)
        return sensible and (task.held_out is None or task.held_out(setting) == held_out)

    accuracies: list[float] = []
    found: list[Counterfactuals] = []
    while len(found) < ROUNDS and sum(map(len, found)) < n:
        drawn = draw_counterfactuals(
            task.causal, variables, n, seed + 1_000_003 * len(found) + 500_009 * held_out, where=wanted
        )
        settings = [*drawn.base, *(setting for name in variables for setting in drawn.sources[name])]
        right = answers_right(model, task, settings, token_budget).view(1 + len(variables), n)
        accuracies.append(float(right.float().mean()))
        found.append(drawn.select(right.all(0).nonzero()[:, 0].tolist()) if known_only else drawn)
    pairs = joined(found)
    accuracy = sum(accuracies) / len(accuracies)
    if len(pairs) < max(1, n // 4):
        raise UserError(
            f"{model.name} answers {accuracy:.0%} of {task.name} rightly, which leaves {len(pairs)} of {n} pairs to align it by.\n"
            "Take a model that can do the task, or say known_only: false."
        )
    return Drawn(pairs.select(range(min(n, len(pairs)))), accuracy)


def joined(parts: Sequence[Counterfactuals]) -> Counterfactuals:
    """Several as one."""
    first = parts[0]
    return Counterfactuals(
        first.variables,
        first.output,
        [setting for part in parts for setting in part.base],
        {name: [setting for part in parts for setting in part.sources[name]] for name in first.variables},
        [swapped for part in parts for swapped in part.swapped],
        [answer for part in parts for answer in part.answers],
    )
