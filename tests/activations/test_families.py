"""Batches and single texts give the same activations in models of every kind: what padding could spoil, it does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as hf

from layerwise.activations.collect import collect
from layerwise.errors import UserError
from layerwise.models.model import LanguageModel

from .conftest import TEXTS

POOLERS = "first,last,mean,max,quantile:0.5,last_k:2,none"


def build(kind: str, tokenizer) -> LanguageModel:
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    width = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    module = {
        "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**size, n_embd=16, n_layer=2, n_head=4, n_positions=64)),
        "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**size, **width)),
        "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**size | {"pad_token_id": 1}, **width)),
        "mamba": lambda: hf.MambaForCausalLM(
            hf.MambaConfig(**size, hidden_size=16, num_hidden_layers=2, state_size=4, time_step_rank=4)
        ),
        "t5": lambda: hf.T5ForConditionalGeneration(
            hf.T5Config(**size, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, decoder_start_token_id=0)
        ),
    }[kind]()
    return LanguageModel(module.eval(), tokenizer, kind)


@pytest.mark.parametrize("kind", ["gpt2", "bert", "roberta", "mamba", "t5"])
def test_a_batch_gives_what_each_text_gives_alone(kind, tiny_tokenizer) -> None:
    model = build(kind, tiny_tokenizer)
    sites = "encoder.resid_post.*,decoder.resid_post.*" if kind == "t5" else "resid_post.*"
    together = collect(model, TEXTS, sites, POOLERS, progress=False)
    alone = [collect(model, [text], sites, POOLERS, progress=False) for text in TEXTS]
    assert len(together.keys) == len(together.sites) * 7
    for site, pooler in together.keys:
        for row, single in enumerate(alone):
            if pooler == "none":
                mine, theirs = together.tokens(site)[row], single.tokens(site)[0]
            else:
                mine, theirs = together.matrix(site, pooler)[row], single.matrix(site, pooler)[0]
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=2e-5)


def test_a_site_without_a_token_axis_is_refused(tiny_tokenizer) -> None:
    torch.manual_seed(0)
    config = hf.BertConfig(vocab_size=len(tiny_tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=4)
    model = LanguageModel(hf.BertModel(config).eval(), tiny_tokenizer, "bert")
    with pytest.raises(UserError, match=r"pooler\.output cannot be pooled over tokens: its shape is \(1, 16\)"):
        collect(model, TEXTS, "pooler.output", "mean", progress=False)
