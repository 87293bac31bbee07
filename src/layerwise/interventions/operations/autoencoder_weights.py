"""Weights of sparse autoencoders under one set of names, from the files that their trainers write.

SAELens, Gemma Scope    W_enc, W_dec, b_enc, b_dec, threshold
sparsify                encoder.weight, encoder.bias, W_dec, b_dec
dictionary_learning     encoder.weight, encoder.bias, decoder.weight, bias or b_dec
OpenAI                  encoder.weight, latent_bias, decoder.weight, pre_bias
pyvene                  autoencoder.encoder.0.weight, …, autoencoder.decoder.0.bias
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.settings import SAE
from layerwise.interventions.tensors import read_tensors

_FILES = ("sae_weights.safetensors", "sae.safetensors", "params.npz")
_TURNED = ("W_enc", "W_dec")  # where it comes as the weight of a linear layer, (out, in)
_NAMES: dict[str, tuple[str, ...]] = {
    "W_enc": ("encoder.weight", "autoencoder.encoder.0.weight"),
    "b_enc": ("encoder.bias", "latent_bias", "autoencoder.encoder.0.bias"),
    "W_dec": ("decoder.weight", "autoencoder.decoder.0.weight"),
    "b_dec": ("bias", "pre_bias", "decoder.bias", "autoencoder.decoder.0.bias"),
    "threshold": (),
}
_ACTIVATIONS = {"standard": "relu", "relu": "relu", "jumprelu": "jumprelu", "topk": "topk"}


def read_autoencoder(settings: SAE) -> dict[str, Tensor]:
    """W_enc (width, latents), W_dec (latents, width), b_enc, b_dec, and threshold for jumprelu, of a file or folder.

    Raises UserError where one is missing, and where the ``cfg.json`` beside them describes another autoencoder than the settings.
    """
    place = Path(settings.file).expanduser()
    if place.is_dir():
        found = next((place / name for name in _FILES if (place / name).is_file()), None)
        if found is None:
            raise UserError(f"{settings.file} holds none of {', '.join(_FILES)}.")
        _check_description(settings, found.parent / "cfg.json")
        place = found
    return named(read_tensors(place), settings)


def named(tensors: Mapping[str, Tensor], settings: SAE) -> dict[str, Tensor]:
    """The weights under our names, in float32. Raises UserError for one that is missing."""
    wanted = ("W_enc", "W_dec", "b_enc", "b_dec", *(("threshold",) if settings.activation == "jumprelu" else ()))
    found = {}
    for name in wanted:
        other = next((other for other in _NAMES[name] if other in tensors), None)
        if name in tensors:
            found[name] = tensors[name].float()
        elif other is not None:
            found[name] = (tensors[other].T if name in _TURNED else tensors[other]).contiguous().float()
        else:
            raise UserError(f"{settings.file} has no tensor {name!r}.\nIt has: {', '.join(list(tensors)[:10])}.")
    return found


def _check_description(settings: SAE, file: Path) -> None:
    """SAELens says in ``cfg.json`` how its weights are to be used; what the settings say must be the same."""
    if not file.is_file():
        return
    try:
        said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {error}.") from None
    kind = said.get("activation_fn_str") or said.get("architecture", settings.activation)
    if kind not in _ACTIVATIONS:
        raise UserError(f"{file}: a {kind} autoencoder is not known here; known are {', '.join(_ACTIVATIONS)}.")
    for name in ("normalize_activations", "rescale_acts_by_decoder_norm"):
        if said.get(name) not in (None, "none", False):
            raise UserError(f"{file} says {name}: {said[name]}.\nFold that into the weights before you use them here.")
    k = said.get("k", (said.get("activation_fn_kwargs") or {}).get("k"))
    wanted = {
        "activation": _ACTIVATIONS[kind],
        "center": said.get("apply_b_dec_to_input", settings.center),
        "k": k if kind == "topk" and k is not None else settings.k,
    }
    for name, value in wanted.items():
        if getattr(settings, name) != value:
            raise UserError(
                f"the autoencoder in {file.parent} has {name} {str(value).lower()}, and the plan says "
                f"{str(getattr(settings, name)).lower()}.\nSet operation.{name}={str(value).lower()}."
            )
