"""Collection against plain transformers, each text read alone."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
import torch

from layerwise.activations import meter
from layerwise.activations.collect import collect
from layerwise.activations.passes import Passes
from layerwise.activations.poolers import Mean
from layerwise.data.dataset import TextDataset
from layerwise.errors import UserError

from .conftest import TEXTS

close = {"rtol": 2e-5, "atol": 2e-6}


def quietly(model, texts=TEXTS, *args, **kwargs):
    return collect(model, texts, *args, progress=False, **kwargs)


@pytest.mark.parametrize("budget", [1, 20, 4096])
def test_every_layer_and_pooler_in_input_order(model, blocks, budget) -> None:
    got = quietly(model, TEXTS, "resid_post.*", "mean,last,first,max,quantile:0.5,last_k:2", token_budget=budget)
    expected = {
        "mean": lambda x: x.mean(0),
        "last": lambda x: x[-1],
        "first": lambda x: x[0],
        "max": lambda x: x.max(0),
        "quantile:0.5": lambda x: x[round(0.5 * (len(x) - 1))],
        "last_k:2": lambda x: x[-2:].mean(0),
    }
    assert got.keys == [(f"resid_post.{layer}", label) for layer in range(2) for label in expected]
    for layer in range(2):
        for label, pooled in expected.items():
            wanted = np.stack([pooled(text[layer]) for text in blocks])
            np.testing.assert_allclose(got.matrix(f"resid_post.{layer}", label), wanted, **close)


def test_every_token_without_pooling(model, blocks) -> None:
    tokens = quietly(model, TEXTS, "resid_post.1", "none", token_budget=30).tokens("resid_post.1")
    assert len(tokens) == len(TEXTS)
    for index, text in enumerate(blocks):
        np.testing.assert_allclose(tokens[index], text[1], **close)
    np.testing.assert_allclose(tokens.values, np.concatenate([text[1] for text in blocks]), **close)


def test_pooled_and_token_level_at_once(model, blocks) -> None:
    got = quietly(model, TEXTS, "resid_post.0", "none,mean,none@text")
    np.testing.assert_allclose(got.matrix("resid_post.0", "mean"), [t[0].mean(0) for t in blocks], **close)
    np.testing.assert_allclose(got.tokens("resid_post.0", "none")[2], blocks[2][0], **close)
    np.testing.assert_allclose(got.tokens("resid_post.0", "none@text")[2], blocks[2][0][1:], **close)


def test_all_means_every_block(model) -> None:
    assert quietly(model, TEXTS[:2], "all", "last").sites == ["resid_post.0", "resid_post.1"]
    assert quietly(model, TEXTS[:2], ["embed", "all"], "last").sites == ["embed", "resid_post.0", "resid_post.1"]


def test_sites_of_many_kinds_in_one_pass(model) -> None:
    sites = ["embed", "resid_mid.*", "attn_out.1", "z.1", "z.1.3", "k.0", "mlp_post.0", "final_norm", "logits"]
    got = quietly(model, TEXTS, sites, "last")
    widths = {site: got.matrix(site).shape for site in got.sites}
    vocabulary = len(model.tokenizer)
    assert widths == {
        "embed": (7, 16), "resid_mid.0": (7, 16), "resid_mid.1": (7, 16), "attn_out.1": (7, 16), "z.1": (7, 16),
        "z.1.3": (7, 4), "k.0": (7, 8), "mlp_post.0": (7, 32), "final_norm": (7, 16), "logits": (7, vocabulary),
    }  # fmt: skip
    np.testing.assert_array_equal(got.matrix("z.1.3"), got.matrix("z.1")[:, 12:])
    with torch.no_grad():
        logits = [model.module(**model.tokenizer(text, return_tensors="pt")).logits[0, -1].numpy() for text in TEXTS]
    np.testing.assert_allclose(got.matrix("logits"), logits, rtol=1e-4, atol=1e-5)


def test_the_forward_ends_at_the_deepest_site_and_leaves_no_hooks(model) -> None:
    ran = []
    hooks = [
        module.register_forward_hook(lambda _m, _a, _o, name=name: ran.append(name))
        for name, module in model.module.named_modules()
    ]
    quietly(model, TEXTS, "resid_post.0", "mean")
    for hook in hooks:
        hook.remove()
    assert "model.layers.0.mlp" in ran
    assert not any(name.startswith(("model.layers.1", "model.norm", "lm_head")) for name in ran)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.module.modules())


def test_a_dataset_brings_its_spans_and_pairs(model, blocks) -> None:
    spans = np.array([[text.index(" "), len(text)] if " " in text else [0, len(text)] for text in TEXTS])
    data = TextDataset("spans", tuple(TEXTS), spans=spans)
    got = quietly(model, data, "resid_post.1", "span").matrix("resid_post.1")
    wanted = [text[1][2 if " " in TEXTS[index] else 1 :].mean(0) for index, text in enumerate(blocks)]
    np.testing.assert_allclose(got, wanted, **close)
    pairs = TextDataset("pairs", ("the dog", "rome"), pairs=("a cat runs", "paris"))
    with torch.no_grad():
        batch = model.tokenizer("the dog", "a cat runs", return_tensors="pt")
        alone = model.module.model(**batch).last_hidden_state[0, -1].numpy()
    np.testing.assert_allclose(quietly(model, pairs, "final_norm", "last").matrix("final_norm")[0], alone, **close)


def test_the_mean_over_chosen_token_ids(model, blocks) -> None:
    dot = model.tokenizer.convert_tokens_to_ids(".")
    rows = [0, 2, 4]
    got = quietly(model, [TEXTS[row] for row in rows], "resid_post.1", f"token_ids:{dot}")
    np.testing.assert_allclose(got.matrix("resid_post.1"), [blocks[row][1][-1] for row in rows], **close)
    with pytest.raises(UserError, match="text 1 holds none of these token ids"):
        quietly(model, TEXTS, "resid_post.1", f"token_ids:{dot}")


@pytest.mark.parametrize(("dtype", "digits"), [("float16", 2e-3), ("bfloat16", 1.6e-2)])
def test_half_precision_is_kept_and_read_as_float32(model, dtype, digits) -> None:
    exact = quietly(model, TEXTS, "resid_post.*", "mean")
    half = quietly(model, TEXTS, "resid_post.*", "mean", dtype=dtype)
    assert half.report.bytes * 2 == exact.report.bytes
    assert half.matrix("resid_post.1").dtype == np.float32
    np.testing.assert_allclose(half.matrix("resid_post.1"), exact.matrix("resid_post.1"), rtol=digits, atol=digits)
    assert (half.matrix("resid_post.1") != exact.matrix("resid_post.1")).any()


def test_the_report_counts(model, capsys) -> None:
    got = collect(model, TEXTS, "resid_post.*", "mean,last", max_length=5)
    report = got.report
    lengths = [min(len(model.tokenizer(text)["input_ids"]), 5) for text in TEXTS]
    assert (report.texts, report.tokens, report.computed_tokens) == (7, sum(lengths), sum(lengths))
    assert report.truncated == 4
    assert report.notes[0].startswith("4 of 7 texts were cut")
    assert report.bytes == 7 * 16 * 4 * 4
    assert report.seconds > 0
    assert report.tokens_per_second == pytest.approx(report.tokens / report.seconds)
    assert f"7 texts, {sum(lengths)} tokens, 2 sites × 2 poolers: 1.8 kB" in capsys.readouterr().err
    assert len(got.tokenized) == 7


def test_long_work_says_how_long_it_will_take(model, capsys, monkeypatch) -> None:
    monkeypatch.setattr(meter, "WORTH_SAYING", 0.1)
    hook = model.module.model.register_forward_pre_hook(lambda _m, _a: time.sleep(0.1))
    collect(model, TEXTS, "resid_post.0", "mean", token_budget=20)
    hook.remove()
    first, second = capsys.readouterr().err.splitlines()[:2]
    assert first == "collect: 7 texts, 49 tokens, 1 site × 1 pooler: 448 bytes"
    assert re.fullmatch(r"collect: about [0-9] seconds", second)


def test_a_batch_too_large_for_memory_is_halved(model, blocks, monkeypatch) -> None:
    """The allocator refuses for real: a hook allocates in proportion to the batch beyond what any machine has."""
    seen = []

    def hungry(_module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        seen.append(hidden.shape[:2].numel())
        if hidden.shape[:2].numel() > 20:
            torch.empty(1 << 60)

    hook = model.module.model.layers[0].register_forward_pre_hook(hungry, with_kwargs=True)
    try:
        got = quietly(model, TEXTS, "resid_post.1", "mean")
    finally:
        hook.remove()
    assert max(seen) > 20
    assert len([size for size in seen if size > 20]) <= 4  # it learns: later batches keep to the smaller budget
    np.testing.assert_allclose(got.matrix("resid_post.1"), [text[1].mean(0) for text in blocks], **close)


def test_a_single_text_too_large_for_memory_is_named(model) -> None:
    def starving(_module, _args):
        torch.empty(1 << 60)

    hook = model.module.model.layers[0].register_forward_pre_hook(starving)
    try:
        with pytest.raises(UserError, match=r"text \d of \d+ tokens does not fit into memory alone"):
            quietly(model, TEXTS, "resid_post.1", "mean")
    finally:
        hook.remove()


def test_nan_names_the_site_and_the_text(model) -> None:
    three = model.tokenizer.convert_tokens_to_ids("three")
    weights = model.module.get_input_embeddings().weight
    before = weights[three].clone()
    with torch.no_grad():
        weights[three] = float("nan")
    try:
        for pooler in ("mean", "none"):
            with pytest.raises(UserError) as error:
                quietly(model, TEXTS, "resid_post.*", pooler)
            assert f"activations of resid_post.0 ({pooler}) are NaN or infinite for text 2." in str(error.value)
        allowed = quietly(model, TEXTS, "resid_post.0", "mean", allow_nonfinite=True).matrix("resid_post.0")
        assert np.isnan(allowed).any(1).tolist() == [False, False, True, False, False, False, False]
    finally:
        with torch.no_grad():
            weights[three] = before


def test_what_float16_cannot_hold_is_explained(model) -> None:
    scale = 1e6
    hook = model.module.model.layers[0].register_forward_hook(lambda _m, _a, output: output * scale)
    try:
        with pytest.raises(UserError, match="float16 holds numbers up to 65,504: store as float32 or bfloat16"):
            quietly(model, TEXTS, "resid_post.0", "mean", dtype="float16")
        assert np.isfinite(quietly(model, TEXTS, "resid_post.0", "mean", dtype="bfloat16").matrix("resid_post.0")).all()
    finally:
        hook.remove()


def test_more_than_the_memory_is_refused_before_it_starts(model, monkeypatch) -> None:
    import psutil

    few = psutil.virtual_memory()._replace(available=900)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: few)
    with pytest.raises(UserError) as error:
        quietly(model, TEXTS, "resid_post.*", "mean")
    assert str(error.value).startswith("the activations would take 896 bytes of memory, and 900 bytes are free.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": []}, "there are no texts"),
        ({"texts": ["rome", ""]}, "text 1 has no tokens"),
        ({"sites": "resid_pots.1"}, "unknown site 'resid_pots.1'. Did you mean 'resid_post'"),
        ({"sites": "resid_post.7"}, "layer 7 in 'resid_post.7' is out of range"),
        ({"sites": "pattern.0"}, "pattern.0 cannot be pooled: its width is the number of tokens"),
        ({"sites": "model.embed_tokens.weight.output"}, "the model has no module 'model.embed_tokens.weight'"),
        ({"poolers": "men"}, "unknown pooler 'men'. Did you mean 'mean'"),
        ({"poolers": "span"}, "this dataset has none"),
        ({"poolers": "index:9"}, "text 0 has 9 tokens, so no token 9"),
        ({"dtype": "float8"}, "unknown storage dtype 'float8'"),
        ({"token_budget": 0}, "the token budget must be at least 1, got 0"),
        ({"max_length": 100}, "max_length 100 is more than"),
        ({"truncation": "error", "max_length": 4}, "tokens, 4 fit"),
    ],
)
def test_a_wrong_request_is_explained(model, arguments, message) -> None:
    request = {"texts": TEXTS, "sites": "resid_post.*", "poolers": "mean"} | arguments
    with pytest.raises(UserError, match=re.escape(message)):
        quietly(model, **request)


def test_a_text_that_lacks_a_token_is_found_before_the_model_runs(model) -> None:
    ran = []
    hook = model.module.model.register_forward_pre_hook(lambda _m, _a: ran.append(1))
    with pytest.raises(UserError, match="text 1 has 2 tokens"):
        quietly(model, TEXTS, "resid_post.*", "mean,index:2")
    hook.remove()
    assert ran == []


def test_widths_are_known_beforehand_or_learnt_from_one_text(model) -> None:
    tokens = model.tokenize(TEXTS)
    ran = []
    hook = model.module.model.register_forward_pre_hook(
        lambda _m, _a, inputs: ran.append(inputs["input_ids"].shape[0]), with_kwargs=True
    )
    named = ["embed", "resid_mid.0", "q.0", "k.0", "k.0.1", "v.1", "z.0", "z.1.2", "mlp_post.1", "final_norm", "logits"]
    told = Passes(model, tokens, dict.fromkeys(named, (Mean(),))).widths()
    assert ran == []
    collected = quietly(model, TEXTS, named, "mean")
    assert told == {site: collected.matrix(site).shape[1] for site in named}
    ran.clear()
    assert Passes(model, tokens, {"model.layers.1.mlp.output": (Mean(),)}).widths() == {"model.layers.1.mlp.output": 16}
    assert ran == [1]
    hook.remove()
