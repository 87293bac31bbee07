"""Inside attention and routers: which maths runs, what nests, what is put back."""

from __future__ import annotations

import pytest
import torch
from families import Tiny, texts, tiny, traces

from layerwise.models.batch import Batch, make_batch
from layerwise.models.taps import run, tapped


@pytest.fixture(scope="module")
def llama() -> Tiny:
    return tiny("llama")


@pytest.fixture(scope="module")
def batch(llama: Tiny) -> Batch:
    return make_batch(llama, texts(6, 4, 5), range(3))


def test_an_inner_context_for_other_sites_does_not_disturb_the_outer(llama: Tiny, batch: Batch) -> None:
    with torch.no_grad(), tapped(llama, {"pattern.0": None}) as outer:
        with tapped(llama, {"q.0": None}) as inner:
            llama.module(**batch.inputs)
        assert "q.0" in inner
        first = outer["pattern.0"]
        llama.module(**batch.inputs)
        torch.testing.assert_close(outer["pattern.0"], first)
    assert llama.module.config._attn_implementation == "sdpa"


def test_fused_attention_stays_unless_the_pattern_is_asked_for(llama: Tiny, batch: Batch, monkeypatch) -> None:
    fused: list[int] = []
    kernel = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: (fused.append(1), kernel(*a, **k))[1]
    )
    run(llama, batch, {"resid_post.*": None, "q.*": None, "k.*": None, "v.*": None, "z.*": None})
    assert len(fused) == 2
    run(llama, batch, {"pattern.1": None, "resid_post.1": None})
    assert len(fused) == 2


def test_router_gates_are_taken_off() -> None:
    model = tiny("gpt_oss")
    before = traces(model.module)
    batch = make_batch(model, texts(5, 3), range(2))
    run(model, batch, {"router.*": None, "resid_post.1": None}, {"router.0": torch.zeros_like})
    assert traces(model.module) == before


def test_router_and_experts_of_a_mixture() -> None:
    model = tiny("gpt_oss")
    batch = make_batch(model, texts(6, 4), range(2))
    found = run(model, batch, {"router.0": None, "mlp_out.0": None, "model.layers.0.mlp.experts.output": None})
    assert found["router.0"].shape == (2, 6, 4)
    torch.testing.assert_close(found["model.layers.0.mlp.experts.output"].view(2, 6, 16), found["mlp_out.0"])
    only = torch.tensor([50.0, 0.0, -50.0, -50.0])
    chosen = run(
        model,
        batch,
        {"model.layers.0.mlp.router.output": None, "mlp_out.0": None},
        {"router.0": lambda logits: only.expand_as(logits)},
    )
    assert not torch.allclose(chosen["mlp_out.0"], found["mlp_out.0"])
    logits = chosen["model.layers.0.mlp.router.output"]
    assert torch.equal(logits, only.expand_as(logits))


def test_a_pattern_can_be_written_while_an_encoder_decoder_generates() -> None:
    model = tiny("t5")
    batch = make_batch(model, texts(6), [0])
    prompt = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
    shapes: list[tuple[int, ...]] = []
    with tapped(model, {"cross_pattern.1": lambda value: (shapes.append(tuple(value.shape)), value)[1]}):
        model.module.generate(**prompt, max_new_tokens=3, min_new_tokens=3)
    assert shapes == [(1, 4, 1, 6)] * 3
