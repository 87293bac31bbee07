"""Models to train: our own by its options, transformers' architectures, pretrained ones with adapters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from layerwise.errors import UserError
from layerwise.models.transformer import LayerwiseConfig
from layerwise.training.build import build_model, finished
from layerwise.training.fit import fit
from layerwise.training.model_config import ArchitectureModel, BuiltModel, PretrainedModel
from layerwise.training.prepared import PreparedData

from .conftest import CONTEXT, settings

SIZES = {
    "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 16},
    "llama": {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32, "num_key_value_heads": 2},
    "qwen3": {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8},
    "mamba": {"num_hidden_layers": 2, "hidden_size": 16, "state_size": 4},
}  # fmt: skip

SMALL_BERT = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}


def test_every_option_of_the_transformer_is_a_field() -> None:
    """By name and default: what the tokenizer and the context decide, and what transformers adds, is left out."""
    decided = {"vocab_size", "context", "pad_token_id", "bos_token_id", "eos_token_id", "use_cache", "code"}
    options = set(LayerwiseConfig.__annotations__) - decided
    fields = {item.name for item in dataclasses.fields(BuiltModel)}
    assert fields == {name for name in options if name not in ("model_type", "attribute_map")}
    model, plain = BuiltModel(), LayerwiseConfig()
    for name in fields - {"n_kv_heads"}:
        assert getattr(model, name) == getattr(plain, name), name


def test_weights_depend_on_the_seed_alone(copying: PreparedData) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, other, third = (build_model(BuiltModel(n_layers=1), copying.tokenizer, CONTEXT, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, third.lm_head.weight)
    assert one.config.vocab_size == len(copying.tokenizer)
    assert one.config.eos_token_id == copying.tokenizer.eos_token_id


@pytest.mark.parametrize("name", SIZES)
def test_architectures_of_transformers_train_from_scratch(copying: PreparedData, tmp_path: Path, name: str) -> None:
    model = build_model(ArchitectureModel(name, SIZES[name]), copying.tokenizer, CONTEXT, 0)
    assert model.config.model_type == name
    assert model.config.vocab_size == len(copying.tokenizer)
    assert sum(weight.numel() for weight in model.parameters()) < 20_000
    before = model.get_input_embeddings().weight.detach().clone()
    trained = fit(model, copying, settings(2), tmp_path)
    assert not torch.equal(before, trained.model.get_input_embeddings().weight)


def test_wrong_architectures_are_explained(copying: PreparedData) -> None:
    for config, message in (
        (ArchitectureModel("lama"), r"unknown architecture 'lama'\. Did you mean 'llama'"),
        (ArchitectureModel("gpt2", {"n_layr": 2}), r"model.overrides.n_layr(.|\n)*Did you mean 'n_layer'"),
        (ArchitectureModel("gpt2", {"n_head": 5, "n_layer": 1}), "transformers cannot make a gpt2 of these sizes"),
        (ArchitectureModel("bert", SMALL_BERT), "no decoder"),
    ):
        with pytest.raises(UserError, match=message):
            build_model(config, copying.tokenizer, CONTEXT, 0)


def adapted(folder: Path, **fields: Any) -> PretrainedModel:
    return PretrainedModel(str(folder), adapter=fields)


@pytest.mark.parametrize("kind", ["lora", "ia3", "vera"])
def test_an_adapter_alone_is_trained_and_ends_in_the_weights(
    tiny_model_folder: Path, tiny_tokenizer: Any, kind: str
) -> None:
    model = build_model(adapted(tiny_model_folder, peft_type=kind), tiny_tokenizer, 32, 0)
    plain = build_model(PretrainedModel(str(tiny_model_folder)), tiny_tokenizer, 32, 0)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all(kind in name for name in trained)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in trained:
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    ids = torch.tensor([[2, 5, 6, 7]])
    expected = model.eval()(input_ids=ids).logits
    merged = finished(model)
    assert type(merged) is type(plain)
    torch.testing.assert_close(merged(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)
    assert (merged(input_ids=ids).logits - plain(input_ids=ids).logits).abs().max() > 1e-3


def test_wrong_adapters_are_explained(tiny_model_folder: Path, tiny_tokenizer: Any) -> None:
    with pytest.raises(UserError, match="needs a peft_type"):
        adapted(tiny_model_folder, r=8)
    for fields, message in (
        ({"peft_type": "lorra"}, r"unknown peft_type 'lorra'\. Did you mean 'lora'"),
        ({"peft_type": "lora", "rang": 4}, "model.adapter.rang: lora has no such field"),
        ({"peft_type": "lora", "target_modules": ["nothing"]}, "model.adapter does not fit this model"),
        ({"peft_type": "prompt_tuning", "num_virtual_tokens": 3}, "cannot be merged into the weights"),
    ):
        with pytest.raises(UserError, match=message):
            build_model(adapted(tiny_model_folder, **fields), tiny_tokenizer, 32, 0)


def test_a_pretrained_model_must_fit_context_and_tokenizer(
    tiny_model_folder: Path, tiny_tokenizer: Any, copying: PreparedData
) -> None:
    with pytest.raises(UserError, match="context 100 is longer than"):
        build_model(PretrainedModel(str(tiny_model_folder)), tiny_tokenizer, 100, 0)
    with pytest.raises(UserError, match="the tokenizer is not the one"):
        build_model(PretrainedModel(str(tiny_model_folder)), copying.tokenizer, 32, 0)
