"""What must change nothing changes nothing, on every architecture, with padding: a model patched with itself, operations that do nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import FAMILIES, WIDTH, Tiny, texts, tiny, traces
from torch import Tensor

from layerwise.interventions.intervened import Intervened
from layerwise.interventions.plan import Plan
from layerwise.models.batch import Batch, make_batch

LENGTHS = (6, 4, 6, 4)
LATENTS = 12


def batch_of(model: Tiny, *indices: int) -> Batch:
    return make_batch(model, texts(*LENGTHS), list(indices))


def sites_of(model: Tiny) -> list[str]:
    names = model.sites.names()
    return [site for name in names for site in model.sites.expand(f"{name}.*" if model.sites._names[name] else name)]


def plan(operation: Any, *sites: str) -> Plan:
    return Plan.of({"steps": [{"operation": operation, "sites": list(sites), "name": "step"}]})


def output(intervened: Intervened, batch: Batch, source: Batch | None = None) -> Tensor:
    """What the model gives for the real tokens of the base."""
    sources = {"source": source} if intervened.plan.order() else {}
    with torch.no_grad():
        return intervened(batch, sources).output[0][batch.mask] if source else intervened.clean(batch)[0][batch.mask]


def autoencoder() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (WIDTH, LATENTS), "W_dec": (LATENTS, WIDTH), "b_enc": (LATENTS,), "b_dec": (WIDTH,)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


# What swaps a thing with itself, or moves it by nothing, and what is given for it.
SELF: dict[str, tuple[Any, Any]] = {
    "interchange": ("interchange", None),
    "rotation": ("rotation", None),
    "low_rank_rotation": ({"kind": "low_rank_rotation", "rank": 1}, None),
    "boundless": ("boundless", None),
    "mask": ("mask", None),
    "rotated_mask": ({"kind": "mask", "rotated": True}, None),
    "pca": ({"kind": "pca", "components": 3}, None),
    "sae": ({"kind": "sae", "file": "given"}, autoencoder()),
    "topk": ({"kind": "sae", "file": "given", "activation": "topk", "k": 4, "center": True}, autoencoder()),
    "collect": ("collect", None),
    "add": ({"kind": "add", "strength": 0, "vector": "given"}, torch.ones(WIDTH)),
    "add_source": ({"kind": "add", "strength": 0}, None),
    "subtract": ({"kind": "subtract", "strength": 0, "vector": "given"}, torch.ones(WIDTH)),
    "scale": ({"kind": "scale", "factor": 1}, None),
    "scale_along": ({"kind": "scale", "factor": 1, "vector": "given"}, torch.ones(WIDTH)),
    "clamp": ({"kind": "clamp", "low": -1e6, "high": 1e6, "vector": "given"}, torch.ones(WIDTH)),
    "noise": ({"kind": "noise", "scale": 0}, None),
    "custom": ({"kind": "custom"}, lambda base: base),
}
UNTRAINED = {"lora": {"kind": "lora", "rank": 2}, "reft": {"kind": "reft", "rank": 2}}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_patched_with_itself_at_once(family: str) -> None:
    model = tiny(family)
    before, batch = traces(model.module), batch_of(model, 0, 1)
    everywhere = Intervened(model, plan("interchange", *sites_of(model)))
    torch.testing.assert_close(output(everywhere, batch, batch), output(everywhere, batch), atol=1e-4, rtol=1e-4)
    assert traces(model.module) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_that_should_be_the_identity(family: str) -> None:
    model = tiny(family)
    before, batch = traces(model.module), batch_of(model, 0, 1)
    first = next(iter(model.sites.stacks))
    places = f"{first}resid_post.0", f"{first}resid_pre.1"
    for name, (operation, given) in SELF.items():
        intervened = Intervened(model, plan(operation, *places), given={} if given is None else {"step": given})
        if name == "pca":
            intervened.fit([batch])
        assert torch.equal(output(intervened, batch, batch), output(intervened, batch)), name
    for name, operation in UNTRAINED.items():  # a product of the same numbers, taken in another order
        module = model.sites.stacks[first].block(0)
        intervened = Intervened(model, plan(operation, f"{module}.output"))
        torch.testing.assert_close(
            output(intervened, batch, batch), output(intervened, batch), atol=1e-4, rtol=1e-4, msg=name
        )
    assert traces(model.module) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_space_swapped_in_a_rotation_is_the_interchange(family: str) -> None:
    model = tiny(family)
    batch, source = batch_of(model, 0, 1), batch_of(model, 2, 3)
    site = f"{next(iter(model.sites.stacks))}resid_post.0"
    plainly = Intervened(model, plan("interchange", site))
    expected = output(plainly, batch, source)
    assert (expected - output(plainly, batch)).abs().max() > 1e-3
    spaces: dict[str, Any] = {
        "rotation": "rotation",
        "full rank": {"kind": "low_rank_rotation", "rank": WIDTH},
        "open mask": {"kind": "mask", "start": 100.0, "rotated": True},
    }
    for name, operation in spaces.items():
        found = output(Intervened(model, plan(operation, site)), batch, source)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3, msg=name)
