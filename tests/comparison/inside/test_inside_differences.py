"""Differences of models of one architecture: residuals by layer, attention by head, weights by module."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from layerwise.activations.collect import collect
from layerwise.comparison.inside import attention as attention_module
from layerwise.comparison.inside.attention import attention_divergence
from layerwise.comparison.inside.layers import layer_differences
from layerwise.comparison.inside.weights import weight_differences
from layerwise.errors import UserError
from layerwise.interventions.plan import Plan
from layerwise.interventions.standing import under_plan
from layerwise.models.batch import make_batch

differences = partial(layer_differences, progress=False)
attention = partial(attention_divergence, progress=False)


def patterns(model, text: str) -> np.ndarray:
    """(layers, heads, query, key) as transformers gives them."""
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    before = model.module.config._attn_implementation  # tiny models are shared by all tests
    model.module.set_attn_implementation("eager")
    with torch.no_grad():
        found = model.module(ids, output_attentions=True).attentions
    model.module.set_attn_implementation(before)
    return torch.stack(found)[:, 0].double().numpy()


def test_layers_are_compared_token_by_token(llama, other, lines) -> None:
    found = differences(llama, other, lines, "embed, resid_post.*").set_index("site")
    one, two = (collect(model, lines, "embed, resid_post.*", "none", progress=False) for model in (llama, other))
    for site in ("embed", "resid_post.0", "resid_post.1"):
        a, b = one.tokens(site), two.tokens(site)
        kept = np.setdiff1d(np.arange(len(a.values)), a.offsets[:-1])
        x, y = a.values[kept].astype(float), b.values[kept].astype(float)
        norms = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
        expected = [
            ((x * y).sum(1) / norms[0] / norms[1]).mean(),
            (np.linalg.norm(y - x, axis=1) / norms[0]).mean(),
            norms[0].mean(),
            norms[1].mean(),
            len(kept),
        ]
        np.testing.assert_allclose(found.loc[site].to_numpy(float)[1:], expected, rtol=1e-5)
    assert found["layer"].tolist()[1:] == [0, 1]


def test_a_model_does_not_differ_from_itself(llama, lines) -> None:
    layers = differences(llama, llama, lines)
    np.testing.assert_allclose(layers["cosine"], 1, atol=1e-12)
    assert (layers["relative_norm"] == 0).all()
    heads = attention(llama, llama, lines)
    assert (heads[["js", "total_variation", "kl"]].abs() < 1e-12).all(axis=None)
    weights = weight_differences(llama, llama)
    assert (weights[["difference", "largest", "relative"]] == 0).all(axis=None)
    np.testing.assert_allclose(weights["cosine"], 1, atol=1e-12)


def test_an_ablation_shows_from_its_layer_on(llama, lines) -> None:
    with under_plan(llama, Plan.read("{steps: [{operation: zero, sites: mlp_out.1}]}"), "no mlp_out.1") as silent:
        table = differences(llama, silent, lines, "resid_pre.1, resid_post.0, resid_post.1")
    found = table.set_index("site")["relative_norm"]
    assert found["resid_post.0"] == found["resid_pre.1"] == 0
    assert found["resid_post.1"] > 0.01


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi", "bloom", "gptj", "gemma2"])
def test_heads_are_compared_by_the_patterns_of_transformers(family, model_of, changed, lines) -> None:
    model = model_of(family)
    twin = changed(model)
    found = attention(model, twin, lines[:3]).set_index(["layer", "head"])
    sums, count = np.zeros((2, 2, 4)), 0
    for text in lines[:3]:
        p, q = patterns(model, text)[:, :, 1:], patterns(twin, text)[:, :, 1:]
        sums[0] += np.nan_to_num(jensenshannon(p, q, axis=-1) ** 2).sum(-1)
        sums[1] += np.abs(p - q).sum((-1, -2)) / 2
        count += p.shape[2]
    for name, expected in zip(("js", "total_variation"), sums / count, strict=True):
        np.testing.assert_allclose(found[name].to_numpy().reshape(2, 4), expected, atol=2e-5, err_msg=name)
    assert found["tokens"].eq(count).all()
    assert (found["js"] <= np.log(2)).all()


def test_batches_order_padding_and_memory_change_nothing(llama, other, lines, monkeypatch) -> None:
    columns = ["js", "total_variation", "kl", "entropy_a", "entropy_b"]
    first = attention(llama, other, lines)[columns]
    again = [attention(llama, other, lines[::-1]), attention(llama, other, lines, token_budget=1)]
    monkeypatch.setattr(attention_module, "PATTERN_BYTES", 2000)  # one text and one layer at a time
    again.append(attention(llama, other, lines))
    monkeypatch.setattr(attention_module, "make_batch", partial(make_batch, side="left"))
    again.append(attention(llama, other, lines))
    for found in again:
        np.testing.assert_allclose(found[columns], first, atol=1e-5)
    layers = differences(llama, other, lines)
    for found in (differences(llama, other, lines[::-1]), differences(llama, other, lines, token_budget=1)):
        np.testing.assert_allclose(found.iloc[:, 1:], layers.iloc[:, 1:], atol=1e-5)


def test_a_sink_is_one_more_place(model_of, changed, lines) -> None:
    model = model_of("gpt_oss")
    found = attention(model, changed(model, 0.3), lines)
    assert np.isfinite(found["kl"]).all()
    assert (found["js"] > 0).any()


def test_bidirectional_attention_too(model_of, changed, lines) -> None:
    model = model_of("bert")
    found = attention(model, changed(model), lines)
    assert len(found) == 8
    assert (found["js"] > 0).all()


def test_weights_are_compared_module_by_module(llama, other) -> None:
    found = weight_differences(llama, other).set_index("module")
    a, b = llama.module.model.layers[1].mlp.up_proj.weight, other.module.model.layers[1].mlp.up_proj.weight
    a, b = a.detach().double(), b.detach().double()
    row = found.loc["model.layers.1.mlp.up_proj"]
    assert row["layer"] == 1
    assert row["parameters"] == a.numel()
    assert row["difference"] == pytest.approx(float((b - a).norm()))
    assert row["relative"] == pytest.approx(float((b - a).norm() / a.norm()))
    assert row["cosine"] == pytest.approx(float((a * b).sum() / a.norm() / b.norm()))
    assert row["largest"] == pytest.approx(float((b - a).abs().max()))
    assert found["parameters"].sum() == sum(parameter.numel() for parameter in llama.module.parameters())
    assert found["layer"].isna().sum() == len([name for name in found.index if ".layers." not in name])


def test_shared_weights_count_once(model_of, changed) -> None:
    model = model_of("gpt2")
    found = weight_differences(model, changed(model))
    assert found["parameters"].sum() == model.num_parameters
    assert "lm_head" not in set(found["module"])


def test_models_that_cannot_be_subtracted_are_refused(llama, speller, model_of, lines) -> None:
    with pytest.raises(
        UserError, match="needs two models of one architecture: llama has 2 layers of width 16 and speller has 3"
    ):
        differences(llama, speller, lines)
    with pytest.raises(UserError, match="heads are compared of models of one architecture"):
        attention(llama, speller, lines)
    with pytest.raises(UserError, match=r"only (gpt2|llama) has"):
        weight_differences(llama, model_of("gpt2"))
    with pytest.raises(UserError, match="has no site pattern"):
        attention(model_of("mamba"), model_of("mamba"), lines)
    with pytest.raises(UserError, match="whole patterns"):
        attention(llama, llama, lines, "pattern.0.1")


def test_other_sizes_of_one_architecture_are_refused_by_module(speller, letters) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from layerwise.models.model import LanguageModel

    config = GPT2Config(vocab_size=len(letters), n_embd=16, n_layer=3, n_head=4, n_positions=128, pad_token_id=0)
    narrow = LanguageModel(GPT2LMHeadModel(config).eval(), letters, "narrow")
    with pytest.raises(
        UserError, match=r"transformer.wte.weight has the shapes \[30, 24\]|has the shapes \[31, 24\] and \[31, 16\]"
    ):
        weight_differences(speller, narrow)


def test_two_tokenizers_are_refused_where_axes_are_shared(llama, letters, lines) -> None:
    from layerwise.models.model import LanguageModel

    spelling = LanguageModel(llama.module, letters, "spelling")
    for compare in (differences, attention):
        with pytest.raises(UserError, match=r"(have two|two tokenizers)"):
            compare(llama, spelling, lines)
