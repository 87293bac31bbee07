"""Plans with their operations on disk: ``plan.json`` and ``tensors.safetensors``, no code and no pickle.

Saved are the operations alone: a direction of width 576 takes 2 kB. The model is named, not copied, and so are the files of
sparse autoencoders, unless the folder is to stand alone.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from layerwise.config import plain
from layerwise.errors import UserError
from layerwise.files import atomic_folder
from layerwise.interventions.intervened import Intervened
from layerwise.interventions.operations.autoencoder import LatentSwap
from layerwise.interventions.operations.base import Operation
from layerwise.interventions.operations.build import Given
from layerwise.interventions.plan import Plan
from layerwise.interventions.settings import SAE, Custom
from layerwise.interventions.tensors import read_tensors

FORMAT = 1
PLAN, TENSORS = "plan.json", "tensors.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")


def save(intervened: Intervened, folder: str | Path, *, alone: bool = False) -> None:
    """Write the plan and its operations to a new folder.

    alone: weights of sparse autoencoders are written too, so that the folder can go to another machine.
    Raises UserError for a folder that exists, and for functions given in Python, which no file can hold.
    """
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists already: name a new folder.")
    for key, settings in intervened.settings().items():
        if isinstance(settings, Custom) and settings.path == "given":
            raise UserError(
                f"the function of {key} was given in Python and cannot be saved.\nPut it in a file and name it by path."
            )
    tensors: dict[str, Tensor] = {}
    widths: dict[str, int | None] = {}
    for key, operation in intervened.operations.items():
        assert isinstance(operation, Operation)
        widths[key] = operation.width
        kept = operation.state_dict() | (
            dict(operation.named_buffers()) if alone and isinstance(operation, LatentSwap) else {}
        )
        tensors |= {f"{key}/{name}": value.detach().cpu().contiguous() for name, value in kept.items()}
    plan = _standing_alone(intervened.plan) if alone else intervened.plan
    described = {
        "format": FORMAT,
        "model": getattr(intervened.model, "name", ""),
        "architecture": type(intervened.model.module).__name__,
        "widths": widths,
        "plan": plain(plan),
    }
    with atomic_folder(folder) as temporary:
        (temporary / PLAN).write_text(json.dumps(described, indent=1, ensure_ascii=False), encoding="utf-8")
        save_file(tensors, temporary / TENSORS)


def _standing_alone(plan: Plan) -> Plan:
    """The plan with the weights of autoencoders handed over rather than read from their files."""
    return Plan(
        tuple(
            replace(step, operation=replace(step.operation, file="given")) if isinstance(step.operation, SAE) else step
            for step in plan.steps
        )
    )


def load(folder: str | Path, model: Any, *, trust_code: bool = False, train_model: bool = False) -> Intervened:
    """The plan saved in a folder, laid over a model.

    trust_code: whether code that the plan names by path may run.
    Raises UserError for a folder that holds no plan, holds a pickle, or was saved for a model of other sites or widths.
    """
    folder = Path(folder)
    described = _read(folder)
    plan = Plan.of(described["plan"], str(folder / PLAN))
    tensors = read_tensors(str(folder / TENSORS))
    by_key: dict[str, dict[str, Tensor]] = {key: {} for key in described["widths"]}
    for name, tensor in tensors.items():
        key, _, rest = name.partition("/")
        by_key.setdefault(key, {})[rest] = tensor
    try:
        return _laid_over(model, plan, described["widths"], by_key, trust_code, train_model)
    except UserError as error:
        raise UserError(f"the plan in {folder}, saved for {described['architecture']}, does not fit: {error}") from None


def _laid_over(
    model: Any,
    plan: Plan,
    widths: dict[str, Any],
    saved: dict[str, dict[str, Tensor]],
    trust_code: bool,
    train_model: bool,
) -> Intervened:
    given: dict[str, Given] = {}
    for step in plan.steps:
        keys = [key for key in saved if key == step.weights or key.startswith(f"{step.name}@")]
        if isinstance(step.operation, SAE) and step.operation.file == "given" and keys:
            given[step.name] = saved[keys[0]]
        elif isinstance(getattr(step.operation, "vector", None), str) and step.operation.vector not in ("", "fit"):  # type: ignore[union-attr]
            found = [saved[key].get("vector", saved[key].get("basis")) for key in keys]
            if found and found[0] is not None:
                given[step.name] = found[0]
    vectors = [name for name in given if not isinstance(plan.step(name).operation, SAE)]
    intervened = Intervened(
        model, plan.with_given(vectors), given=given, widths=widths, trust_code=trust_code, train_model=train_model
    )
    for key, operation in intervened.operations.items():
        assert isinstance(operation, Operation)
        operation.restore({name: tensor.to(_device(operation)) for name, tensor in saved.get(key, {}).items()})
    return intervened


def _device(operation: Operation) -> torch.device:
    return next((tensor.device for tensor in operation.state_dict().values()), torch.device("cpu"))


def _read(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise UserError(f"no folder {folder}.")
    pickles = sorted(file.name for file in folder.rglob("*") if file.suffix in PICKLES)
    if pickles:
        raise UserError(
            f"{folder} holds {pickles[0]}, which may be a pickle and could run code on loading: nothing was read."
        )
    try:
        described = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        if described["format"] != FORMAT:
            raise UserError(f"{folder} was written in format {described['format']}, and this version reads {FORMAT}.")
        return {name: described[name] for name in ("architecture", "widths", "plan")}
    except FileNotFoundError:
        raise UserError(f"{folder} holds no {PLAN}: it is no saved plan.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / PLAN} cannot be read: {error}.") from None
