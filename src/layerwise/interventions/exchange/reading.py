"""Whatever holds an intervention, read by what it is: a saved plan, pyvene's, peft's or repeng's files, YAML, or a hub repository of these."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from layerwise.errors import UserError
from layerwise.interventions.exchange import adapters, pyvene
from layerwise.interventions.exchange.control_vectors import read_control_vector
from layerwise.interventions.exchange.hub import pull
from layerwise.interventions.intervened import Intervened
from layerwise.interventions.plan import Plan
from layerwise.interventions.saving import PLAN, load

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def read(place: str | Path, model: Any, *, revision: str | None = None, trust_code: bool = False) -> Intervened:
    """The intervention in a folder, file or hub repository, laid over a model.

    folder with plan.json               what ``saving.save`` wrote
    folder with adapter_config.json     a LoRA adapter of peft
    folder with config.json             interventions that pyvene saved
    file.gguf                           a control vector of repeng or llama.cpp
    file.yaml, file.yml                 a plan whose vectors are files
    owner/name                          one of these on the hub

    Raises UserError for anything else. trust_code: whether code that a plan names by path may run.
    """
    path = Path(place).expanduser()
    if path.is_file():
        return _of_file(path, model, trust_code)
    if not path.is_dir():
        if not _REPOSITORY.fullmatch(str(place)):
            raise UserError(f"no folder or file {place}, and it is no repository of the hub (owner/name).")
        path = pull(str(place), revision)
    if (path / PLAN).is_file():
        return load(path, model, trust_code=trust_code)
    if (path / adapters.CONFIG).is_file():
        return adapters.read_adapter(path, model)
    if (path / pyvene.CONFIG).is_file():
        return pyvene.read_pyvene(path, model)
    vectors = sorted(path.glob("*.gguf"))
    if len(vectors) == 1:
        return read_control_vector(vectors[0], model)
    raise UserError(
        f"{place} holds no intervention: no {PLAN}, {adapters.CONFIG} or {pyvene.CONFIG}, and {len(vectors) or 'no'} .gguf files."
    )


def _of_file(path: Path, model: Any, trust_code: bool) -> Intervened:
    if path.suffix == ".gguf":
        return read_control_vector(path, model)
    if path.suffix in (".yaml", ".yml"):
        return Intervened(model, Plan.read(path), trust_code=trust_code)
    raise UserError(f"an intervention is a folder, a .gguf or a .yaml file, got {path.name}.")
