"""Direct logit attribution: what each part of a model adds, straight into the residual stream, to one logit of one prompt.

Elhage et al. 2021. The scale of the final norm is held at what it is; then the logit is a sum over what was added to the
residual, exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from layerwise.comparison.inside.frozen_norm import FrozenNorm
from layerwise.errors import UserError
from layerwise.models.batch import make_batch
from layerwise.models.model import LanguageModel
from layerwise.models.ports import Port
from layerwise.models.readout import Readout
from layerwise.models.sites import parse_site
from layerwise.models.taps import run


@dataclass(frozen=True)
class Attribution:
    """The parts of one logit, or of the difference of two.

    table: a row a part: part (``embed``, ``z.3.5``, ``attn_bias.3``, ``attn_out.3`` where heads cannot be told apart, ``mlp_out.3``,
    ``norm_bias``, ``head_bias``), kind (embed, head, attention, mlp, bias), layer, head (missing where it has none), value.
    logit: what the values add up to. capped: the logit that the model gives, where it bounds its logits (Gemma 2); else the same.
    """

    model: str
    prompt: str
    target: str
    against: str | None
    position: int
    table: pd.DataFrame
    logit: float
    capped: float

    def by_layer(self) -> pd.DataFrame:
        """A row a layer: layer, attention (its heads and their bias), mlp."""
        table = self.table[self.table["layer"].notna()]
        attention = table["kind"] != "mlp"
        sums = {"attention": table[attention], "mlp": table[~attention]}
        return pd.DataFrame({name: rows.groupby("layer")["value"].sum() for name, rows in sums.items()}).reset_index()


def attribute_logit(
    model: LanguageModel,
    prompt: str,
    target: str | int | None = None,
    against: str | int | None = None,
    *,
    position: int = -1,
) -> Attribution:
    """What embedding, heads and MLPs add to the logit of ``target`` after a prompt.

    Args:
        target: a token, as text or number; None for the one the model finds most likely.
        against: another token, whose logit is taken away: what is common to both falls out.
        position: at which token of the prompt, counted with special ones; the last.

    Raises:
        UserError: for text that is not one token, a position outside the prompt, and models whose logits are no sum over the
            residual stream (norms after each sum, encoder-decoders, …).
    """
    readout = Readout.of(model).need_lens(model.name)
    if model.is_encoder_decoder or any(stack.layout.norms for stack in model.sites.stacks.values()):
        raise UserError(
            f"{type(model.module).__name__} norms its residual after each sum (or has two stacks), so its logits are no sum of what "
            "its layers add."
        )
    tokens = model.tokenize([prompt])
    length = len(tokens.ids[0])
    if not -length <= position < length:
        raise UserError(f"position {position} is outside the prompt, which has {length} tokens.")
    parts = _Parts(model, position % length)
    batch = make_batch(model, tokens, [0])
    last = "resid_post.-1"
    found = run(model, batch, dict.fromkeys(["embed", last, *parts.sites]), logits=True)
    here = {site: value[0, parts.position] for site, value in found.items()}
    chosen = int(here["logits"].argmax()) if target is None else _token(model, target)
    other = None if against is None else _token(model, against)
    norm = FrozenNorm.at(readout.norm, here[last])
    direction, bias = _direction(readout, chosen, other)
    rows = [("embed", "embed", None, None, here["embed"]), *parts.of(here)]
    table = [(*row[:4], float(norm.part(row[4]) @ direction)) for row in rows]
    table.append(("norm_bias", "bias", None, None, float(norm.bias @ direction)))
    table.append(("head_bias", "bias", None, None, bias))
    frame = pd.DataFrame(table, columns=["part", "kind", "layer", "head", "value"]).astype(
        {"layer": "Int64", "head": "Int64"}
    )
    logit = float(frame["value"].sum())
    _check_sum(model, readout, here, chosen, other, logit)
    given = here["logits"].double()
    capped = float(given[chosen] - (given[other] if other is not None else 0))
    written = [None if token is None else model.tokenizer.decode([token]) for token in (chosen, other)]
    return Attribution(
        model.name, prompt, str(written[0]), written[1], parts.position, frame, logit, capped if readout.cap else logit
    )


def _token(model: LanguageModel, token: str | int) -> int:
    if isinstance(token, int):
        if not 0 <= token < model.vocabulary_size:
            raise UserError(f"token {token} is outside the vocabulary of {model.vocabulary_size}.")
        return token
    ids = model.tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1:
        pieces = model.tokenizer.convert_ids_to_tokens(ids)
        raise UserError(
            f"{token!r} is {len(ids)} tokens of {model.name}'s: {pieces}. Name one of them (a blank in front counts)."
        )
    return int(ids[0])


def _direction(readout: Readout, token: int, other: int | None) -> tuple[Tensor, float]:
    """(width,) what the head multiplies its input by for this logit, or difference of logits, and what it adds; float64."""
    head: Any = readout.head
    weight, bias = head.weight.detach().double(), getattr(head, "bias", None)
    direction = weight[token] - (weight[other] if other is not None else 0)
    added = 0.0 if bias is None else float(bias[token] - (bias[other] if other is not None else 0))
    return direction * readout.scale, added * readout.scale


def _check_sum(
    model: LanguageModel, readout: Readout, here: dict[str, Tensor], token: int, other: int | None, logit: float
) -> None:
    """UserError where the parts do not add up to the logit: then something else writes to the residual."""
    with torch.no_grad():
        raw = readout.head(readout.norm(here["resid_post.-1"]) if readout.norm else here["resid_post.-1"]).double()
    raw = raw * readout.scale
    true = float(raw[token] - (raw[other] if other is not None else 0))
    tolerance = 1e-3 if model.dtype in (torch.float32, torch.float64) else 5e-2
    if abs(true - logit) > tolerance * max(float(raw.abs().max()), 1.0):
        raise UserError(
            f"the parts of {model.name} add up to {logit:.4f}, its logit is {true:.4f}: something else writes to its residual stream."
        )


class _Parts:
    """What is read of a model's blocks, and how it falls apart into heads and MLPs."""

    def __init__(self, model: LanguageModel, position: int) -> None:
        self.model, self.position = model, position
        names = model.sites.names()
        lacking = [name for name in ("attn_out", "mlp_out") if name not in names]
        if lacking:
            raise UserError(
                f"{model.name} has no {' and no '.join(lacking)}, so its logits cannot be split into what its layers add.\n"
                f"It has: {', '.join(names)}."
            )
        self.with_heads = "z" in names
        self.sites = model.sites.expand("attn_out.*, mlp_out.*" + (", z.*" if self.with_heads else ""))

    def of(self, here: dict[str, Tensor]) -> Iterator[tuple[str, str, int | None, int | None, Tensor]]:
        """(part, kind, layer, head, the vector (width,) it adds), layer by layer."""
        for layer in range(self.model.sites.n_layers):
            added = here[f"attn_out.{layer}"].double()
            heads = self._heads(layer, here.get(f"z.{layer}"), added)
            if heads is None:
                yield f"attn_out.{layer}", "attention", layer, None, added
            else:
                for head, vector in enumerate(heads):
                    yield f"z.{layer}.{head}", "head", layer, head, vector
                yield f"attn_bias.{layer}", "bias", layer, None, added - heads.sum(0)
            yield f"mlp_out.{layer}", "mlp", layer, None, here[f"mlp_out.{layer}"].double()

    def _heads(self, layer: int, mix: Tensor | None, added: Tensor) -> Tensor | None:
        """(heads, width) what each head adds; None where the layer's heads do not add up to what it adds, but for a bias."""
        if mix is None:
            return None
        sites = self.model.sites
        out, port = (sites.port(parse_site(f"{name}.{layer}")) for name in ("z", "attn_out"))
        projection = out.module(self.model.module)
        alone = torch.diag_embed(mix.T).permute(1, 2, 0)  # (heads, heads, head_dim), all heads but one 0
        with torch.no_grad():
            nothing = projection(torch.zeros_like(alone[:1].flatten(1)))
            heads = (projection(alone.flatten(1)) - nothing).double()
            whole = projection(mix.flatten()[None])
            norm = FrozenNorm.at(self._norm_between(port, projection), whole[0])
        heads = norm.part(heads) * port.scale
        bias = (norm.part(nothing[0]) + norm.bias) * port.scale
        rest = (added - heads.sum(0) - bias).abs().max()
        tolerance = 1e-3 if mix.dtype in (torch.float32, torch.float64) else 5e-2
        return heads if rest <= tolerance * added.abs().max() + 1e-9 else None

    def _norm_between(self, port: Port, projection: nn.Module) -> nn.Module | None:
        """The norm that heads pass before they are added (Gemma 2, OLMo 2), if ``attn_out`` is a norm's output."""
        module = port.module(self.model.module)
        inner = any(part is projection for part in module.modules())
        return None if inner else module
