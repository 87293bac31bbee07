from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier

from layerwise.activations.collect import collect
from layerwise.data.dataset import TextDataset
from layerwise.errors import UserError
from layerwise.models.config import ModelConfig
from layerwise.models.loading import load_model
from layerwise.models.scored_text import laid_out
from layerwise.probes.attention import AttentionProbe
from layerwise.probes.fitted import FittedProbe
from layerwise.probes.generation import generate_with_scores
from layerwise.probes.token_scores import extremes, score_tokens

SITE = "resid_post.1"
NAMES = ("bad", "good")


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    return load_model(ModelConfig(name=str(tiny_model_folder), device="cpu"))


@pytest.fixture(scope="module")
def texts():
    random = np.random.default_rng(0)
    words = ["the", "city", "of", "paris", "is", "in", "dog", "cat", "runs"]
    found = []
    for row in range(80):
        some = list(random.choice(words, size=random.integers(2, 8)))
        some.insert(random.integers(len(some) + 1), NAMES[row % 2])
        found.append(" ".join(some))
    return found


@pytest.fixture(scope="module")
def labels():
    return np.arange(80) % 2


@pytest.fixture(scope="module")
def probe(model, texts, labels):
    X = collect(model, texts, [SITE], ["mean"], progress=False).matrix(SITE)
    estimator = LogisticRegression().fit(X, labels)
    return FittedProbe.on(model, estimator, SITE, "mean", task="classification", label_names=NAMES)


def hidden(model, ids) -> np.ndarray:
    """(tokens, width) of the second block's output, by plain transformers."""
    kept = []
    hook = model.module.model.layers[1].register_forward_hook(
        lambda _m, _a, out: kept.append((out if isinstance(out, torch.Tensor) else out[0])[0])
    )
    with torch.no_grad():
        model.module(input_ids=torch.as_tensor(ids)[None])
    hook.remove()
    return kept[0].numpy()


def test_every_token_is_scored_by_its_own_vector(model, probe, texts):
    for text, scored in zip(texts[:5], score_tokens(model, probe, texts[:5]), strict=True):
        ids = model.tokenize([text]).ids[0]
        expected = probe.estimator.predict_proba(hidden(model, ids))[:, 1]
        np.testing.assert_allclose(scored.scores, expected, atol=1e-5)
        assert scored.tokens == ("<s>", *text.split())
        assert scored.offsets[0].tolist() == [-1, -1]
        assert [text[a:b] for a, b in scored.offsets[1:]] == text.split()
        assert (scored.meaning, scored.neutral) == ("probability of 'good'", 0.5)
        assert scored.to_frame()["token"].tolist() == list(scored.tokens)


def test_the_label_to_score_for_can_be_chosen(model, probe, texts):
    good = score_tokens(model, probe, texts[:2])[0].scores
    for label in ("bad", 0):
        np.testing.assert_allclose(score_tokens(model, probe, texts[:2], label=label)[0].scores, 1 - good)
    with pytest.raises(UserError, match=r"unknown label 'god'\. Did you mean 'good'"):
        score_tokens(model, probe, texts[:2], label="god")


def test_more_labels_than_two_need_a_choice(model, texts):
    X = collect(model, texts, [SITE], ["last"], progress=False).matrix(SITE)
    estimator = LogisticRegression().fit(X, np.arange(80) % 3)
    three = FittedProbe.on(model, estimator, SITE, "last", task="classification", label_names=("a", "b", "c"))
    with pytest.raises(UserError, match="name the one to score tokens for"):
        score_tokens(model, three, texts[:1])
    parts = [score_tokens(model, three, texts[:1], label=name)[0].scores for name in ("a", "b", "c")]
    np.testing.assert_allclose(np.sum(parts, axis=0), 1)


def test_decision_values_and_their_calibration(model, probe, texts, labels):
    X = collect(model, texts, [SITE], ["mean"], progress=False).matrix(SITE)
    bare = replace(probe, estimator=RidgeClassifier().fit(X, labels))
    scored = score_tokens(model, bare, texts[:1])[0]
    assert (scored.meaning, scored.neutral) == ("decision value of 'good'", 0.0)
    np.testing.assert_allclose(score_tokens(model, bare, texts[:1], label="bad")[0].scores, -scored.scores)
    calibrated = score_tokens(model, replace(bare, calibration=(2.0, 0.5)), texts[:1])[0]
    np.testing.assert_allclose(calibrated.scores, 1 / (1 + np.exp(-(2 * scored.scores + 0.5))))


def test_regression(model, texts):
    X = collect(model, texts, [SITE], ["mean"], progress=False).matrix(SITE)
    value = FittedProbe.on(model, LinearRegression().fit(X, np.arange(80.0)), SITE, "mean", task="regression")
    scored = score_tokens(model, value, texts[:1])[0]
    assert (scored.meaning, scored.neutral) == ("predicted value", None)
    # A linear probe of the mean is the mean of the linear probe.
    assert scored.scores.mean() == pytest.approx(value.predict(texts[:1], model).scores[0], rel=1e-4)


def test_several_sites_are_joined_as_in_training(model, texts, labels):
    sites = ["resid_post.0", "resid_post.1"]
    found = collect(model, texts, sites, ["mean"], progress=False)
    X = np.concatenate([found.matrix(site) for site in sites], axis=1)
    both = FittedProbe.on(
        model, LogisticRegression().fit(X, labels), sites, "mean", task="classification", label_names=NAMES,
        over_layers="concat",
    )  # fmt: skip
    scored = score_tokens(model, both, texts[:1])[0]
    tokens = collect(model, texts[:1], sites, ["none"], progress=False)
    X = np.concatenate([tokens.tokens(site).values for site in sites], axis=1)
    np.testing.assert_allclose(scored.scores, both.estimator.predict_proba(X)[:, 1], atol=1e-6)


def test_an_attention_probe_gives_shares(model, texts, labels):
    X = list(collect(model, texts, [SITE], ["none"], progress=False).tokens(SITE))
    probe = FittedProbe.on(
        model, AttentionProbe(max_epochs=5).fit(X, labels), SITE, "none", task="classification", label_names=NAMES
    )
    scored = score_tokens(model, probe, texts[:4])
    assert scored[0].meaning == "share in the score of 'good'"
    sums = [one.scores.sum() for one in scored]
    np.testing.assert_allclose(np.diff(sums), np.diff(probe.estimator.decision_function(X[:4])), atol=1e-5)
    highest = extremes(model, probe, texts, k=1).texts.iloc[0]
    assert highest["score"] == pytest.approx(probe.predict(texts, model).scores.max(), abs=1e-6)


def test_extremes_are_the_ends_of_the_sorted_scores(model, probe, texts, monkeypatch):
    monkeypatch.setattr("layerwise.probes.token_scores.TEXTS_AT_ONCE", 7)  # several pieces
    found = extremes(model, probe, texts, k=3, window=8)
    scores = probe.predict(texts, model).scores
    order = np.argsort(-scores)
    assert found.texts["text"].tolist() == [*order[:3], *order[::-1][:3]]
    np.testing.assert_allclose(found.texts["score"], [*scores[order[:3]], *scores[order[::-1][:3]]], atol=1e-6)
    cases: dict[tuple, float] = {}
    for text, one in zip(texts, score_tokens(model, probe, texts), strict=True):
        for score, (start, end) in zip(one.scores, one.offsets.tolist(), strict=True):
            if start >= 0:
                cases.setdefault((text[max(start - 8, 0) : start], text[start:end], round(score, 4)), score)
    expected = sorted(cases.values())
    highest, lowest = (found.tokens[found.tokens["side"] == side] for side in ("highest", "lowest"))
    np.testing.assert_allclose(highest["score"], expected[::-1][:3], atol=1e-5)
    np.testing.assert_allclose(lowest["score"], expected[:3], atol=1e-5)
    for row in found.tokens.itertuples():
        assert f"{row.before}{row.token}{row.after}" in texts[row.text]
        assert len(row.before) <= 8
        assert texts[row.text].split()[row.position - 1] == row.token


def test_texts_that_begin_alike_fill_the_extremes_only_once(model, probe):
    found = extremes(model, probe, [f"good dog {end}" for end in ("runs", "is", "in", "of")], k=3)
    highest = found.tokens[found.tokens["side"] == "highest"]
    assert highest[["before", "token"]].duplicated().sum() == 0


def test_fewer_tokens_than_asked_for(model, probe):
    found = extremes(model, probe, ["paris is"], k=5)
    assert found.tokens["rank"].tolist() == [1, 2, 1, 2]
    assert found.texts["side"].tolist() == ["highest", "lowest"]


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("settings", [{"do_sample": False}, {"do_sample": True, "temperature": 1.5}])
def test_live_scores_are_those_of_reading_the_whole_text(model, probe, use_cache, settings):
    heard = []
    scored = generate_with_scores(
        model, probe, "the city of", 12, heard.append, use_cache=use_cache, eos_token_id=None, **settings
    )
    ids = [token.token_id for token in heard]
    assert scored.prompt_tokens == 4
    assert len(scored) == len(ids) == 16
    np.testing.assert_allclose(scored.scores, probe.estimator.predict_proba(hidden(model, ids))[:, 1], atol=1e-5)
    assert [token.score for token in heard] == scored.scores.tolist()
    assert [token.is_prompt for token in heard] == [True] * 4 + [False] * 12
    assert "".join(token.text for token in heard) == scored.text == model.tokenizer.decode(ids)


def test_generation_is_the_models_own_and_seeded(model, probe):
    ids = torch.from_numpy(model.tokenize(["the city of"]).ids[0])[None]
    plain = model.module.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    scored = generate_with_scores(model, probe, "the city of", 8, do_sample=False)
    assert scored.text == model.tokenizer.decode(plain[0])
    state = torch.get_rng_state()
    first, again, other = (
        generate_with_scores(model, probe, "the", 20, seed=seed, do_sample=True, eos_token_id=None).text
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert torch.equal(state, torch.get_rng_state())


def test_tokens_are_heard_of_before_the_generation_ends(model, probe):
    class Stopped(Exception):
        pass

    def stop(token):
        if token.position == 6:
            raise Stopped

    with pytest.raises(Stopped):
        generate_with_scores(model, probe, "the city of", 40, stop, eos_token_id=None)
    assert not any(layer._forward_hooks for layer in model.module.model.layers)


def test_places_of_tokens_that_share_a_character():
    class Bytes:
        """A tokenizer of single bytes, as byte-level ones are for rare characters."""

        def decode(self, ids):
            return bytes(ids).decode("utf-8", errors="replace")

    text, places = laid_out(Bytes(), list("aé€".encode()))
    assert text == "aé€"
    assert [text[a:b] for a, b in places] == ["a", "", "é", "", "", "€"]


def test_mistakes_are_told(model, probe, texts, labels):
    with pytest.raises(UserError, match="no texts to score"):
        score_tokens(model, probe, [])
    with pytest.raises(UserError, match="k must be at least 1"):
        extremes(model, probe, texts, k=0)
    with pytest.raises(UserError, match="max_new_tokens must be at least 1"):
        generate_with_scores(model, probe, "the", 0)
    with pytest.raises(UserError, match=r"4 tokens and 61 new ones are more than .* reads: 64"):
        generate_with_scores(model, probe, "the city of", 61)
    with pytest.raises(UserError, match="follows one sequence: leave num_beams out"):
        generate_with_scores(model, probe, "the", 2, num_beams=3)
    stranger = replace(probe, model_fingerprint="0" * 64)
    for use in (score_tokens, extremes):
        with pytest.raises(UserError, match="this probe was fitted on"):
            use(model, stranger, texts)
    with pytest.raises(UserError, match="this probe was fitted on"):
        generate_with_scores(model, stranger, "the", 2)
    X = list(collect(model, texts, [SITE], ["none"], progress=False).tokens(SITE))
    attention = replace(probe, estimator=AttentionProbe(max_epochs=1).fit(X, labels), pooler="none")
    with pytest.raises(UserError, match="reads a whole text at once"):
        generate_with_scores(model, attention, "the", 2)
    with pytest.raises(UserError, match="logits of the last token alone"):
        generate_with_scores(model, replace(probe, sites=("logits",)), "the", 2)


def test_text_pairs_are_shown_one_after_the_other(model, probe):
    pairs = TextDataset("pairs", ("the dog",), pairs=("rome is",))
    [scored] = score_tokens(model, probe, pairs)
    assert len(scored) == 6
    assert [scored.text[a:b].strip() for a, b in scored.offsets] == ["<s>", "the", "dog", "</s>", "rome", "is"]
