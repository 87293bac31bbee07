"""Folders that pyvene saved, as plans with the same outputs: ``config.json`` and an ``intkey_….bin`` for each intervention.

The .bin files are pickles; they are read with ``weights_only``, which takes tensors and refuses everything else. What pyvene is told
at each call (positions, sources, subspaces) is in no folder: it is given to the plan's calls in the same way.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from layerwise.errors import UserError, nearest
from layerwise.interventions.exchange.pyvene_names import site_of
from layerwise.interventions.intervened import Intervened
from layerwise.interventions.operations.base import Operation
from layerwise.interventions.operations.build import Given
from layerwise.interventions.plan import BASE, Plan

CONFIG = "config.json"
FIELDS = (
    "layer", "component", "unit", "max_number_of_units", "low_rank_dimension", "intervention_type", "intervention",
    "subspace_partition", "group_key", "intervention_link_key", "moe_key", "source_representation",
    "hidden_source_representation", "latent_dim",
)  # fmt: skip
_KINDS = {
    "VanillaIntervention": "interchange",
    "ZeroIntervention": "zero",
    "AdditionIntervention": "add",
    "SubtractionIntervention": "subtract",
    "CollectIntervention": "collect",
    "SkipIntervention": "skip",
    "RotatedSpaceIntervention": "rotation",
    "LowRankRotatedSpaceIntervention": "low_rank_rotation",
    "BoundlessRotatedSpaceIntervention": "boundless",
    "SigmoidMaskIntervention": "mask",
    "SigmoidMaskRotatedSpaceIntervention": "mask",
    "AutoencoderIntervention": "sae",
    "JumpReLUAutoencoderIntervention": "sae",
}
_UNSAVED = {
    "PCARotatedSpaceIntervention": "its components",
    "NoiseIntervention": "its noise",
    "LambdaIntervention": "its function",
}
_READ = ("interchange", "add", "subtract", "rotation", "low_rank_rotation", "boundless", "mask", "sae")
_FIXED = ("interchange", "add", "subtract")  # may hold a vector in the source's place
_JOINED = ("rotation", "low_rank_rotation", "boundless", "sae")  # take several units as one long vector
_HERE = {"intervention_boundaries": "boundary", "masks": "mask"}  # names of parameters: there, here
_ROTATION = "rotate_layer."
_BASIS = "basis.parametrizations.weight.original"


@dataclass(frozen=True, eq=False)
class _Saved:
    """One intervention of a folder."""

    number: int
    key: str
    class_name: str
    fields: Mapping[str, Any]
    dimension: Any
    constant: bool
    tensors: Mapping[str, Tensor]

    @property
    def kind(self) -> str:
        kind = _KINDS[self.class_name]
        return "constant" if kind == "interchange" and self.vector is not None else kind

    @property
    def vector(self) -> Tensor | None:
        """The vector that stands in the source's place; pyvene takes it for every row."""
        vector = self.tensors.get("source_representation")
        return None if vector is None or not self.constant else vector.reshape(-1)

    @property
    def units(self) -> int:
        return int(self.fields["max_number_of_units"] or 1)


def read_pyvene(
    folder: str | Path, model: Any, *, positions: str = "", heads: str = "", when: str = "prompt"
) -> Intervened:
    """The interventions that pyvene saved in a folder, laid over a model.

    Steps come in pyvene's order, named by kind and number. Sources are ``source_0``, ``source_1``, … as in pyvene's list (``source``
    where one step alone reads any); None leaves one out.

    Args:
        positions: where steps act (``all`` by default, ``each`` for those that take several tokens as one vector).
        heads: which heads, for components that pyvene splits into heads.
        when: during generation; pyvene's ``intervene_on_prompt=False`` is ``decode``.

    Raises:
        UserError: for a folder that is none of pyvene's, holds other objects than tensors or classes of one's own, or was made for another
            architecture.
    """
    folder = Path(folder)
    saved, mode = _read(folder)
    groups = _groups(saved)
    steps, given, widths = [], {}, {}
    for one, group in zip(saved, groups, strict=True):
        name = f"{one.kind}_{one.number}"
        step = _step(one, model, heads) | {"name": name, "when": when}
        step["positions"] = positions or ("each" if step.get("joined") else "all")
        if one.kind in _READ and one.vector is None:
            step["source"] = f"source_{group}" if len(set(groups)) > 1 else "source"
            if mode == "serial":
                step |= {"source": f"source_{group}", "into": _next_run(group, groups)}
        if one.fields["intervention_link_key"] is not None:
            step["weights"] = f"link_{one.fields['intervention_link_key']}"
        elif step.get("joined"):
            step["weights"] = name  # the key under which its width is known
        if one.vector is not None or one.kind == "sae":
            given[name] = one.tensors if one.kind == "sae" else one.vector
        if step.get("joined"):
            widths[step["weights"]] = int(one.tensors["embed_dim"])
        steps.append(step)
    plan = Plan.of({"steps": steps}, str(folder / CONFIG))
    try:
        intervened = Intervened(model, plan, given=_given(given), widths=widths)
        for unit in intervened.units:
            _restore(unit.operation, next(one for one in saved if unit.step.name == f"{one.kind}_{one.number}"))
    except UserError as error:
        raise UserError(f"what pyvene saved in {folder} does not fit this model: {error}") from None
    return intervened


def _given(values: Mapping[str, Any]) -> dict[str, Given]:
    return {name: value for name, value in values.items() if value is not None}


def _read(folder: Path) -> tuple[list[_Saved], str]:
    """The interventions of a folder in pyvene's order, and ``parallel`` or ``serial``."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        representations, types = config["representations"], config["intervention_types"]
        keys, mode = config["sorted_keys"], config.get("mode", "parallel")
        dimensions = config.get("intervention_dimensions") or [None] * len(keys)
        constants = config.get("intervention_constant_sources") or [False] * len(keys)
        rows = list(zip(keys, types, representations, dimensions, constants, strict=True))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no {CONFIG}: pyvene saved nothing there.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / CONFIG} is no configuration that pyvene saved: {error}.") from None
    return [_one(folder, number, *row) for number, row in enumerate(rows)], mode


def _one(
    folder: Path, number: int, key: str, type_text: str, values: list[Any], dimension: Any, constant: bool
) -> _Saved:
    class_name = re.sub(r".*\.|'>$", "", type_text)
    if class_name in _UNSAVED:
        raise UserError(f"{folder}: pyvene saves a {class_name} without {_UNSAVED[class_name]}: nothing to read.")
    if class_name not in _KINDS:
        raise UserError(
            f"{folder}: {class_name} is a class of someone's own, which no folder holds.{nearest(class_name, _KINDS)}\n"
            "Write it as a custom operation, and read the rest."
        )
    if not len(FIELDS) - 1 <= len(values) <= len(FIELDS):
        raise UserError(
            f"{folder / CONFIG} lists {len(values)} fields of an intervention, and pyvene 0.1.8 has {len(FIELDS)}."
        )
    fields = dict(zip(FIELDS, [*values, None], strict=False))
    if fields["moe_key"] is not None:
        raise UserError(f"{folder}: {key} acts inside an expert: name its module by path instead.")
    if fields["unit"] not in ("pos", "h", "h.pos"):
        raise UserError(
            f"{folder}: {key} counts {fields['unit']!r}, which only pyvene's own nets have: name sites by path."
        )
    return _Saved(number, key, class_name, fields, dimension, bool(constant), _tensors(folder, key))


def _tensors(folder: Path, key: str) -> dict[str, Tensor]:
    file = folder / f"intkey_{key}.bin"
    if file.parent != folder:
        raise UserError(f"{folder / CONFIG} names a file outside its folder: {key!r}.")
    if not file.is_file():
        return {}
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
        return {str(name): tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}
    except (pickle.UnpicklingError, AttributeError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(
            f"{file} is damaged, or holds objects besides tensors, which could run code: nothing was read.\n"
            "Take a folder as pyvene writes it, of tensors alone."
        ) from error


def _groups(saved: list[_Saved]) -> list[int]:
    """Which of pyvene's sources each intervention reads: its group's, else one of its own."""
    keys = [one.fields["group_key"] for one in saved]
    if all(key is None for key in keys):
        return list(range(len(saved)))
    order = sorted(set(keys), key=lambda key: (str(type(key)), key))
    return [order.index(key) for key in keys]


def _next_run(group: int, groups: list[int]) -> str:
    return f"source_{group + 1}" if group < max(groups) else BASE


def _step(one: _Saved, model: Any, heads: str) -> dict[str, Any]:
    """The step but for its name, its runs and its positions."""
    fields = one.fields
    step: dict[str, Any] = {
        "operation": _operation(one),
        "sites": site_of(str(fields["component"]), int(fields["layer"]), model, heads),
    }
    if one.kind in _JOINED and one.units > 1:
        step["joined"] = True
    if fields["subspace_partition"]:
        step["partition"] = [_numbers(part) for part in fields["subspace_partition"]]
    limit, whole = one.dimension, one.tensors.get("embed_dim")
    partial = isinstance(limit, int) and whole is not None and limit < int(whole)
    if one.kind == "sae":
        partial = isinstance(limit, int) and limit < int(fields["latent_dim"] or fields["low_rank_dimension"])
    if partial and one.kind in (*_FIXED, "constant", "zero", "collect", "rotation", "sae"):
        if fields["subspace_partition"]:
            raise UserError(
                f"{one.key} has both a partition and the first {limit} numbers only, which pyvene mixes up."
            )
        step["dims"] = f"0-{limit - 1}"
    return step


def _numbers(part: list[int]) -> str:
    """pyvene's [start, end) pair, or a list of numbers, as typed here."""
    return f"{part[0]}-{part[1] - 1}" if len(part) == 2 and part[0] < part[1] else ",".join(map(str, part))


def _operation(one: _Saved) -> Any:
    match one.class_name:
        case "LowRankRotatedSpaceIntervention":
            return {"kind": "low_rank_rotation", "rank": int(one.fields["low_rank_dimension"])}
        case "SigmoidMaskRotatedSpaceIntervention":
            return {"kind": "mask", "rotated": True}
        case "AutoencoderIntervention":
            return {"kind": "sae", "file": "given", "center": True, "keep_error": False}
        case "JumpReLUAutoencoderIntervention":
            return {"kind": "sae", "file": "given", "activation": "jumprelu", "keep_error": False}
    return one.kind if one.vector is None else {"kind": one.kind, "vector": "given"}


def _restore(operation: Operation, one: _Saved) -> None:
    """What was trained, into the operation."""
    wanted = operation.state_dict()
    if one.kind in (*_FIXED, "constant", "sae") or not wanted:
        return
    found = {_HERE.get(name, name): tensor for name, tensor in one.tensors.items()}
    if any(name.startswith(_ROTATION) for name in found):
        found[_BASIS] = _rotation(one)
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise UserError(f"intkey_{one.key}.bin holds no {missing[0]}.")
    found = {name: found[name] for name in wanted}
    if "boundary" in found:
        found["boundary"] = found["boundary"].reshape(())
    operation.restore(found)


def _rotation(one: _Saved) -> Tensor:
    """(width, rank) orthonormal columns, which pyvene keeps in torch's own orthogonal parametrisation."""
    state = {name.removeprefix(_ROTATION): value for name, value in one.tensors.items() if name.startswith(_ROTATION)}
    free = state.get("parametrizations.weight.original")
    if free is None or free.dim() != 2:
        raise UserError(f"intkey_{one.key}.bin holds no rotation.")
    layer = nn.Module()
    layer.weight = nn.Parameter(torch.eye(*free.shape))
    try:
        orthogonal(layer).load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"intkey_{one.key}.bin holds no rotation: {str(error).splitlines()[-1].strip()}") from None
    return layer.weight.detach()
