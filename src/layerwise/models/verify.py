"""Verification: a probe forward at load shows that the sites of a model are what their names say.

Every stack must hand its blocks' outputs on unchanged, and every block must obey the law of its layout
(:mod:`layerwise.models.layouts`) in real numbers. What fails is left out of the map, with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.errors import UserError
from layerwise.models.architecture import Stack, body_of, find_stacks, guessed_layouts, known_layouts, place_ports
from layerwise.models.batch import make_batch
from layerwise.models.sites import SiteMap
from layerwise.models.taps import run

BLOCK_SITES = ("embed", "resid_pre", "resid_post", "final_norm", "logits")


@dataclass(frozen=True)
class _Probe:
    """A stand-in for a model with the map to be tried, and as tokens the texts of the probe."""

    module: nn.Module
    sites: SiteMap


@dataclass(frozen=True)
class _Texts:
    ids: list[np.ndarray]
    type_ids: None = None


def resolve(module: nn.Module) -> SiteMap:
    """The map of a transformers model's sites, each verified. Raises nothing: what cannot be named is left out, and
    the map's ``refused`` says why."""
    stacks = find_stacks(module)
    if not stacks:
        return SiteMap(module, refused="it has no list of blocks to name")
    with _evaluating(module):
        try:
            repeated, plain = _survey(module, stacks)
        except Exception as error:  # whatever the probe meets, plain paths still work
            return SiteMap(module, refused=f"its probe forward failed: {type(error).__name__}: {error}")
        stacks = [replace(stack, plain_output=stack.prefix in plain) for stack in stacks]
        failure = _failure(module, stacks, repeated)
        if failure:
            return SiteMap(module, repeated=repeated, refused=failure)
        reasons = []
        for candidate in _candidates(module, stacks):
            reason = _failure(module, candidate, repeated)
            if not reason:
                return SiteMap(module, candidate, place_ports(module, candidate), repeated)
            reasons.append(reason)
    refused = f"only its blocks could be verified: {reasons[0] if reasons else 'their parts have unknown names'}"
    return SiteMap(module, stacks, place_ports(module, stacks), repeated, refused)


def _candidates(module: nn.Module, stacks: list[Stack]) -> Iterator[list[Stack]]:
    known = known_layouts(module, stacks)
    if known is not None:
        yield known
    elif len(stacks) == 1:
        for layout in guessed_layouts(module.get_submodule(stacks[0].block(0))):
            yield [replace(stacks[0], layout=layout)]


def _batch(module: nn.Module) -> Any:
    """Two texts of six tokens spread over the vocabulary, none of them padding."""
    size, pad = module.config.vocab_size, getattr(module.config, "pad_token_id", None)
    ids = (np.arange(12) * 7919 + 11) % (size - 1)
    ids = np.where(ids >= pad, ids + 1, ids) if isinstance(pad, int) else ids
    return make_batch(_Probe(module, SiteMap(module)), _Texts([ids[:6], ids[6:]]), [0, 1])


def _survey(module: nn.Module, stacks: list[Stack]) -> tuple[frozenset[str], frozenset[str]]:
    """One forward: which modules run more than once in it, and in which stacks blocks return the residual alone."""
    calls: Counter[str] = Counter()
    plain = set()
    with ExitStack() as hooks:

        def count(path: str) -> Any:
            return lambda *_: calls.update([path])

        def returns(prefix: str) -> Any:
            return lambda _module, _args, output: plain.add(prefix) if isinstance(output, Tensor) else None

        for path, part in module.named_modules():
            hooks.callback(part.register_forward_pre_hook(count(path)).remove)
        for stack in stacks:
            hooks.callback(module.get_submodule(stack.block(0)).register_forward_hook(returns(stack.prefix)).remove)
        with torch.no_grad():
            body_of(module)(**_batch(module).inputs)
    return frozenset(path for path, number in calls.items() if number > 1), frozenset(plain)


def _failure(module: nn.Module, stacks: list[Stack], repeated: frozenset[str]) -> str:
    """Why the sites of these stacks are not what their names say; '' if they are."""
    ports = place_ports(module, stacks)
    shared = [port.path for port in ports.values() if port.path in repeated]
    if shared:
        return f"module {shared[0]} runs several times in one forward"
    sites = SiteMap(module, stacks, ports)
    wanted = [name for name in ports if _in_a_law(name)]
    try:
        found = run(_Probe(module, sites), _batch(module), dict.fromkeys(wanted))
    except (UserError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        return f"the probe forward failed: {error}"
    for stack in stacks:
        for layer in range(stack.n_layers):
            for law, left, right in _laws(module, stack, layer, found):
                if left.shape != right.shape or not _equal(left, right):
                    return f"{law} does not hold in layer {layer}"
    return ""


def _in_a_law(name: str) -> bool:
    return name.rpartition(".")[0].rpartition(".")[2] in (
        "resid_pre", "resid_mid", "resid_cross", "resid_post", "attn_out", "cross_attn_out", "mlp_out",
    )  # fmt: skip


def _laws(
    module: nn.Module, stack: Stack, layer: int, found: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(law, its left side, its right side) of one block."""

    def at(name: str, index: int = layer) -> Tensor | None:
        return found.get(f"{name}.{index}" if "cross" in name else f"{stack.prefix}{name}.{index}")

    pre, mid, post = at("resid_pre"), at("resid_mid"), at("resid_post")
    assert pre is not None
    assert post is not None
    if layer + 1 < stack.n_layers:
        after = at("resid_pre", layer + 1)
        assert after is not None
        yield "resid_post = resid_pre of the next block", post, after
    cross = "decoder." in stack.prefix and at("resid_cross") is not None
    steps = {
        "sequential": [("resid_pre", "attn_out", "resid_mid"), ("resid_mid", "mlp_out", "resid_post")],
        "parallel": [("resid_pre", "attn_out + mlp_out", "resid_post")],
        "block": [],
    }
    form = "sequential" if stack.layout.form == "post_norm" else stack.layout.form
    law = steps[form]
    if cross:
        law = [law[0], ("resid_mid", "cross_attn_out", "resid_cross"), ("resid_cross", "mlp_out", "resid_post")]
    for before, added, result in law:
        start, end = at(before), at(result)
        parts = [at(name) for name in added.split(" + ")]
        if start is None or end is None or any(part is None for part in parts):
            raise UserError(f"the block has no {before}, {added} or {result}")
        total = start + sum(part for part in parts if part is not None)
        norm = stack.layout.norms.get(result)
        text = f"{before} + {added} = {result}"
        if norm:
            total = module.get_submodule(f"{stack.block(layer)}.{norm}")(total)
            text = f"norm({before} + {added}) = {result}"
        yield text, total, end


def _equal(left: Tensor, right: Tensor) -> bool:
    """Equal up to the rounding of the model's own number format."""
    tolerance = 1e-4 if left.dtype in (torch.float32, torch.float64) else 3e-2
    scale = right.float().abs().max().clamp(min=1e-6)
    return bool((left.float() - right.float()).abs().max() <= tolerance * scale)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """The model without dropout; each part's training flag comes back."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
