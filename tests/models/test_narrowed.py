"""The last MLP for the tokens that are read: they come to the same, the others are left out, and where it cannot hold nothing happens."""

from __future__ import annotations

import pytest
import torch
from contract import batch_of
from families import FAMILIES, LAYERS, tiny
from torch import Tensor

from layerwise.models.narrowed import last_mlp_only_at
from layerwise.models.taps import run

LAST = f"resid_post.{LAYERS - 1}"
NARROWS = ("llama", "gpt2", "gpt_neox", "qwen3", "bert")
STAYS = ("t5", "mixtral", "mamba")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_tokens_that_are_read_come_to_the_same(family: str) -> None:
    model = tiny(family)
    batch = batch_of(model, 6, 4)
    rows, places = torch.tensor([0, 1]), torch.tensor([2, 5])
    site = LAST if LAST in model.sites.names() else model.sites.names()[-1]

    def read(value: Tensor) -> Tensor:
        return value[rows, places]

    whole = run(model, batch, {site: None})[site]
    with last_mlp_only_at(model, rows, places):
        some = run(model, batch, {site: None})[site]
    torch.testing.assert_close(read(some), read(whole), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(run(model, batch, {site: None})[site], whole, atol=0, rtol=0)
    if family in NARROWS:
        assert not torch.allclose(some[0, 3], whole[0, 3])
    if family in STAYS:
        torch.testing.assert_close(some, whole, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("site", "narrows"),
    [
        ("resid_pre.0", True),
        ("z.*", True),
        ("mlp_out.0", True),
        ("mlp_out.-1", False),
        ("mlp_post.*", False),
        (LAST, False),
        ("model.norm.input", False),
    ],
)
def test_a_model_that_is_written_there_stays_whole(site: str, narrows: bool) -> None:
    model = tiny("llama")
    batch = batch_of(model, 6, 4)
    whole = run(model, batch, {LAST: None})[LAST]
    with last_mlp_only_at(model, torch.tensor([0]), torch.tensor([2]), [site]):
        some = run(model, batch, {LAST: None})[LAST]
    assert torch.equal(some, whole) is not narrows


def test_where_most_tokens_are_read_all_of_them_run() -> None:
    model = tiny("llama")
    batch = batch_of(model, 6, 4)
    rows, places = batch.mask.nonzero().unbind(1)
    whole = run(model, batch, {LAST: None})[LAST]
    with last_mlp_only_at(model, rows, places):
        assert torch.equal(run(model, batch, {LAST: None})[LAST], whole)
