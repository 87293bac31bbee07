"""The map between two models' residuals, and a probe carried over by it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from transformers import GPT2Config, GPT2LMHeadModel

from layerwise.activations.collect import collect
from layerwise.comparison.inside.residual_map import fit_residual_map
from layerwise.errors import UserError
from layerwise.interventions.plan import Plan
from layerwise.interventions.standing import under_plan
from layerwise.models.model import LanguageModel

fit = partial(fit_residual_map, progress=False)


@pytest.fixture(scope="module")
def many(lines) -> list[str]:
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(" ".join(lines).split(), 10)) for _ in range(120)]


def test_a_rotation_is_found_exactly(llama, many) -> None:
    turn, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
    turning = Plan.read("{steps: [{operation: custom, sites: resid_post.1, name: turn}]}")
    with under_plan(llama, turning, "turned", given={"turn": lambda value: value @ turn + 2}) as turned:
        found = fit(llama, turned, many, "resid_post.1", "resid_post.1")
    assert found.r2 == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found.map.weight, turn.numpy(), atol=1e-2)


@pytest.fixture(scope="module")
def wide(tiny_tokenizer) -> LanguageModel:
    torch.manual_seed(4)
    config = GPT2Config(
        vocab_size=len(tiny_tokenizer),
        n_embd=24,
        n_layer=3,
        n_head=4,
        n_positions=64,
        pad_token_id=0,
        initializer_range=0.3,
    )
    return LanguageModel(GPT2LMHeadModel(config).eval(), tiny_tokenizer, "wide")


def test_a_probe_of_one_model_works_on_another_of_other_width(llama, wide, many) -> None:
    """Whether a text ends in "the" or "is", or in other words; the probe sees one model alone, the map other texts alone."""
    texts = [
        f"{text.rpartition(' ')[0]} {word}" for text, word in zip(many, ["the", "is", "and", "not"] * 30, strict=True)
    ]
    labels = np.array([1, 1, 0, 0] * 30)
    own, others = (
        collect(model, texts, site, "last", progress=False).matrix(site)
        for model, site in ((llama, "resid_post.0"), (wide, "resid_post.0"))
    )
    probe = LogisticRegression(max_iter=2000).fit(own[:80], labels[:80])
    carry = fit(wide, llama, many, "resid_post.0", "resid_post.0")
    assert carry(others).shape == (120, 16)
    assert 0.05 < carry.r2 < 1
    assert probe.score(carry(others)[80:], labels[80:]) > 0.65  # of two equally frequent kinds
    assert (carry.source, carry.target) == ("wide", "llama")


def test_two_tokenizers_are_brought_together(llama, speller, many) -> None:
    found = fit(speller, llama, many, "resid_post.2", "resid_post.1")
    assert 0.01 < found.r2 < 0.9
    assert found.map.weight.shape == (24, 16)


def test_mapped_means_are_means_of_mapped_vectors(llama, other, many) -> None:
    found = fit(llama, other, many, "resid_post.0", "resid_post.1")
    x = np.random.default_rng(0).normal(size=(7, 16))
    np.testing.assert_allclose(found(x).mean(0), found(x.mean(0)), atol=1e-5)


def test_order_and_batches_change_nothing(llama, other, many) -> None:
    first = fit(llama, other, many, "resid_post.0", "resid_post.1")
    for again in (
        fit(llama, other, many[::-1], "resid_post.0", "resid_post.1"),
        fit(llama, other, many, "resid_post.0", "resid_post.1", token_budget=1),
    ):
        assert again.r2 == pytest.approx(first.r2, abs=1e-5)
        assert again.penalty == first.penalty


def test_bad_input(llama, other, many) -> None:
    with pytest.raises(UserError, match="means 2 sites"):
        fit(llama, other, many, "resid_post.*", "resid_post.1")
    with pytest.raises(UserError, match="at least 5 texts"):
        fit(llama, other, many[:3], "resid_post.0", "resid_post.1")
