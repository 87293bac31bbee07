"""Writes, early ends and restarts on every family: what they change, and that they change nothing else."""

from __future__ import annotations

import pytest
import torch
from contract import (
    PARALLEL,
    WITH_ATTENTION,
    all_sites,
    batch_of,
    close,
    everything,
    prefixes,
)
from families import FAMILIES, LAYERS, tiny
from torch import Tensor

from layerwise.models.restart import Start
from layerwise.models.sites import parse_site
from layerwise.models.taps import run


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=WITH_ATTENTION)
def attending(request: pytest.FixtureRequest) -> str:
    return request.param


def order(name: str) -> tuple[int, int, int]:
    """Where in a forward a site runs: stack, layer, place in the block; equal for sites that do not depend on each other."""
    site = parse_site(name)
    stack = 0 if site.name.startswith("encoder.") else 1
    places = {"embed": -1, "resid_pre": 0, "q": 1, "k": 1, "v": 1, "pattern": 2, "z": 3, "attn_out": 4, "resid_mid": 5,
              "resid_cross": 10, "router": 11, "mlp_post": 12, "mlp_out": 13, "resid_post": 14, "final_norm": 15, "logits": 16}  # fmt: skip
    place = 5 + places[site.kind] if "cross_" in site.name else places[site.kind]
    layer = 0 if site.kind == "embed" else LAYERS if site.layer is None else site.layer
    return stack, layer, place


def test_a_write_changes_later_sites_and_no_earlier_one(family: str) -> None:
    model = tiny(family)
    batch = batch_of(model)
    clean = everything(model, batch)
    for name in all_sites(model):
        generator = torch.Generator().manual_seed(0)

        def jolt(value: Tensor, generator: torch.Generator = generator) -> Tensor:
            return value + torch.randn(value.shape, generator=generator)

        dirty = everything(model, batch, {name: jolt})
        changed = {site for site in clean if not torch.equal(clean[site], dirty[site])}
        assert name in changed
        assert "logits" in changed, f"a write at {name} does not reach the logits"
        parallel = family in PARALLEL and parse_site(name).kind in ("mlp_post", "mlp_out")
        for site in changed - {name}:
            same = {name, site} in ({f"{p}embed", f"{p}resid_pre.0"} for p in prefixes(model))
            same = same or {name, site} in ({f"{p}resid_post.0", f"{p}resid_pre.1"} for p in prefixes(model))
            assert same or order(site) > order(name), f"a write at {name} changes {site}"
            assert not (parallel and parse_site(site).kind == "attn_out" and order(site)[1] == order(name)[1])
        again = everything(model, batch)
        assert all(torch.equal(clean[site], again[site]) for site in clean), f"a write at {name} stays"


def test_writing_what_is_there_changes_nothing(family: str) -> None:
    model = tiny(family)
    batch = batch_of(model, 6, 4)
    clean = everything(model, batch)
    dirty = everything(model, batch, {name: lambda value: value.clone() for name in all_sites(model)})
    for name, value in clean.items():
        close(dirty[name], value, 1e-5)


def test_writing_one_head_leaves_the_others(attending: str) -> None:
    model = tiny(attending)
    batch = batch_of(model)
    stack = prefixes(model)[0]
    clean = everything(model, batch)
    for kind in ("q", "k", "v", "pattern", "z"):
        site = f"{stack}{kind}.1"
        head = model.sites.heads_of(f"{stack}{kind}") - 1
        dirty = run(model, batch, {site: None, f"{site}.{head}": None}, {f"{site}.{head}": torch.zeros_like})
        axis = 1 if kind == "pattern" else 2
        rest = torch.tensor([index for index in range(clean[site].shape[axis]) if index != head], dtype=torch.long)
        assert torch.equal(dirty[f"{site}.{head}"], torch.zeros_like(dirty[f"{site}.{head}"]))
        close(dirty[site].index_select(axis, rest), clean[site].index_select(axis, rest), 1e-6)
    changed = run(model, batch, {f"{stack}attn_out.1": None}, {f"{stack}z.1.0": torch.zeros_like})
    assert not torch.allclose(changed[f"{stack}attn_out.1"], clean[f"{stack}attn_out.1"])


def test_stopping_early_gives_what_a_full_run_gives_and_runs_no_more(family: str) -> None:
    model = tiny(family)
    batch = batch_of(model, 6, 4)
    full = everything(model, batch)
    prefix = prefixes(model)[0]
    ran: list[int] = []
    blocks = [model.module.get_submodule(model.sites.stacks[prefix].block(layer)) for layer in range(LAYERS)]
    handles = [
        block.register_forward_pre_hook(lambda *_, layer=layer: ran.append(layer)) for layer, block in enumerate(blocks)
    ]
    try:
        early = run(model, batch, {f"{prefix}resid_post.0": None})
    finally:
        for handle in handles:
            handle.remove()
    assert ran == [0]
    close(early[f"{prefix}resid_post.0"], full[f"{prefix}resid_post.0"], 1e-5)


def test_a_run_restarted_at_a_layer_ends_as_the_full_run(family: str) -> None:
    model = tiny(family)
    batch = batch_of(model, 6, 4)
    for prefix in prefixes(model):
        start, end = f"{prefix}resid_pre.1", f"{prefix}resid_post.1"
        full = run(model, batch, {start: None, end: None}, logits=True)
        blocks = model.sites.stacks[prefix]
        attention = [
            part for part in model.module.get_submodule(blocks.block(0)).modules() if not list(part.children())
        ]
        ran: list[int] = []
        handle = attention[-1].register_forward_hook(lambda *_, ran=ran: ran.append(0))
        again = run(model, batch, {end: None}, logits=True, start=Start(start, full[start]))
        handle.remove()
        close(again[end], full[end], 1e-5)
        close(again["logits"], full["logits"], 1e-5)
        assert not ran or not blocks.plain_output
        moved = run(model, batch, {end: None}, start=Start(start, full[start] + torch.randn(full[start].shape)))
        assert not torch.allclose(moved[end], full[end], atol=1e-3)
