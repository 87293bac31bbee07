"""Token by token: against plain transformers and float64, in every mode, for one tokenizer and for two."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import entropy

from layerwise.comparison.token_level import MEASURES, compare_tokens
from layerwise.errors import UserError
from layerwise.interventions.plan import Plan
from layerwise.interventions.standing import under_plan
from layerwise.models.batch import make_batch
from layerwise.models.config import ModelConfig
from layerwise.models.model import LanguageModel

compare = partial(compare_tokens, progress=False)
AGREEMENTS = ("top1_agreement", "top_k_agreement")


def plain(model: LanguageModel, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Token ids, and what plain transformers predicts from each position, (tokens, vocabulary) log-probabilities."""
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        return ids[0].numpy(), log_softmax(model.module(ids).logits[0].double().numpy(), axis=-1)


@pytest.fixture(scope="module")
def found(llama, other, lines):
    return compare(llama, other, lines)


def test_every_number_is_the_one_computed_directly(llama, other, lines, found) -> None:
    for number, text in enumerate(lines):
        rows = found.table[found.table["text"] == number]
        ids, p = plain(llama, text)
        _, q = plain(other, text)
        assert len(rows) == len(ids) - 1  # <s> is not predicted
        before, target = np.arange(len(ids) - 1), ids[1:]
        p, q = p[before], q[before]
        mean = (np.exp(p) + np.exp(q)) / 2
        direct = {
            "log_p_a": p[before, target],
            "log_p_b": q[before, target],
            "kl": entropy(np.exp(p), np.exp(q), axis=-1),
            "reverse_kl": entropy(np.exp(q), np.exp(p), axis=-1),
            "js": (entropy(np.exp(p), mean, axis=-1) + entropy(np.exp(q), mean, axis=-1)) / 2,
            "total_variation": np.abs(np.exp(p) - np.exp(q)).sum(-1) / 2,
            "top1_agreement": p.argmax(-1) == q.argmax(-1),
            "rank_a": (p > p[before, target][:, None]).sum(-1),
            "entropy_difference": entropy(np.exp(q), axis=-1) - entropy(np.exp(p), axis=-1),
        }
        for name, values in direct.items():
            np.testing.assert_allclose(rows[name], values, atol=1e-5, err_msg=name)
        tops = [np.argsort(-one, axis=-1)[:, :5] for one in (p, q)]
        shared = [len(set(a) & set(b)) / 5 for a, b in zip(*tops, strict=True)]
        np.testing.assert_allclose(rows["top_k_agreement"], shared)
        np.testing.assert_allclose(rows["rank_change"], rows["rank_b"] - rows["rank_a"])
        assert list(rows["token"]) == text.split()
        assert [row[0] for row in rows["top_a"]] == [llama.tokenizer.decode([one]) for one in p.argmax(-1)]


@pytest.mark.parametrize("mode", ["together", "head", "top_k"])
def test_a_model_does_not_differ_from_itself(llama, lines, mode) -> None:
    table = compare(llama, llama, lines, mode=mode, stored=10).table
    for name in MEASURES:
        expected = 1 if name in AGREEMENTS else 0
        # By its head alone the logits come from another product, of equal numbers in another order.
        np.testing.assert_allclose(table[name], expected, atol=1e-6 if mode == "head" else 1e-12, err_msg=name)


def test_one_after_the_other_by_head_gives_the_same_numbers(llama, other, lines, found) -> None:
    after = compare(llama, other, lines, mode="head")
    for name in (*MEASURES, "log_p_a", "log_p_b"):
        np.testing.assert_allclose(after.table[name], found.table[name], atol=1e-5, err_msg=name)
    assert "whole distributions" in after.method


def test_one_after_the_other_by_top_k_bounds_from_below_and_says_so(llama, other, lines, found) -> None:
    after = compare(llama, other, lines, mode="top_k", stored=8)
    assert "lower bounds" in after.method
    assert "8 most likely" in after.method
    for name in ("kl", "reverse_kl", "js", "total_variation"):
        assert (after.table[name] <= found.table[name] + 1e-9).all()
        assert after.table[name].mean() > 0.3 * found.table[name].mean()
    for name in ("top1_agreement", "top_k_agreement", "rank_change", "entropy_difference", "log_p_difference"):
        np.testing.assert_allclose(after.table[name], found.table[name], atol=1e-9, err_msg=name)
    nearly = compare(llama, other, lines, mode="top_k", stored=39)
    np.testing.assert_allclose(nearly.table["kl"], found.table["kl"], atol=1e-5)


def test_models_named_are_loaded_in_their_turn(tiny_model_folder: Path, lines) -> None:
    name = ModelConfig(name=str(tiny_model_folder), device="cpu")
    twin = ModelConfig(name=str(tiny_model_folder), device="cpu", random_init=True, random_seed=5)
    together, after = compare(name, twin, lines[:3]), compare(name, twin, lines[:3], mode="head")
    np.testing.assert_allclose(after.table["kl"], together.table["kl"], atol=1e-5)
    assert together.table["kl"].mean() > 1e-3


def test_batches_order_and_padding_change_nothing(llama, other, lines, found, monkeypatch) -> None:
    columns = [*MEASURES, "log_p_a", "entropy_b"]
    alone = compare(llama, other, lines, token_budget=1)
    np.testing.assert_allclose(alone.table[columns], found.table[columns], atol=1e-5)
    backwards = compare(llama, other, lines[::-1]).select(np.arange(len(lines))[::-1])
    np.testing.assert_allclose(backwards.table[columns], found.table[columns], atol=1e-5)
    left = partial(make_batch, side="left")
    monkeypatch.setattr("layerwise.comparison.predictions.make_batch", left)
    np.testing.assert_allclose(compare(llama, other, lines).table[columns], found.table[columns], atol=1e-5)


def test_perplexity_is_that_of_transformers_loss(llama, lines, found) -> None:
    ids = torch.tensor([llama.tokenizer(lines[0])["input_ids"]])
    with torch.no_grad():
        loss = llama.module(ids, labels=ids).loss.item()
    first = found.by_text().iloc[0]
    assert first["perplexity_a"] == pytest.approx(np.exp(loss), rel=1e-5)
    rows = found.table[found.table["text"] == 0]
    assert first["max_perplexity_a"] == pytest.approx(np.exp(-rows["log_p_a"].min()))
    overall = found.perplexity()
    assert overall["perplexity"][0] == pytest.approx(np.exp(-found.table["log_p_a"].mean()))
    assert overall["max"][1] == pytest.approx(found.by_text()["perplexity_b"].max())


def test_bits_per_byte_count_every_byte_after_the_first_predicted(llama, other, lines, found) -> None:
    assert found.by_text()["bytes"].tolist() == [len(line) for line in lines]
    summary = found.summary().set_index("name")
    bits = -found.table["log_p_a"].sum() / np.log(2) / sum(map(len, lines))
    assert summary.loc["bits_per_byte_a", "mean"] == pytest.approx(bits)
    assert summary.loc["kl", "low"] < summary.loc["kl", "mean"] < summary.loc["kl", "high"]
    assert summary.loc["kl", "max"] == found.table["kl"].max()


def test_two_tokenizers_meet_at_characters(llama, speller, lines) -> None:
    both = compare(llama, speller, lines)
    assert not both.one_tokenizer
    assert both.measures == ("log_p_difference",)
    assert list(both.table[both.table["text"] == 0]["token"].str.strip()) == lines[0].split()
    assert both.table["tokens_a"].eq(1).all()
    assert both.table["tokens_b"].tolist() == [len(token) for token in both.table["token"]]
    for number, text in enumerate(lines[:3]):
        ids, p = plain(speller, text)
        whole = p[np.arange(len(ids) - 1), ids[1:]].sum()
        assert both.table[both.table["text"] == number]["log_p_b"].sum() == pytest.approx(whole, abs=1e-4)
    assert both.by_text()["bytes"].tolist() == [len(line) for line in lines]
    turned = compare(speller, llama, lines)
    np.testing.assert_allclose(turned.table["log_p_difference"], -both.table["log_p_difference"])
    after = compare(llama, speller, lines, mode="head")
    np.testing.assert_allclose(after.table["log_p_b"], both.table["log_p_b"], atol=1e-5)


def test_an_ablated_model_is_a_side_like_any_other(llama, lines) -> None:
    with under_plan(llama, Plan.read("{steps: [{operation: zero, sites: mlp_out.1}]}"), "no mlp_out.1") as silent:
        found = compare(llama, silent, lines)
        assert silent.fingerprint != llama.fingerprint
    assert found.models == ("llama", "no mlp_out.1")
    assert found.table["kl"].mean() > 0.01
    nothing = Plan.read("{steps: [{operation: {kind: scale, factor: 1}, sites: mlp_out.1}]}")
    with under_plan(llama, nothing, "nothing") as same:
        assert compare(llama, same, lines).table["kl"].max() == 0


@pytest.mark.parametrize("family", ["gpt2", "gptj", "falcon", "bloom", "gemma2", "granite", "cohere", "opt", "mamba", "qwen3", "mixtral",
                                    "layerwise_modern", "layerwise_lstm"])  # fmt: skip
def test_families(family, model_of, changed, lines) -> None:
    model = model_of(family)
    twin = changed(model)
    table = compare(model, twin, lines[:3]).table
    ids, p = plain(model, lines[1])
    rows = table[table["text"] == 1]
    np.testing.assert_allclose(rows["log_p_a"], p[np.arange(len(ids) - 1), ids[1:]], atol=2e-4)
    after = compare(model, twin, lines[:3], mode="head").table
    np.testing.assert_allclose(after["kl"], table["kl"], atol=1e-4)
    assert table["kl"].max() > 1e-4


def test_select_and_its_limits(found) -> None:
    part = found.select(np.array([2, 0]))
    assert part.texts == (found.texts[2], found.texts[0])
    assert len(part) == 3 + 7
    with pytest.raises(UserError, match="choose from texts 0 to 7"):
        found.select(np.array([], dtype=int))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": []}, "at least one"),
        ({"measures": ["kll"]}, "unknown measure 'kll'. Did you mean 'kl'"),
        ({"mode": "both"}, "unknown mode"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"mode": "top_k", "stored": 2}, "stored at least top_k"),
    ],
)
def test_bad_input(llama, other, lines, arguments, message) -> None:
    with pytest.raises(UserError, match=message):
        compare(llama, other, **{"texts": lines, **arguments})


def test_what_cannot_be_compared_is_refused_by_name(llama, speller, model_of, lines, tiny_tokenizer) -> None:
    with pytest.raises(UserError, match=r"kl, js needs one tokenizer, and llama and speller have two"):
        compare(llama, speller, lines, measures=["kl", "js", "log_p_difference"])
    for family in ("bert", "t5"):
        with pytest.raises(UserError, match=f"{family} does not predict the next token"):
            compare(llama, model_of(family), lines)
    bare = LanguageModel(llama.module.model, tiny_tokenizer, "bare")
    with pytest.raises(UserError, match="bare does not predict the next token"):
        compare(llama, bare, lines)
