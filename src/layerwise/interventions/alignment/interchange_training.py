"""Interchange intervention training: the model itself learns to hold a variable in given numbers (Geiger et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerwise.interventions.alignment.config import Training
from layerwise.interventions.alignment.counterfactuals import Counterfactuals
from layerwise.interventions.alignment.known import scores_of
from layerwise.interventions.alignment.stored import outputs_of, part_of
from layerwise.interventions.alignment.tasks import AlignmentTask, classes
from layerwise.interventions.alignment.training import train_by_batches
from layerwise.interventions.intervened import Intervened
from layerwise.interventions.patching import last_columns
from layerwise.interventions.plan import Plan, parse_numbers
from layerwise.models.model import LanguageModel


def train_with_interchanges(
    model: Any,
    task: AlignmentTask,
    plan: Plan,
    pairs: Counterfactuals,
    training: Training,
    *,
    seed: int = 0,
    done: Callable[[int], None] = lambda pairs: None,
) -> np.ndarray:
    """Train all parameters of a model, in place: on each batch to answer the exchanged runs as the causal model does, and the bases as before.

    Args:
        plan: exchanges variables, its sources named by them, in parts (``dims``) of the places it names.

    Returns the (steps,) losses. Gradients go through base and source alike.
    """
    bases = task.encode(model, pairs.base)
    sources = {name: task.encode(model, pairs.sources[name]) for name in pairs.variables}
    candidates = task.candidates(model)
    right = classes(task, pairs.answers).to(model.device)
    before = classes(task, [setting[pairs.output] for setting in pairs.base]).to(model.device)
    example = part_of(bases, torch.arange(min(2, len(pairs)), device=model.device))
    intervened = Intervened(model, plan, example=example, train_model=True)
    parts = {unit.step.name: (unit.step.source, _numbers(unit)) for unit in intervened.units}

    def forward(rows: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        intervened.set_temperature(temperature)
        chosen = rows.to(model.device)
        base = part_of(bases, chosen)
        swapped = [pairs.swapped[row] for row in rows.tolist()]
        outcome = intervened(
            base,
            {name: part_of(prompts, chosen) for name, prompts in sources.items()},
            subspaces={
                name: [numbers if source in there else [] for there in swapped]
                for name, (source, numbers) in parts.items()
            },
        )
        scores = outputs_of(outcome.output)
        if isinstance(model, LanguageModel):
            ends = last_columns(base.batch)
            scores = scores[torch.arange(len(scores), device=ends.device), ends][:, candidates]
        clean = scores_of(model, base, candidates, grad=True)
        done(len(rows))
        return torch.cat([scores, clean]), torch.cat([right[chosen], before[chosen]])

    was_training = model.module.training
    model.module.train()
    losses = train_by_batches(forward, list(intervened.parameters()), len(pairs), training, seed)
    model.module.train(was_training)
    return losses


def _numbers(unit: Any) -> list[int]:
    return parse_numbers(str(unit.step.dims)) or list(range(unit.operation.size))
