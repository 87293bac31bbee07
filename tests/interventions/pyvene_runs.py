"""Running a case of ``pyvene_cases.py`` or ``pyvene_nets.py`` here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pyvene_cases import CASES, WIDTH, Case, formula, ids, parameter, rotation
from safetensors.torch import save_file
from torch import Tensor

from layerwise.interventions.intervened import Intervened, Outcome
from layerwise.interventions.operations.swaps import PrincipalSwap
from layerwise.interventions.plan import Plan
from layerwise.models.batch import Batch


def batch(name: str) -> Batch:
    """The texts of a run."""
    tokens = ids(name)
    mask = torch.ones_like(tokens)
    positions = torch.arange(6).expand(2, -1)
    inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
    return Batch(inputs, mask.bool(), mask.sum(1))


def laid_over(model: Any, name: str, case: Case, folder: Path, example: Batch | None = None) -> Intervened:
    """The case's plan on a model, its parameters those that pyvene was given."""
    steps: list[dict[str, Any]] = case.steps
    if name == "jumprelu":  # its weights, which pyvene has as parameters, come in a file
        shapes = {
            "W_enc": (WIDTH, WIDTH),
            "W_dec": (WIDTH, WIDTH),
            "b_enc": (WIDTH,),
            "b_dec": (WIDTH,),
            "threshold": (WIDTH,),
        }
        save_file(
            {key: parameter(name, key, torch.Size(shape)) for key, shape in shapes.items()}, folder / "sae.safetensors"
        )
        steps = [step | {"operation": step["operation"] | {"file": str(folder / "sae.safetensors")}} for step in steps]
    steps = [step | {"sites": step["sites"][model.name]} if isinstance(step["sites"], dict) else step for step in steps]
    plan = Plan.of({"steps": steps})
    given: dict[str, Any] = {
        step.name: formula((WIDTH,), 5, 8.0) for step in plan.steps if getattr(step.operation, "vector", "") == "given"
    }
    if case.given is not None:
        given["step"] = case.given
    intervened = Intervened(model, plan, given=given, example=example)
    for operation in intervened.operations.values():
        if isinstance(operation, PrincipalSwap):
            operation.components, operation.scale = rotation().T.contiguous(), formula((WIDTH,), 4).abs() + 0.5
        for there, here in case.setting.items() if name != "jumprelu" else ():
            owner = operation.get_submodule(here.rpartition(".")[0])
            last = here.rpartition(".")[2]
            value = parameter(name, there, getattr(owner, last).shape)
            if owner is operation:
                getattr(owner, last).data.copy_(value)
            else:
                owner.weight = value
    return intervened


def sources_of(case: Case, intervened: Intervened) -> dict[str, Batch | None]:
    """The case's sources under the names of the plan's runs."""
    runs = intervened.plan.order()
    return {run: None if given is None else batch(given) for run, given in zip(runs, case.sources, strict=False)}


def result(outcome: Outcome, case: Case) -> Tensor:
    """What the reference holds: new tokens, collected values, or logits."""
    if case.generate is not None:
        return outcome.output[:, 6:]
    if case.steps[0]["operation"] == "collect":
        return next(iter(next(iter(outcome.collected.values())).values())).values
    return outcome.logits


def run_case(intervened: Intervened, case: Case, **how: Any) -> Outcome:
    """One call, or one generation, as pyvene's was; ``how`` is what the folder of a case does not know."""
    sources = sources_of(case, intervened)
    how = {"positions": case.positions, "subspaces": case.subspaces_here} | how
    with torch.no_grad():
        if case.generate is not None:
            return intervened.generate(
                batch("base"), sources, max_new_tokens=6, min_new_tokens=6, do_sample=False, **how
            )
        return intervened(batch("base"), sources, **how)


__all__ = ["CASES", "batch", "laid_over", "result", "run_case"]
