"""Layer by layer similarity: against a direct computation over all tokens, and the same however the texts are run."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from layerwise.activations.collect import collect
from layerwise.comparison.inside import rows as rows_module
from layerwise.comparison.inside.rows import Rows, read_rows
from layerwise.comparison.inside.similarity import MEASURES, layer_similarity
from layerwise.data.load import load_dataset
from layerwise.errors import UserError
from layerwise.interventions.plan import Plan
from layerwise.interventions.standing import under_plan
from layerwise.measures.similarity import cka, mutual_neighbours, neighbours_form, procrustes, procrustes_form
from layerwise.models.batch import make_batch
from layerwise.models.config import ModelConfig
from layerwise.models.loading import load_model

similarity = partial(layer_similarity, progress=False)


def vectors(model, lines, sites) -> list[torch.Tensor]:
    """Every token's vector at each site but a text's first, by the activation collector."""
    found = collect(model, lines, sites, "none", progress=False)
    starts = found.tokens(sites[0]).offsets[:-1]
    kept = np.setdiff1d(np.arange(len(found.tokens(sites[0]).values)), starts)
    return [torch.from_numpy(found.tokens(site).values[kept]).double() for site in sites]


@pytest.fixture(scope="module")
def many(lines) -> list[str]:
    """70 texts of three lines each in an order of their own."""
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(lines, 3)) for _ in range(70)]


SITES = ["embed", "resid_post.0", "resid_post.1"]


def full_cka(a: list[torch.Tensor], b: list[torch.Tensor]) -> np.ndarray:
    """Unbiased linear CKA of all tokens at once, every pair of layers: Song et al. 2012, equation 4, written out in NumPy, float64."""

    def gram(x: torch.Tensor) -> np.ndarray:
        centred = x.double().numpy() - x.double().numpy().mean(0)
        k = centred @ centred.T
        np.fill_diagonal(k, 0)
        return k

    def hsic(k: np.ndarray, other: np.ndarray) -> float:
        n, sums, others = len(k), k.sum(0), other.sum(0)
        total = (k * other).sum() + sums.sum() * others.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (sums @ others)
        return float(total / (n * (n - 3)))

    grams_b = [gram(y) for y in b]
    return np.array([[hsic(k, o) / np.sqrt(hsic(k, k) * hsic(o, o)) for o in grams_b] for k in map(gram, a)])


def test_one_minibatch_is_the_direct_computation(llama, other, lines) -> None:
    found = similarity(llama, other, lines, ["cka", "procrustes", "mutual_knn"], sites=SITES, minibatch=4000)
    a, b = vectors(llama, lines, SITES), vectors(other, lines, SITES)
    assert found.tokens == len(a[0])
    np.testing.assert_allclose(found.values["cka"], full_cka(a, b), atol=1e-5)
    np.testing.assert_allclose([[cka(x, y) for y in b] for x in a], full_cka(a, b), atol=1e-12)
    direct = [[procrustes(procrustes_form(x), procrustes_form(y)) for y in b] for x in a]
    np.testing.assert_allclose(found.values["procrustes"], direct, atol=1e-5)
    direct = [[mutual_neighbours(neighbours_form(x), neighbours_form(y)) for y in b] for x in a]
    np.testing.assert_allclose(found.values["mutual_knn"], direct, atol=0.03)  # ties of equal words fall either way
    assert found.frame("cka").loc["embed", "resid_post.1"] == found.values["cka"][0, 2]
    assert len(found.table()) == 9


def test_minibatches_estimate_it(llama, other, many, monkeypatch) -> None:
    a, b = vectors(llama, many, SITES), vectors(other, many, SITES)
    direct = full_cka(a, b)
    for minibatch, window in ((64, rows_module.WINDOW_BYTES), (128, 4 * 4 * 16 * 600)):
        monkeypatch.setattr(rows_module, "WINDOW_BYTES", window)
        found = similarity(llama, other, many, minibatch=minibatch)
        np.testing.assert_allclose(found.values["cka"], direct[1:, 1:], atol=0.04)


def test_a_model_is_the_same_as_itself(llama, lines) -> None:
    found = similarity(llama, llama, lines, MEASURES)
    for name in MEASURES:
        np.testing.assert_allclose(np.diag(found.values[name]), 1, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(found.values[name], found.values[name].T, atol=1e-6, err_msg=name)


def test_a_rotated_and_scaled_stream_is_the_same(llama, lines) -> None:
    turn, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
    turning = Plan.read("{steps: [{operation: custom, sites: resid_post.1, name: turn}]}")
    with under_plan(llama, turning, "turned", given={"turn": lambda value: 3 * value @ turn}) as turned:
        found = similarity(
            llama, turned, lines, ["cka", "kernel_cka", "svcca", "procrustes", "mutual_knn"], sites="resid_post.1"
        )
    for name, values in found.values.items():
        np.testing.assert_allclose(values, 1, atol=1e-5, err_msg=name)


def test_order_batches_and_padding_change_nothing(llama, other, many, monkeypatch) -> None:
    run = partial(similarity, measures=MEASURES, minibatch=50, tokens=1200, sample=300)
    first = run(llama, other, many)
    others = [run(llama, other, many[::-1]), run(llama, other, many, token_budget=40)]
    monkeypatch.setattr(rows_module, "make_batch", partial(make_batch, side="left"))
    others.append(run(llama, other, many))
    for again in others:
        for name in MEASURES:
            np.testing.assert_allclose(again.values[name], first.values[name], atol=1e-5, err_msg=name)
    assert first.tokens == 1200
    assert first.sample == 300


def test_models_of_other_width_depth_and_tokenizer(llama, speller, lines) -> None:
    found = similarity(llama, speller, lines, MEASURES)
    for values in found.values.values():
        assert values.shape == (2, 3)
        assert np.isfinite(values).all()
    turned = similarity(speller, llama, lines, MEASURES)
    for name in ("cka", "procrustes", "mutual_knn", "rsa"):
        np.testing.assert_allclose(turned.values[name].T, found.values[name], atol=1e-5)


def test_tokens_of_two_tokenizers_are_where_both_have_read_equally_much(llama, speller) -> None:
    rows = Rows.of(llama, speller, ["the dog sleeps"])
    assert rows.a[0].tolist() == [1, 2, 3]  # behind <s>
    assert rows.b[0].tolist() == [3, 7, 14]


def test_rows_are_those_asked_for_at_any_padding(llama, lines) -> None:
    tokens = llama.tokenize(lines)
    wanted = [np.array([2, 1]), np.array([3]), np.array([0, 2])]
    found = read_rows(llama, tokens, [4, 0, 2], wanted, ["resid_post.1", "z.0"])
    alone = collect(llama, lines, ["resid_post.1", "z.0"], "none", progress=False)
    for site in ("resid_post.1", "z.0"):
        values = alone.tokens(site)
        expected = np.concatenate([values[4][[2, 1]], values[0][[3]], values[2][[0, 2]]])
        np.testing.assert_allclose(found[site].numpy(), expected, atol=1e-5)


def test_long_texts_give_a_part_of_their_tokens_each(llama, other, lines) -> None:
    long = [" ".join(lines)] * 2 + lines
    rows = Rows.of(llama, other, long, most_of_a_text=5)
    assert max(len(mine) for mine in rows.a) == 5
    spread = next(mine for text, mine in zip(rows.texts, rows.a, strict=True) if text == 0)
    assert spread[-1] > len(llama.tokenize(long).ids[0]) / 2
    assert [len(range(*part.indices(len(rows.texts)))) for part in rows.windows(11, 5)] == [2] * 5
    assert len(Rows.of(llama, other, long, most=13)) == 13


@pytest.mark.parametrize("family", ["gpt2", "falcon", "bert", "modernbert", "mamba", "layerwise_lstm", "mixtral"])
def test_families(family, model_of, changed, lines) -> None:
    model = model_of(family)
    found = similarity(model, changed(model), lines, ["cka", "kernel_cka", "rsa"])
    assert found.values["cka"].shape == (2, 2)
    assert (np.abs(found.values["cka"]) <= 1 + 1e-9).all()


def test_an_encoder_decoder_by_the_names_of_its_stacks(model_of, lines) -> None:
    model = model_of("t5")
    found = similarity(model, model, lines, sites="encoder.resid_post.*", sites_b="decoder.resid_post.*")
    assert found.sites_b == ("decoder.resid_post.0", "decoder.resid_post.1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"measures": ["cca"]}, "unknown measure of similarity 'cca'. Did you mean"),
        ({"measures": []}, "needs a measure"),
        ({"minibatch": 2}, "at least 4 in a minibatch"),
        ({"texts": []}, "at least one"),
        ({"texts": ["dog", "cat"]}, "at least 8 tokens to compare, and these texts have 2"),
        ({"sites": "pattern.0"}, "attention patterns are compared head by head"),
        ({"sites": "resid_post.7"}, "out of range"),
    ],
)
def test_bad_input(llama, other, lines, arguments, message) -> None:
    with pytest.raises(UserError, match=message):
        similarity(llama, other, **{"texts": lines, **arguments})


def test_kernels_take_one_bandwidth_for_all_minibatches(llama, other, many) -> None:
    """A kernel of each minibatch's own would give an estimate of no one kernel's alignment."""
    small, large = (
        similarity(llama, other, many, ["kernel_cka"], minibatch=size).values["kernel_cka"] for size in (64, 400)
    )
    np.testing.assert_allclose(small, large, atol=0.03)


@pytest.mark.slow
def test_minibatches_of_a_real_model_are_near_the_whole() -> None:
    """SmolLM2 beside its random twin: minibatches of 128 of some hundred tokens against all of them at once."""
    a, b = load_model("smollm2"), load_model(ModelConfig(name="smollm2", random_init=True))
    sentences = load_dataset("topics").texts
    texts = [" ".join(sentences[start : start + 10]) for start in range(0, 60, 10)]
    sites = ["resid_post.0", "resid_post.14", "resid_post.29"]
    found = similarity(a, b, texts, sites=sites, minibatch=128)
    direct = full_cka(vectors(a, texts, sites), vectors(b, texts, sites))
    assert found.tokens > 400
    np.testing.assert_allclose(found.values["cka"], direct, atol=0.02)
