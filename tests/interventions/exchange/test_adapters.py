"""LoRA adapters that peft trains and saves, against peft's own outputs."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import texts, tiny
from safetensors.torch import load_file, save_file

from layerwise.errors import UserError
from layerwise.interventions.exchange.adapters import read_adapter
from layerwise.interventions.exchange.reading import read
from layerwise.models.batch import make_batch

peft = pytest.importorskip("peft")

TARGETS = {"llama": ["q_proj", "v_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"], "gpt_neox": ["query_key_value"]}


def saved(family: str, folder: Path, **settings: Any) -> Any:
    """A model with peft's adapter, all of it random, that was saved in a folder."""
    settings = {
        "r": 3,
        "lora_alpha": 7,
        "target_modules": TARGETS[family],
        "fan_in_fan_out": family == "gpt2",
    } | settings
    adapted = peft.get_peft_model(
        copy.deepcopy(tiny(family).module), peft.LoraConfig(task_type="CAUSAL_LM", **settings)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    adapted.save_pretrained(folder)
    return adapted.eval()


@pytest.mark.parametrize("family", TARGETS)
@pytest.mark.parametrize(
    "more", [{}, {"use_rslora": True}, {"rank_pattern": {"0.*": 2}, "alpha_pattern": {".*proj": 3}}]
)
def test_the_outputs_are_pefts(family: str, more: dict[str, Any], tmp_path: Path) -> None:
    adapted, model = saved(family, tmp_path, **more), tiny(family)
    batch = make_batch(model, texts(6, 4), range(2))
    with torch.no_grad():
        expected = adapted(**batch.inputs).logits
        intervened = read(tmp_path, model)
        found, plain = intervened(batch).logits, intervened.clean(batch).logits
    torch.testing.assert_close(found[batch.mask], expected[batch.mask], atol=1e-4, rtol=1e-4)
    assert (found - plain)[batch.mask].abs().max() > 1e-2


def test_an_adapter_generates_as_in_peft(tmp_path: Path) -> None:
    adapted, model = saved("llama", tmp_path), tiny("llama")
    batch = make_batch(model, texts(5, 3), range(2), "left")
    settings: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    inputs = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(
        read_adapter(tmp_path, model).generate(batch, **settings).output, adapted.generate(**inputs, **settings)
    )


def test_adapters_that_are_refused(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    with pytest.raises(
        UserError, match=r"does not fit this model: the model has no module 'model\.layers\.0\.mlp\.down_proj'"
    ):
        read_adapter(tmp_path, tiny("gpt2"))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    for change, message in (
        ({"use_dora": True}, "has DoRA"),
        ({"bias": "all"}, "trains biases"),
        ({"peft_type": "IA3"}, "holds a IA3 adapter; LORA is read"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=message):
            read_adapter(tmp_path, tiny("llama"))
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "adapter_model.safetensors")
    save_file({"base_model.model.lm_head.lora_embedding_A": torch.zeros(2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match="no part of a linear layer's LoRA"):
        read_adapter(tmp_path, tiny("llama"))
    save_file(dict(list(weights.items())[:1]), tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match="one half of the LoRA"):
        read_adapter(tmp_path, tiny("llama"))
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(UserError, match=r"adapter_model\.bin, a pickle that could run code"):
        read_adapter(tmp_path, tiny("llama"))
    with pytest.raises(UserError, match="peft saved nothing there"):
        read_adapter(tmp_path / "none", tiny("llama"))
