"""The way from the last residual to the logits: final norm, head, and what the model does to the head's numbers.

Found from the model and checked with real numbers before it is used; nothing of a family is known by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.errors import UserError
from layerwise.models.architecture import config_of, path_of
from layerwise.models.batch import Ids, make_batch
from layerwise.models.model import LanguageModel
from layerwise.models.taps import run

# How configurations call a number that logits are multiplied by, divided by, or bounded by with c·tanh(x / c).
FACTORS, DIVISORS, CAPS = ("logit_scale",), ("logits_scaling",), ("final_logit_softcapping", "logit_softcap")


@dataclass(frozen=True, eq=False)
class Readout:
    """``logits = cap(scale · head(x))``, x being what the head takes in: read it at ``site``.

    norm: the final norm, where ``x = norm(last residual)``; None where x is the last residual itself, or made in another way
    (``from_residual`` False).
    """

    site: str
    head: nn.Module
    scale: float
    cap: float | None
    norm: nn.Module | None
    from_residual: bool

    @classmethod
    def of(cls, model: LanguageModel) -> Readout:
        """The readout of a model, checked on one forward. Raises UserError where its logits come about in another way."""
        root: Any = model.module
        head = root.get_output_embeddings() if "logits" in model.sites.names() else None
        if head is None:
            raise UserError(f"{model.name} has no language-model head, so it has no logits to read.")
        site = f"{path_of(root, head)}.input"
        residual = _last_residual(model)
        batch = make_batch(model, _some_tokens(model), [0])
        reads = [site, *([residual] if residual else [])]
        found = run(model, batch, dict.fromkeys(reads), logits=True)
        with torch.no_grad():
            for scale, cap in _forms(model):
                if _close(_formed(head(found[site]), scale, cap), found["logits"]):
                    norm, is_last = _final_norm(model, found[site], found[residual] if residual else None)
                    return cls(site, head, scale, cap, norm, is_last)
        raise UserError(
            f"the logits of {model.name} are not its head's numbers, scaled or capped: {type(root).__name__} makes them in a "
            "way that is not known here."
        )

    def logits(self, states: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Logits ``(…, vocabulary)`` of what the head takes in ``(…, width)``; of some ``tokens`` alone, in their order."""
        if tokens is not None and type(self.head) is nn.Linear:
            head = self.head
            bias = None if head.bias is None else head.bias[tokens]
            return _formed(nn.functional.linear(states, head.weight[tokens], bias), self.scale, self.cap)
        whole = _formed(self.head(states), self.scale, self.cap)
        return whole if tokens is None else whole[..., tokens]

    def lens(self, residual: Tensor) -> Tensor:
        """Logits of a residual ``(…, width)`` read as if it were the last one (nostalgebraist 2020)."""
        return self.logits(residual if self.norm is None else self.norm(residual))

    def need_lens(self, name: str) -> Readout:
        """Itself; UserError where the head does not read the last residual."""
        if not self.from_residual:
            raise UserError(
                f"{name}'s head does not read its last residual after a final norm, so a layer has no lens there."
            )
        return self


def _some_tokens(model: LanguageModel) -> Ids:
    """Six tokens spread over the vocabulary, none of them padding."""
    pad = getattr(config_of(model.module), "pad_token_id", None)
    ids = (np.arange(6) * 7919 + 11) % (model.vocabulary_size - 1)
    return Ids([np.where(ids >= pad, ids + 1, ids) if isinstance(pad, int) else ids])


def _last_residual(model: LanguageModel) -> str | None:
    """The last residual of the stack that the head reads, where it has a name."""
    names = model.sites.names()
    return next((f"{name}.-1" for name in ("resid_post", "decoder.resid_post") if name in names), None)


def _forms(model: LanguageModel) -> Iterator[tuple[float, float | None]]:
    config = config_of(model.module)

    def stated(names: tuple[str, ...]) -> list[float]:
        values = [getattr(config, name, None) for name in names]
        return [float(value) for value in values if isinstance(value, (int, float)) and value]

    scales = [1.0, *stated(FACTORS), *(1 / value for value in stated(DIVISORS))]
    yield from product(scales, [None, *stated(CAPS)])


def _formed(raw: Tensor, scale: float, cap: float | None) -> Tensor:
    scaled = raw if scale == 1.0 else raw * scale
    return scaled if cap is None else torch.tanh(scaled / cap) * cap


def _final_norm(model: LanguageModel, states: Tensor, residual: Tensor | None) -> tuple[nn.Module | None, bool]:
    """The module between last residual and head, and whether the head's input is the last residual after it."""
    if residual is None:
        return None, False
    if _close(states, residual):
        return None, True
    sites = model.sites
    site = next((name for name in ("final_norm", "decoder.final_norm") if name in sites.names()), None)
    if site is None:
        return None, False
    norm = sites.port(sites.one(site)).module(model.module)
    return (norm, True) if _close(states, norm(residual)) else (None, False)


def _close(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape:
        return False
    tolerance = 1e-4 if right.dtype in (torch.float32, torch.float64) else 2e-2
    return bool((left - right).abs().max() <= tolerance * right.abs().max())
