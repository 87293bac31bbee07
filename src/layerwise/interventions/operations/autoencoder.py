"""Latents of a sparse autoencoder, swapped or set."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.operations.autoencoder_weights import named, read_autoencoder
from layerwise.interventions.operations.base import Operation, Row, need_source
from layerwise.interventions.settings import SAE


class LatentSwap(Operation):
    """Latents f(x) = act((x [− b_dec]) W_enc + b_enc); the chosen ones swapped or set, decoded by f W_dec + b_dec.

    With ``keep_error`` the base keeps what the autoencoder does not reconstruct: base + (f_new − f_base) W_dec.
    Weights read from a file stay there; those that were given are saved with the plan.
    """

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor
    threshold: Tensor

    def __init__(self, settings: SAE, width: int | None, weights: Mapping[str, Tensor] | None = None) -> None:
        """weights: by name, where the settings' file is ``given``."""
        super().__init__(settings, width)
        self.sae = settings
        if weights is None and settings.file == "given":
            raise UserError("sae needs its weights: name a file, or give W_enc, W_dec, b_enc and b_dec for its step.")
        found = read_autoencoder(settings) if weights is None else named(weights, settings)
        for name, value in found.items():
            self.register_buffer(name, value, persistent=settings.file == "given")
        wide, latents = self.W_enc.shape
        shapes = {"W_enc": (wide, latents), "W_dec": (latents, wide), "b_enc": (latents,)}
        shapes |= {"b_dec": (wide,), "threshold": (latents,)}
        for name in found:
            if tuple(found[name].shape) != shapes[name]:
                raise UserError(
                    f"{settings.file}: {name} should have the shape {shapes[name]} beside W_enc {(wide, latents)}, "
                    f"got {tuple(found[name].shape)}."
                )
        if width is not None and wide != width:
            raise UserError(f"{settings.file} is for a width of {wide}, and the site has {width}.")
        if settings.activation == "topk" and settings.k > latents:
            raise UserError(f"topk cannot keep {settings.k} of {latents} latents.")

    @property
    def size(self) -> int:
        return int(self.W_enc.shape[1])

    def encode(self, x: Tensor) -> Tensor:
        """(rows, width) → (rows, latents)."""
        before = (x - self.b_dec if self.sae.center else x) @ self.W_enc + self.b_enc
        match self.sae.activation:
            case "relu":
                return before.relu()
            case "jumprelu":
                return before.relu() * (before > self.threshold)
            case "topk":
                top = before.topk(self.sae.k, dim=-1)
                return torch.zeros_like(before).scatter(-1, top.indices, top.values.relu())

    def decode(self, latents: Tensor) -> Tensor:
        """(rows, latents) → (rows, width)."""
        return latents @ self.W_dec + self.b_dec

    def changed(self, base: Tensor, row: Row) -> Tensor:
        latents = self.encode(base)
        if self.sae.value is None:
            new = self.encode(need_source(row))
        else:
            new = torch.full_like(latents, self.sae.value)
        new = new if row.chosen is None else torch.where(row.chosen, new, latents)
        return base + (new - latents) @ self.W_dec if self.sae.keep_error else self.decode(new)
