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
from layerwise.models.architecture import Stack, body_of, config_of, find_stacks, layouts_to_try, place_ports
from layerwise.models.batch import Ids, make_batch
from layerwise.models.ports import Port
from layerwise.models.sites import Site, SiteMap, parse_site
from layerwise.models.taps import run

# Sites of the laws.
ADDED = ("resid_pre", "attn_out", "resid_mid", "cross_attn_out", "resid_cross", "mlp_out", "resid_post")


@dataclass(frozen=True)
class _Probe:
    """A stand-in for a model with the map to be tried, and as tokens the texts of the probe."""

    module: nn.Module
    sites: SiteMap


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
        for candidate in layouts_to_try(module, stacks):
            reason = _failure(module, candidate, repeated)
            if not reason:
                inner = _attention_failure(module, candidate)
                return SiteMap(module, candidate, place_ports(module, candidate, inside=not inner), repeated, inner)
            reasons.append(reason)
    refused = f"only its blocks could be verified: {reasons[0] if reasons else 'their parts have unknown names'}"
    return SiteMap(module, stacks, place_ports(module, stacks), repeated, refused)


def _batch(module: nn.Module) -> Any:
    """Two texts of six tokens spread over the vocabulary, none of them padding."""
    config = config_of(module)
    size, pad = config.vocab_size, getattr(config, "pad_token_id", None)
    ids = (np.arange(12) * 7919 + 11) % (size - 1)
    ids = np.where(ids >= pad, ids + 1, ids) if isinstance(pad, int) else ids
    return make_batch(_Probe(module, SiteMap(module)), Ids([ids[:6], ids[6:]]), [0, 1])


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
    wanted = [name for name in ports if name.rpartition(".")[0].rpartition(".")[2] in ADDED]
    wanted += [f"{port.path}.input" for name, port in ports.items() if name.endswith("final_norm")]
    try:
        found = run(_Probe(module, SiteMap(module, stacks, ports)), _batch(module), dict.fromkeys(wanted))
        for stack in stacks:
            for law, left, right, size in _laws(module, stack, ports, found):
                if not _equal(left, right, size):
                    return f"{law} does not hold"
    except Exception as error:  # a layout that does not fit can fail in any way
        return f"the probe forward failed: {error}"
    return ""


def _laws(
    module: nn.Module, stack: Stack, ports: dict[str, Port], found: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """(law, its left side, its right side, the size of what was added up, number for number) of each block."""

    def at(name: str, layer: int) -> Tensor:
        site = f"{name}.{layer}" if "cross" in name else f"{stack.prefix}{name}.{layer}"
        if site not in found:
            raise UserError(f"a block has no {name}")
        return found[site]

    for layer in range(stack.n_layers):
        for terms, result in _steps(stack):
            parts = [at(term, layer) for term in terms]
            left, right = torch.stack(parts).sum(0) if len(parts) > 2 else parts[0] + parts[1], at(result, layer)
            size = torch.stack([part.abs() for part in parts]).sum(0)
            law = f"{' + '.join(terms)} = {result}"
            if result in stack.layout.norms:
                left = module.get_submodule(f"{stack.block(layer)}.{stack.layout.norms[result]}")(left)
                size, law = right.abs().amax(-1, keepdim=True), f"norm({' + '.join(terms)}) = {result}"
            yield f"{law} in layer {layer}", left, right, size
        if layer + 1 < stack.n_layers:
            post, after = at("resid_post", layer), at("resid_pre", layer + 1)
            yield f"resid_post = resid_pre of the next block in layer {layer}", post, after, after.abs()
    norm = ports.get(f"{stack.prefix}final_norm")
    if norm:
        last = at("resid_post", stack.n_layers - 1)
        yield f"the last resid_post = {norm.path}.input", found[f"{norm.path}.input"], last, last.abs()


def _steps(stack: Stack) -> list[tuple[tuple[str, ...], str]]:
    """What adds up to what in a block of this stack."""
    if stack.layout.form == "block":
        return []
    if stack.layout.form == "parallel":
        return [(("resid_pre", "attn_out", "mlp_out"), "resid_post")]
    middle, cross = "resid_mid", []
    if stack.prefix == "decoder.":
        middle, cross = "resid_cross", [(("resid_mid", "cross_attn_out"), "resid_cross")]
    return [(("resid_pre", "attn_out"), "resid_mid"), *cross, ((middle, "mlp_out"), "resid_post")]


def _attention_failure(module: nn.Module, stacks: list[Stack]) -> str:
    """Why the sites inside attention are not what their names say; '' if in every layer pattern · v = z, and in the
    first (before roundings add up) z is what it is when no one looks inside."""
    ports = place_ports(module, stacks)
    probe, batch = _Probe(module, SiteMap(module, stacks, ports)), _batch(module)
    mixes = [parse_site(name) for name in ports if parse_site(name).kind == "z"]
    triples = [[str(Site(site.name[:-1] + name, site.layer)) for name in ("pattern", "v", "z")] for site in mixes]
    try:
        found = run(probe, batch, dict.fromkeys(name for names in triples for name in names))
        for name, untouched in run(probe, batch, {str(site): None for site in mixes if site.layer == 0}).items():
            if not _near(found[name], untouched):
                return f"the inside of its attention could not be verified: looking at it changes {name}"
        for pattern, value, mix in ([found[name] for name in names] for names in triples):
            value = value.repeat_interleave(pattern.shape[1] // value.shape[2], dim=2)
            if not _near(torch.einsum("bhqk,bkhd->bqhd", pattern, value), mix):
                return "the inside of its attention could not be verified: pattern · v is not z"
    except Exception as error:  # so can an attention of another kind
        return f"the inside of its attention could not be verified: {error}"
    return ""


def _equal(left: Tensor, right: Tensor, size: Tensor) -> bool:
    """Equal up to a few roundings of numbers of that size: beside huge residuals a small addend must still be seen.

    Broken weights give NaN on both sides: that says nothing of the names, and whoever reads the site is told.
    """
    if left.shape != right.shape:
        return False
    rounding = max(torch.finfo(left.dtype).eps, torch.finfo(right.dtype).eps)
    return bool(((left - right).abs() <= 8 * rounding * size).logical_or(left.isnan() & right.isnan()).all())


def _near(left: Tensor, right: Tensor) -> bool:
    """Equal up to what two ways of computing one attention differ by."""
    tolerance = 1e-3 if torch.finfo(right.dtype).bits >= 32 else 5e-2
    if left.shape != right.shape:
        return False
    left, right = left.nan_to_num(), right.nan_to_num()
    return bool((left - right).abs().max() <= tolerance * right.abs().max())


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
