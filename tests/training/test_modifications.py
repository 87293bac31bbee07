"""Each modification trains, and what it makes differs from the base in what it says and in nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from layerwise.models.batch import Ids, make_batch
from layerwise.models.model import LanguageModel
from layerwise.models.taps import run
from layerwise.training.config import ChangesConfig
from layerwise.training.fit import fit
from layerwise.training.prepared import PreparedData

from .conftest import SMALL, settings, small_model

IDEAS = Path(__file__).parents[2] / "experiments" / "train" / "ideas"
SCORES = {"score_scale": 3.0}
MODIFICATIONS: dict[str, Mapping[str, Any]] = {
    "relu": {"relu_after": [0]},
    "square": {"square_feed_forward": True},
    "scale": SCORES,
    "scale_where_a_token_is": {**SCORES, "score_scale_token": 4},
    "quiet": {"attention": f"{IDEAS}/quiet_attention.py:quiet"},
    "bilinear": {"feed_forward": f"{IDEAS}/bilinear.py:Bilinear"},
    "attention_only": {"feed_forward": f"{IDEAS}/attention_only.py:Nothing"},
}


def trained(data: PreparedData, folder: Path, fields: Mapping[str, Any], **changes: Any) -> LanguageModel:
    config = settings(30, changes=ChangesConfig(**changes))
    model = small_model(data, replace(SMALL, **fields))
    before = [weight.detach().clone() for weight in model.parameters()]
    found = fit(model, data, config, folder)
    moved = [not torch.equal(old, new) for old, new in zip(before, found.model.parameters(), strict=True)]
    assert any(moved)
    assert torch.isfinite(torch.tensor(found.metrics["val/loss"]))
    return LanguageModel(found.model, data.tokenizer, "modified")


def reads(model: LanguageModel, ids: list[int], *sites: str) -> dict[str, torch.Tensor]:
    batch = make_batch(model, Ids([torch.tensor(ids).numpy()]), [0])
    return run(model, batch, dict.fromkeys(sites), logits="logits" in sites)


@pytest.fixture
def models(copying: PreparedData, folder: Path, request: pytest.FixtureRequest) -> tuple[LanguageModel, LanguageModel]:
    """The base and one modification, each trained for thirty steps."""
    return trained(copying, folder / "base", {}), trained(copying, folder / "modified", MODIFICATIONS[request.param])


def of(name: str) -> Any:
    return pytest.mark.parametrize("models", [name], indirect=True)


SOME = [5, 6, 7, 8, 5]


@of("relu")
def test_a_relu_after_a_layer_and_after_no_other(models: tuple[LanguageModel, LanguageModel]) -> None:
    base, modified = (reads(model, SOME, "resid_post.0", "resid_post.1") for model in models)
    assert (base["resid_post.0"] < 0).any()
    assert (modified["resid_post.0"] >= 0).all()
    assert (modified["resid_post.1"] < 0).any()


@of("square")
def test_the_feed_forward_is_squared(models: tuple[LanguageModel, LanguageModel]) -> None:
    base, modified = (reads(model, SOME, "mlp_out.0", "mlp_out.1", "mlp_post.0") for model in models)
    assert (base["mlp_out.0"] < 0).any()
    assert (modified["mlp_out.0"] >= 0).all()
    assert (modified["mlp_out.1"] >= 0).all()
    down = models[1].module.body.blocks[0].feed_forward.down_proj
    torch.testing.assert_close(modified["mlp_out.0"], down(modified["mlp_post.0"]).detach().square())


def pattern_of(model: LanguageModel, ids: list[int], scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The pattern, and what scores scaled so would give: softmax of scale · q · k / √head_dim."""
    found = reads(model, ids, "q.0", "k.0", "pattern.0")
    q, k = found["q.0"][0].transpose(0, 1), found["k.0"][0].transpose(0, 1)
    scores = scale * q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    later = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)
    return found["pattern.0"][0], scores.masked_fill(later, -torch.inf).softmax(-1)


@of("scale")
def test_scores_are_scaled(models: tuple[LanguageModel, LanguageModel]) -> None:
    for model, scale in zip(models, (1.0, 3.0), strict=True):
        torch.testing.assert_close(*pattern_of(model, SOME, scale), atol=1e-5, rtol=1e-4)


@of("scale_where_a_token_is")
def test_scores_are_scaled_only_where_a_token_is(models: tuple[LanguageModel, LanguageModel]) -> None:
    _, model = models
    plain = LanguageModel(small_model_like(model), model.tokenizer, "plain")
    without, with_it = [5, 6, 7, 8, 5], [5, 6, 4, 8, 5]
    for ids, alike in ((without, True), (with_it, False)):
        one, other = (reads(each, ids, "pattern.0", "logits") for each in (model, plain))
        assert torch.allclose(one["logits"], other["logits"], atol=1e-5) == alike
        assert torch.allclose(one["pattern.0"], other["pattern.0"], atol=1e-5) == alike


def small_model_like(model: LanguageModel) -> Any:
    """The same weights without the modification."""
    from layerwise.models.transformer import LayerwiseConfig, LayerwiseForCausalLM

    given = {**model.module.config.to_dict(), "score_scale": 1.0, "score_scale_token": None}
    module = LayerwiseForCausalLM(LayerwiseConfig(**given)).eval()
    module.load_state_dict(model.module.state_dict())
    return module


@of("quiet")
def test_attention_may_look_at_nothing(models: tuple[LanguageModel, LanguageModel]) -> None:
    base, modified = (reads(model, SOME, "pattern.0")["pattern.0"].sum(-1) for model in models)
    torch.testing.assert_close(base, torch.ones_like(base))
    assert (modified < 1 - 1e-3).all()


@of("bilinear")
def test_a_feed_forward_without_a_non_linearity(models: tuple[LanguageModel, LanguageModel]) -> None:
    piece = models[1].module.body.blocks[0].feed_forward
    hidden = torch.randn(1, 3, SMALL.width)
    torch.testing.assert_close(piece(-2 * hidden), 4 * piece(hidden))  # a quadratic form
    base = models[0].module.body.blocks[0].feed_forward
    assert not torch.allclose(base(-2 * hidden), 4 * base(hidden))


@of("attention_only")
def test_nothing_but_attention(models: tuple[LanguageModel, LanguageModel]) -> None:
    found = reads(models[1], SOME, "resid_pre.0", "attn_out.0", "resid_post.0")
    torch.testing.assert_close(found["resid_post.0"], found["resid_pre.0"] + found["attn_out.0"])


def test_a_loss_of_ones_own_is_what_training_lowers(copying: PreparedData, folder: Path) -> None:
    base = trained(copying, folder / "base", {})
    unsure = trained(copying, folder / "unsure", {}, loss=f"{IDEAS}/sure.py:less_sure")

    def entropy(model: LanguageModel) -> float:
        logits = [reads(model, SOME[place:] + SOME[:place], "logits")["logits"] for place in range(4)]
        log_p = torch.cat(logits).double().log_softmax(-1)
        return float(-(log_p.exp() * log_p).sum(-1).mean())

    assert entropy(unsure) > entropy(base)


def test_a_callback_of_ones_own_is_called(
    copying: PreparedData, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(copying, folder, {}, callbacks=[f"{IDEAS}/sure.py:LargestNorm"])
    assert "step 30: the longest weight is " in capsys.readouterr().out
