"""LoRA adapters that peft saved, as plans: each is an operation at its module's output that sees the module's input."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.intervened import Intervened
from layerwise.interventions.operations.adaptors import LowRankAdaptor
from layerwise.interventions.plan import Plan
from layerwise.interventions.saving import PICKLES
from layerwise.interventions.tensors import read_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PART = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<which>[AB])\.weight")
_OTHER = {
    "use_dora": "DoRA",
    "modules_to_save": "whole modules",
    "alora_invocation_tokens": "activated LoRA",
    "lora_bias": "biases",
}


def read_adapter(folder: str | Path, model: Any) -> Intervened:
    """The LoRA adapter that peft saved in a folder, laid over a model: the same outputs as peft's, dropout off, in every forward.

    Raises UserError for other kinds of adapters, for weights that are a pickle, and for modules that the model does not have.
    """
    folder = Path(folder)
    config = _config(folder)
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_tensors(folder / WEIGHTS).items():
        match = _PART.fullmatch(name)
        if match is None:
            raise UserError(f"{folder / WEIGHTS} holds {name}, which is no part of a linear layer's LoRA.")
        pairs.setdefault(match["module"], {})[match["which"]] = tensor.float()
    if not pairs:
        raise UserError(f"{folder / WEIGHTS} holds no LoRA weights.")
    steps = [_step(number, module, pair, config) for number, (module, pair) in enumerate(sorted(pairs.items()))]
    try:
        intervened = Intervened(model, Plan.of({"steps": steps}))
        for unit in intervened.units:
            assert isinstance(unit.operation, LowRankAdaptor)
            unit.operation.restore(pairs[unit.place.site.removesuffix(".output")])
    except UserError as error:
        raise UserError(f"the adapter in {folder} does not fit this model: {error}") from None
    return intervened


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no {CONFIG}: peft saved nothing there.") from None
    except ValueError as error:
        raise UserError(f"{folder / CONFIG} cannot be read: {error}.") from None
    if config.get("peft_type") != "LORA":
        raise UserError(f"{folder} holds a {config.get('peft_type')} adapter; LORA is read.")
    for name, what in _OTHER.items():
        if config.get(name):
            raise UserError(f"the adapter in {folder} has {what} ({name}), which a plan of LoRA operations cannot say.")
    if config.get("bias", "none") != "none":
        raise UserError(
            f"the adapter in {folder} trains biases (bias: {config['bias']}), which a plan of LoRA operations cannot say."
        )
    pickles = [file.name for file in folder.iterdir() if file.suffix in PICKLES]
    if not (folder / WEIGHTS).is_file() and pickles:
        raise UserError(
            f"{folder} holds {pickles[0]}, a pickle that could run code on loading: nothing was read.\n"
            f"Save it again with safe_serialization, which writes {WEIGHTS}."
        )
    return config


def _step(number: int, module: str, pair: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Any]:
    if set(pair) != {"A", "B"}:
        raise UserError(f"the adapter has one half of the LoRA of {module} only.")
    rank = int(pair["A"].shape[0])
    alpha = float(_of_module(config.get("alpha_pattern"), module, config.get("lora_alpha", 8)))
    if config.get("use_rslora"):
        alpha *= math.sqrt(rank)  # its factor is alpha / √rank
    operation = {"kind": "lora", "rank": rank, "alpha": alpha}
    return {"operation": operation, "sites": f"{module}.output", "when": "every", "name": f"lora_{number}"}


def _of_module(pattern: dict[str, Any] | None, module: str, default: float) -> float:
    """What peft's pattern says of a module: the first key that its path ends with."""
    for key, value in (pattern or {}).items():
        if re.fullmatch(rf"(.*\.)?{key}", module):
            return float(value)
    return default
