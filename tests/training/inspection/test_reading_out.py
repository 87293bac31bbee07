"""Next tokens, the lens and embeddings are what transformers itself computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from layerwise.errors import UserError
from layerwise.models.loading import load_model
from layerwise.models.model import LanguageModel
from layerwise.training.inspection.embeddings import layer_embeddings
from layerwise.training.inspection.lens import logit_lens
from layerwise.training.inspection.next_token import next_tokens
from tests.models.families import build

PROMPT = "the city of paris is in"


def outputs(model: LanguageModel, text: str = PROMPT):  # type: ignore[no-untyped-def]
    with torch.no_grad():
        return model.module(torch.tensor([model.tokenizer(text)["input_ids"]]), output_hidden_states=True)


def test_next_tokens(model: LanguageModel) -> None:
    found = next_tokens(model, PROMPT)
    p = outputs(model).logits[0, -1].double().softmax(-1).numpy()
    assert found.ids.tolist() == np.argsort(-p, kind="stable").tolist()
    np.testing.assert_allclose(np.exp(found.log_p), p[found.ids], rtol=1e-5)
    assert np.exp(found.log_p).sum() == pytest.approx(1)
    assert found.entropy == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
    top = found.top(3)
    assert top["cumulative"].iloc[-1] == pytest.approx(p[found.ids[:3]].sum(), rel=1e-5)
    assert found.probability(top["token"].iloc[0]) == pytest.approx(top["p"].iloc[0])


def test_the_first_token_of_a_text(model: LanguageModel) -> None:
    found = next_tokens(model, "")
    with torch.no_grad():
        p = model.module(torch.tensor([[2]])).logits[0, -1].softmax(-1).numpy()
    np.testing.assert_allclose(np.exp(found.log_p), p[found.ids], rtol=1e-4)


def test_lens_of_the_last_layer_is_the_model(model: LanguageModel) -> None:
    lens = logit_lens(model, PROMPT, top_k=4)
    assert lens.sites == ("resid_post.0", "resid_post.1")
    p = outputs(model).logits[0].double().softmax(-1)
    np.testing.assert_allclose(lens.p[-1], p.topk(4).values.numpy(), rtol=1e-4)
    assert np.abs(lens.kl_to_end[-1]).max() < 1e-6
    assert (lens.kl_to_end[0] > 0).all()
    ids = model.tokenizer(PROMPT)["input_ids"]
    chosen = p[:-1].gather(-1, torch.tensor(ids[1:])[:, None])
    np.testing.assert_allclose(lens.next_log_p[-1, :-1], chosen[:, 0].log().numpy(), rtol=1e-4)
    assert lens.next_rank[-1, :-1].tolist() == ((p[:-1] > chosen).sum(-1) + 1).tolist()
    assert np.isnan(lens.next_log_p[:, -1]).all()
    assert len(lens.table()) == 2 * len(ids)


def test_lens_by_hand(model: LanguageModel) -> None:
    lens = logit_lens(model, PROMPT, "resid_post.0", top_k=1)
    hidden = outputs(model).hidden_states[1][0]
    with torch.no_grad():
        p = model.module.lm_head(model.module.model.norm(hidden)).softmax(-1)
    np.testing.assert_allclose(lens.p[0, :, 0], p.max(-1).values.numpy(), rtol=1e-4)


def test_lens_refuses(model: LanguageModel) -> None:
    with pytest.raises(UserError, match="not in the residual stream"):
        logit_lens(model, PROMPT, "mlp_post.0")
    with pytest.raises(UserError, match="is an encoder"):
        next_tokens(LanguageModel(build("bert"), model.tokenizer, "bert"), PROMPT)


def test_embeddings_of_every_layer(model: LanguageModel, tmp_path: Path) -> None:
    texts = [PROMPT, "a dog"]
    found = layer_embeddings(model, texts, progress=False)
    assert list(found.values) == ["embed", "resid_post.0", "resid_post.1"]
    for number, text in enumerate(texts):
        hidden = outputs(model, text).hidden_states
        for site, states in zip(("embed", "resid_post.0"), hidden, strict=False):
            np.testing.assert_allclose(found.of_text(site, number), states[0].numpy(), atol=1e-5)
    by_layer = found.by_layer().set_index("site")
    values = found.values["resid_post.1"].astype(np.float64)
    assert by_layer.loc["resid_post.1", "norm"] == pytest.approx(np.linalg.norm(values, axis=1).mean())
    units = values / np.linalg.norm(values, axis=1, keepdims=True)
    every = units @ units.T
    pairs = every[~np.eye(len(every), dtype=bool)].mean()
    assert by_layer.loc["resid_post.1", "cosine_of_tokens"] == pytest.approx(pairs)
    found.save(tmp_path / "vectors.safetensors")
    saved = load_file(tmp_path / "vectors.safetensors")
    assert torch.equal(saved["resid_post.0"], torch.from_numpy(found.values["resid_post.0"]))
    assert saved["text"].tolist() == found.text.tolist()


def test_tokens_are_called_by_what_they_spell(shared: Path) -> None:
    stories = load_model(str(shared / "models" / "stories260K"))
    assert "".join(logit_lens(stories, "Once upon a time", "resid_post.0").tokens[1:]).strip() == "Once upon a time"
    assert next_tokens(stories, "Once upon a time").top(2)["token"].tolist() == [",", " there"]
