"""A forward begun at a layer: the same end, nothing skipped by mistake, nothing left behind."""

from __future__ import annotations

import pytest
import torch
from families import Tiny, texts, tiny

from layerwise.errors import UserError
from layerwise.models.batch import Batch, make_batch
from layerwise.models.restart import Start
from layerwise.models.taps import run


@pytest.fixture(scope="module")
def llama() -> Tiny:
    return tiny("llama")


@pytest.fixture(scope="module")
def batch(llama: Tiny) -> Batch:
    return make_batch(llama, texts(6, 4, 5), range(3))


def test_a_forward_someone_else_replaced_comes_back(llama: Tiny, batch: Batch) -> None:
    block = llama.module.model.layers[0]
    original = block.forward

    def theirs(*args, **kwargs):
        return original(*args, **kwargs) + 1.0

    block.forward = theirs
    try:
        full = run(llama, batch, {"resid_pre.1": None})["resid_pre.1"]
        run(llama, batch, {"resid_post.1": None}, start=Start("resid_pre.1", full))
        assert block.forward is theirs
    finally:
        del block.forward


def test_a_start_is_a_resid_pre_and_nothing_before_it_can_be_tapped(llama: Tiny, batch: Batch) -> None:
    hidden = torch.zeros(3, 6, 16)
    with pytest.raises(UserError, match="can start at a resid_pre only"):
        run(llama, batch, {"resid_post.1": None}, start=Start("resid_post.0", hidden))
    with pytest.raises(UserError, match=r"resid_post\.0 lies before resid_pre\.1"):
        run(llama, batch, {"resid_post.0": None}, start=Start("resid_pre.1", hidden))
    with pytest.raises(UserError, match="out of range"):
        run(llama, batch, {"resid_post.0": None}, start=Start("resid_pre.7", hidden))


def test_a_restart_works_with_writes_and_with_the_pattern(llama: Tiny, batch: Batch) -> None:
    writes = {"z.1.2": torch.zeros_like}
    full = run(llama, batch, {"resid_pre.1": None, "pattern.1": None}, writes, logits=True)
    again = run(
        llama, batch, {"pattern.1": None}, writes, logits=True, start=Start("resid_pre.-1", full["resid_pre.1"])
    )
    torch.testing.assert_close(again["pattern.1"], full["pattern.1"])
    torch.testing.assert_close(again["logits"], full["logits"])
