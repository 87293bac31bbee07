"""Cross-entropy is transformers' own loss, whatever the batches; long texts are scored once, with enough before each token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layerwise.errors import UserError
from layerwise.models.model import LanguageModel
from layerwise.training.inspection.perplexity import perplexity

TEXTS = ["the city of paris is in france .", "a dog", "one two three four five", "good movie", "the cat sleeps ."]


def losses(model: LanguageModel, text: str) -> np.ndarray:
    """(tokens,) of one text, by transformers' own forward."""
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        log_p = model.module(ids).logits[0, :-1].log_softmax(-1)
    return -log_p.gather(-1, ids[0, 1:, None])[:, 0].numpy()


def test_as_transformers_has_it(model: LanguageModel) -> None:
    found = perplexity(model, TEXTS)
    each = [losses(model, text) for text in TEXTS]
    np.testing.assert_allclose(-found.tokens["log_p"], np.concatenate(each), atol=1e-5)
    assert found.cross_entropy == pytest.approx(np.concatenate(each).mean(), abs=1e-6)
    ids = torch.tensor([model.tokenizer(TEXTS[0])["input_ids"]])
    assert found.by_text()["cross_entropy"][0] == pytest.approx(model.module(ids, labels=ids).loss.item(), abs=1e-5)
    summary = found.summary()
    assert summary["perplexity_max"] == pytest.approx(np.exp(max(one.mean() for one in each)), rel=1e-5)
    assert summary["perplexity_min"] == pytest.approx(np.exp(min(one.mean() for one in each)), rel=1e-5)
    assert summary["token_cross_entropy_max"] == pytest.approx(np.concatenate(each).max(), abs=1e-5)
    assert summary["tokens"] == sum(map(len, each))
    written = sum(len(text.encode()) for text in TEXTS)
    assert found.bits_per_byte == pytest.approx(np.concatenate(each).sum() / np.log(2) / written, rel=1e-5)


@pytest.mark.parametrize("budget", [1, 9, 20, 10_000])
def test_any_batch_gives_the_same_mean(model: LanguageModel, budget: int) -> None:
    done: list[int] = []
    found = perplexity(model, TEXTS, token_budget=budget, done=done.append)
    assert found.cross_entropy == pytest.approx(perplexity(model, TEXTS).cross_entropy, abs=1e-6)
    assert sum(done) == len(TEXTS)
    if budget == 1:
        assert len(done) == len(TEXTS)


def test_the_order_does_not_matter(model: LanguageModel) -> None:
    assert perplexity(model, TEXTS[::-1]).cross_entropy == pytest.approx(
        perplexity(model, TEXTS).cross_entropy, abs=1e-6
    )


def test_tokens_know_their_place(model: LanguageModel) -> None:
    tokens = perplexity(model, TEXTS).tokens
    first = tokens[tokens["text"] == 0]
    assert [TEXTS[0][start:end] for start, end in zip(first["start"], first["end"], strict=True)] == TEXTS[0].split()
    assert first["position"].tolist() == list(range(1, 9))  # behind the beginning token


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
def test_a_text_longer_than_the_context(model: LanguageModel, overlap: float) -> None:
    words = (TEXTS[0] + " ") * 30
    found = perplexity(model, [words], overlap=overlap)
    ids = np.array(model.tokenizer(words)["input_ids"])
    assert len(ids) > 3 * model.max_length
    assert len(found.tokens) == len(ids) - 1
    assert found.tokens["position"].tolist() == list(range(1, len(ids)))
    # Each token given at least so many before it, by a loop of its own.
    length, kept = model.max_length, max(int(overlap * model.max_length), 1)
    expected, start, scored = [], 0, 1
    while scored < len(ids):
        window = torch.from_numpy(ids[None, start : start + length + 1])
        with torch.no_grad():
            log_p = model.module(window[:, :length]).logits[0].log_softmax(-1)
        stop = start + window.shape[1]
        expected += [float(log_p[place - start - 1, ids[place]]) for place in range(scored, stop)]
        scored, start = stop, stop - kept
    np.testing.assert_allclose(found.tokens["log_p"], expected, atol=1e-5)


def test_refusals(model: LanguageModel) -> None:
    with pytest.raises(UserError, match="at least one"):
        perplexity(model, [])
    with pytest.raises(UserError, match="a list of texts"):
        perplexity(model, "a dog")
    with pytest.raises(UserError, match="overlap must be"):
        perplexity(model, TEXTS, overlap=1)
    with pytest.raises(UserError, match="text 1 has no tokens"):
        perplexity(model, ["a dog", ""])
