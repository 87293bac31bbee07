"""Control vectors: one direction a layer, added to the residual stream. The GGUF files of repeng and llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.intervened import Intervened
from layerwise.interventions.plan import Plan

ARCHITECTURE = "controlvector"


def read_directions(file: str | Path) -> dict[int, Tensor]:
    """By layer, the (width,) direction that repeng or llama.cpp wrote to a GGUF file.

    Raises UserError for a file that is none, or that holds no ``direction.LAYER``.
    """
    import gguf

    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"no file {file}.")
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise UserError(f"{file} is no GGUF file, or a damaged one: {error}.") from None
    field = reader.get_field("general.architecture")
    kind = None if field is None else field.contents()
    found: dict[int, Tensor] = {}
    for tensor in reader.tensors:
        head, _, layer = tensor.name.partition(".")
        if head == "direction" and layer.isdigit():
            if not np.issubdtype(tensor.data.dtype, np.floating):
                raise UserError(
                    f"{file}: {tensor.name} is stored as {tensor.tensor_type.name}; numbers of full width are wanted."
                )
            found[int(layer)] = torch.from_numpy(np.array(tensor.data, dtype=np.float32)).flatten()
    if not found:
        what = f"a {kind} file" if kind not in (None, ARCHITECTURE) else "it"
        raise UserError(f"{file} is no control vector: {what} holds no direction.0, direction.1, ….")
    return dict(sorted(found.items()))


def read_control_vector(file: str | Path, model: Any, *, strength: float = 1.0, layers: str = "") -> Intervened:
    """A control vector laid over a model: at each layer's output, on every token, ``strength`` times the layer's direction is added.

    That is repeng's ``set_control(vector, strength)``. ``layers``: such as ``5-20``; all that the file has by default.
    Raises UserError for layers and widths that are not the model's.
    """
    from layerwise.models.names import select

    directions = read_directions(file)
    count = model.sites.n_layers
    wanted = select(layers, count, "layer", f"layers={layers}") if layers else sorted(directions)
    beyond = [layer for layer in wanted if layer not in directions]
    if beyond:
        raise UserError(f"{file} has no direction for layer {beyond[0]}; it has: {', '.join(map(str, directions))}.")
    if max(directions) >= count:
        raise UserError(
            f"{file} has a direction for layer {max(directions)}, and the model has layers 0 to {count - 1}."
        )
    operation = {"kind": "add", "strength": strength, "vector": "given"}
    steps = [
        {"operation": operation, "sites": f"resid_post.{layer}", "when": "every", "name": f"direction_{layer}"}
        for layer in wanted
    ]
    return Intervened(
        model, Plan.of({"steps": steps}), given={f"direction_{layer}": directions[layer] for layer in wanted}
    )
