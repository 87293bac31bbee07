"""Our transformer as a model of transformers: cache, generation, fused attention, training, initialisation, refusals, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, VOCABULARY, build, texts, tiny
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from layerwise.errors import UserError
from layerwise.models.batch import make_batch
from layerwise.models.config import ModelConfig
from layerwise.models.fingerprint import config_digest
from layerwise.models.loading import load_model
from layerwise.models.taps import run, tapped
from layerwise.models.transformer import LayerwiseConfig, LayerwiseForCausalLM, LayerwiseModel
from layerwise.models.transformer.gelu import gelu

OURS = [name for name in FAMILIES if name.startswith("layerwise")]
SMALL: dict[str, Any] = {"vocab_size": 40, "n_layers": 2, "n_heads": 2, "width": 16, "context": 32, "pad_token_id": 0}


def small(**options: Any) -> LayerwiseForCausalLM:
    torch.manual_seed(0)
    return LayerwiseForCausalLM(LayerwiseConfig(**{**SMALL, **options})).eval()


def ids(*shape: int) -> Tensor:
    return torch.randint(5, 40, shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=OURS)
def model(request: pytest.FixtureRequest) -> LayerwiseForCausalLM:
    return build(request.param)


class TestCache:
    @torch.no_grad()
    def test_token_by_token_is_the_whole_text(self, model: LayerwiseForCausalLM) -> None:
        tokens = ids(2, 9)
        full = model(tokens, use_cache=False).logits
        cache, parts = None, []
        for start, end in ((0, 4), (4, 5), (5, 8), (8, 9)):
            positions = torch.arange(start, end)[None].expand(2, -1)
            output = model(tokens[:, start:end], past_key_values=cache, position_ids=positions, use_cache=True)
            cache = output.past_key_values
            parts.append(output.logits)
        torch.testing.assert_close(torch.cat(parts, 1), full, atol=2e-5, rtol=1e-4)

    def test_generation_with_and_without_it_is_the_same(self, model: LayerwiseForCausalLM) -> None:
        options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
        prompt = ids(2, 6)
        kept, anew = (model.generate(prompt, use_cache=cache, **options) for cache in (True, False))
        assert torch.equal(kept, anew)
        beams = [model.generate(prompt, use_cache=cache, num_beams=3, **options) for cache in (True, False)]
        assert torch.equal(*beams)

    def test_a_batch_padded_on_the_left_goes_on_as_each_text_alone(self, model: LayerwiseForCausalLM) -> None:
        options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
        prompts = ids(2, 6)
        batch, mask = prompts.clone(), torch.ones_like(prompts)
        batch[0, :3], mask[0, :3] = 0, 0
        together = model.generate(batch, attention_mask=mask, **options)[:, 6:]
        for row, prompt in enumerate((prompts[:1, 3:], prompts[1:])):
            assert torch.equal(model.generate(prompt, **options)[0, prompt.shape[1] :], together[row])

    def test_what_depends_on_the_batch_runs_without_it(self) -> None:
        model = small(score_scale=3.0, score_scale_token=7)
        assert model.generate(ids(1, 4), max_new_tokens=2).shape[1] <= 6
        with pytest.raises(UserError, match=r"without a cache: score_scale_token.*\n.*use_cache=False"):
            model.generate(ids(1, 4), max_new_tokens=2, use_cache=True)

    def test_a_cache_that_is_reset_begins_anew(self, model: LayerwiseForCausalLM) -> None:
        tokens = ids(2, 5)
        with torch.no_grad():
            first = model(tokens, use_cache=True)
            logits, cache = first.logits, first.past_key_values
            cache.reset()
            torch.testing.assert_close(model(tokens, past_key_values=cache).logits, logits, atol=1e-5, rtol=1e-4)


class TestAttention:
    def test_fused_is_eager(self, model: LayerwiseForCausalLM) -> None:
        tokens, mask = ids(2, 9), torch.ones(2, 9, dtype=torch.long)
        mask[0, :3] = 0
        before = model.config._attn_implementation
        found = {}
        for name in (before, "eager"):
            model.set_attn_implementation(name)
            found[name] = model(tokens, attention_mask=mask).logits[mask.bool()]
        model.set_attn_implementation(before)
        torch.testing.assert_close(found[before], found["eager"], atol=1e-5, rtol=1e-4)

    def test_it_is_fused_wherever_it_can_be(self) -> None:
        fused = {name for name in OURS if build(name).config._attn_implementation == "sdpa"}
        assert set(OURS) - fused == {"layerwise_mixture"}  # whose scores are capped

    @pytest.mark.parametrize("options", [{"position": "alibi"}, {"n_kv_heads": 1, "sliding_window": 3}])
    def test_the_kernel_runs(self, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[int] = []
        kernel = torch.nn.functional.scaled_dot_product_attention
        monkeypatch.setattr(
            torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: (calls.append(1), kernel(*a, **k))[1]
        )
        small(**options)(ids(1, 5))
        assert len(calls) == 2

    def test_capped_scores_are_refused_fused(self) -> None:
        config = LayerwiseConfig(**SMALL, score_softcap=5.0)
        with pytest.raises(UserError, match=r"'sdpa' cannot be had: score_softcap.*\n.*eager"):
            LayerwiseForCausalLM._from_config(config, attn_implementation="sdpa")
        with pytest.raises(UserError, match="score_softcap"):
            LayerwiseForCausalLM(config).set_attn_implementation("sdpa")

    def test_a_window_is_as_wide_as_it_says(self) -> None:
        model = small(sliding_window=3, n_layers=1)
        with torch.no_grad():
            tokens = ids(1, 8)
            other = tokens.clone()
            other[0, 2] = 4
            changed = (model(tokens).logits != model(other).logits).any(-1)[0]
        assert changed.tolist() == [False, False, True, True, True, False, False, False]


class TestModifications:
    """What the README changes, each one line of a config."""

    def pair(self, **options: Any) -> tuple[LayerwiseForCausalLM, LayerwiseForCausalLM]:
        plain, changed = small(), small(**options)
        changed.load_state_dict(plain.state_dict())
        return plain, changed

    def test_a_relu_after_a_layer(self) -> None:
        for block in ("pre_norm", "post_norm"):
            plain, changed = small(block=block), small(block=block, relu_after=[0])
            changed.load_state_dict({name.replace("feed_forward_norm.", "feed_forward_norm.0.") if block == "post_norm" and "blocks.0" in name else name: value for name, value in plain.state_dict().items()})  # fmt: skip
            before, after = (part(ids(2, 5), output_hidden_states=True).hidden_states for part in (plain, changed))
            torch.testing.assert_close(after[1], before[1].relu())
            assert not torch.allclose(after[2], before[2])

    def test_a_squared_feed_forward(self) -> None:
        from layerwise.models.model import LanguageModel

        plain, changed = (LanguageModel(part) for part in self.pair(square_feed_forward=True))
        batch = make_batch(plain, texts(5), [0])
        before, after = (run(part, batch, {"mlp_out.0": None})["mlp_out.0"] for part in (plain, changed))
        torch.testing.assert_close(after, before.square())

    def test_scaled_scores_and_only_when_a_token_is_there(self) -> None:
        plain, scaled = self.pair(score_scale=3.0)
        _, conditional = self.pair(score_scale=3.0, score_scale_token=39)
        without, present = ids(2, 6).clamp(max=38), ids(2, 6).clamp(max=38)
        present[1, 4] = 39
        patterns = {
            name: [part(tokens, output_attentions=True).attentions[0] for tokens in (without, present)]
            for name, part in (("plain", plain), ("scaled", scaled), ("conditional", conditional))
            if part.set_attn_implementation("eager") is None
        }
        wanted = (patterns["plain"][0].log() * 3).softmax(-1)
        torch.testing.assert_close(patterns["scaled"][0], wanted, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(patterns["conditional"][0], patterns["plain"][0])
        torch.testing.assert_close(patterns["conditional"][1], patterns["scaled"][1], atol=1e-6, rtol=1e-4)
        with pytest.raises(UserError, match="needs input_ids"):
            conditional(inputs_embeds=torch.zeros(1, 2, 16))


class TestTraining:
    def test_every_parameter_gets_a_gradient(self, model: LayerwiseForCausalLM) -> None:
        model.zero_grad()
        tokens = ids(4, 12)
        model(tokens, labels=tokens).loss.backward()
        without = [
            name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
        ]
        model.zero_grad()
        assert not without

    def test_checkpointed_gradients_are_the_same(self, model: LayerwiseForCausalLM) -> None:
        tokens = ids(2, 8)
        gradients = []
        for checkpointing in (False, True):
            if checkpointing:
                model.gradient_checkpointing_enable()
            model.train()
            model.zero_grad()
            model(tokens, labels=tokens).loss.backward()
            gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
        model.gradient_checkpointing_disable()
        model.zero_grad()
        model.eval()
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)

    def test_dropout_works_everywhere_in_training_and_nowhere_else(self) -> None:
        model = small(dropout=0.5)
        tokens = ids(1, 8)
        assert torch.equal(model(tokens).logits, model(tokens).logits)
        model.train()
        seen: list[str] = []
        for name, part in model.named_modules():
            if isinstance(part, torch.nn.Dropout):
                part.register_forward_hook(
                    lambda _m, args, out, name=name: seen.append(name) if (out == 0).any() else None
                )
        model(tokens)
        assert len(seen) == 1 + 2 * 2
        model.set_attn_implementation("eager")
        assert (model(tokens, output_attentions=True).attentions[0][..., 0] == 0).any()

    def test_initialisation_is_gpt_2_s(self) -> None:
        model = small(n_layers=8, width=128, vocab_size=500, feed_forward="swiglu", norm="rms_norm")
        into_residual = 0.02 / 16**0.5
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                assert not parameter.any()
            elif "norm" in name:
                assert (parameter == 1).all()
            else:
                wanted = into_residual if "out_proj" in name or "down_proj" in name else 0.02
                assert parameter.std().item() == pytest.approx(wanted, rel=0.1), name

    @pytest.mark.parametrize(("options", "part", "wanted"), [
        ({"experts": 4}, "feed_forward.experts.up_proj", 0.02),
        ({"experts": 4}, "feed_forward.experts.down_proj", 0.02 / 2),
        ({"attention": "gru"}, "attention.net.layers.0.cell.new_gate.from_hidden.weight", (1 / 3 / 64) ** 0.5),
    ])  # fmt: skip
    def test_initialisation_of_other_pieces(self, options: dict[str, Any], part: str, wanted: float) -> None:
        block = small(width=64, **options).body.blocks[0]
        assert block.get_parameter(part).std().item() == pytest.approx(wanted, rel=0.1)

    def test_parameters_are_as_many_as_counted_by_hand(self) -> None:
        width, layers, vocabulary, context = 16, 2, 40, 32
        attention, feed_forward, norms = 4 * width * width + 4 * width, 8 * width * width + 5 * width, 4 * width
        wanted = (vocabulary + context) * width + layers * (attention + feed_forward + norms) + 2 * width
        assert small().num_parameters() == wanted
        assert small(tie_word_embeddings=False).num_parameters() == wanted + vocabulary * width
        assert small(experts=3).num_parameters() == wanted + layers * (2 * feed_forward + 3 * width)
        assert small(n_kv_heads=1).num_parameters() == wanted - layers * (width * width + width)
        plain = small(bias=False, norm="none", position="none")
        assert plain.num_parameters() == vocabulary * width + layers * 12 * width * width


class TestRecurrent:
    @pytest.mark.parametrize("family", ["layerwise_lstm", "layerwise_gru"])
    def test_a_tapped_gate_runs_the_net_in_the_open_to_the_same_numbers(self, family: str) -> None:
        model = tiny(family)
        batch = make_batch(model, texts(6, 4), range(2))
        gate = "body.blocks.1.attention.net.layers.0.update_gate.output"
        gate = gate.replace("update", "forget") if family == "layerwise_lstm" else gate
        fused = run(model, batch, logits=True)["logits"]
        found = run(model, batch, {gate: None}, logits=True)
        torch.testing.assert_close(found["logits"][batch.mask], fused[batch.mask], atol=1e-6, rtol=1e-5)
        assert found[gate].shape == (2, 6, 16)
        assert ((found[gate] > 0) & (found[gate] < 1)).all()

    def test_a_gate_can_be_written_at_a_step(self) -> None:
        from layerwise.models.model import LanguageModel

        model = LanguageModel(small(attention=["softmax", "lstm"], recurrent_steps=3))
        batch = make_batch(model, texts(6), [0])
        site = "body.blocks.1.attention.net.layers.0.steps.2.output_gate.output"
        clean = run(model, batch, {"attn_out.1": None})["attn_out.1"]
        closed = run(model, batch, {"attn_out.1": None}, {site: torch.zeros_like})["attn_out.1"]
        assert not closed[0, 2].any()
        torch.testing.assert_close(closed[0, :2], clean[0, :2])

    def test_gates_are_tapped_without_padding_on_the_left(self) -> None:
        model = tiny("layerwise_lstm")
        batch = make_batch(model, texts(6, 4), range(2), "left")
        with (
            pytest.raises(UserError, match="padded on the right"),
            torch.no_grad(),
            tapped(model, {"body.blocks.0.attention.net.layers.0.memory.output": None}),
        ):
            model.module(**batch.inputs)

    def test_it_starts_from_a_learned_state(self) -> None:
        model = small(attention="gru")
        before = model(ids(1, 3)).logits
        with torch.no_grad():
            model.body.blocks[0].attention.initial_state.fill_(1.0)
        assert not torch.allclose(model(ids(1, 3)).logits, before)

    def test_a_mixed_stack_is_cached_and_has_the_sites_of_each_layer(self) -> None:
        from layerwise.models.model import LanguageModel

        model = LanguageModel(small(attention=["lstm", "softmax"], position="rotary"))
        assert model.sites.expand("q.*") == ["q.1"]
        assert model.sites.expand("attn_out.*") == ["attn_out.0", "attn_out.1"]
        assert not model.sites.refused
        tokens = ids(2, 6)
        with torch.no_grad():
            first = model.module(tokens[:, :4], use_cache=True)
            rest = model.module(tokens[:, 4:], past_key_values=first.past_key_values)
            torch.testing.assert_close(rest.logits, model.module(tokens).logits[:, 4:], atol=1e-5, rtol=1e-4)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"attention": "lsmt"}, r"unknown attention 'lsmt'. Did you mean 'lstm'\?"),
            ({"feed_forward": "swiglo"}, "unknown feed_forward 'swiglo'. Did you mean 'swiglu'"),
            ({"norm": "batch"}, "unknown norm"),
            ({"position": "rope"}, "unknown position"),
            ({"block": "sandwich"}, "unknown block"),
            ({"qk_norm": "none"}, "unknown qk_norm"),
            ({"width": 15}, "do not divide"),
            ({"n_heads": 4, "n_kv_heads": 3}, "do not divide"),
            ({"n_layers": 0}, "n_layers must be at least 1, got 0"),
            ({"feed_forward_factor": 0}, "at least one neuron"),
            ({"dropout": 1.0}, "dropout must be"),
            ({"attention": ["softmax"]}, "attention lists 1 layers, but n_layers is 2"),
            ({"sliding_window": 0}, "sliding_window must be more than 0"),
            ({"logit_softcap": -1.0}, "logit_softcap must be more than 0"),
            ({"relu_after": [2]}, "relu_after names layer 2: layers are 0 to 1"),
            ({"experts": 2, "experts_per_token": 3}, "experts_per_token must be 1 to 2"),
            ({"position": "rotary", "n_heads": 16}, "turn pairs"),
            ({"score_scale_token": 3}, "give score_scale too"),
            ({"recurrent_steps": 2}, "no layer has it"),
            (
                {"attention": "gru", "position": "rotary", "sliding_window": 4},
                "position, sliding_window: an option of softmax",
            ),
            ({"attention": "lstm", "n_kv_heads": 1, "score_scale": 2.0}, "n_kv_heads, score_scale: an option"),
        ],
    )
    def test_a_config_that_would_not_do_what_it_says(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            LayerwiseConfig(**{**SMALL, **options})

    def test_a_text_longer_than_the_context(self) -> None:
        with pytest.raises(UserError, match="a text of 33 tokens is longer than the model's context, 32"):
            small()(ids(1, 33))
        with pytest.raises(UserError, match="longer than the model's context, 32"):
            small().generate(ids(1, 30), max_new_tokens=5, min_new_tokens=5)
        assert small(position="alibi")(ids(1, 40)).logits.shape == (1, 40, 40)

    def test_ids_and_embeddings_at_once(self) -> None:
        with pytest.raises(UserError, match="either"):
            small()(ids(1, 2), inputs_embeds=torch.zeros(1, 2, 16))


class TestFiles:
    def test_saved_and_loaded_it_is_the_same(self, model: LayerwiseForCausalLM, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path)
        assert {file.name for file in tmp_path.iterdir()} == {
            "config.json",
            "generation_config.json",
            "model.safetensors",
        }
        tokens = ids(2, 7)
        again = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert type(again) is LayerwiseForCausalLM
        assert torch.equal(again(tokens).logits, model(tokens).logits)
        assert config_digest(AutoConfig.from_pretrained(tmp_path)) == config_digest(model.config)
        body = AutoModel.from_pretrained(tmp_path)
        assert type(body) is LayerwiseModel
        assert torch.equal(body(tokens).last_hidden_state, model.body(tokens).last_hidden_state)
        loaded = load_model(str(tmp_path))
        assert torch.equal(loaded.module(tokens).logits, model(tokens).logits)
        assert loaded.max_length == 32
        assert not loaded.is_encoder

    def test_its_random_twin(self, tmp_path: Path) -> None:
        small(attention=["lstm", "softmax"], experts=2).save_pretrained(tmp_path)
        twin = load_model(ModelConfig(name=str(tmp_path), random_init=True, random_seed=3))
        assert not torch.equal(twin.module.lm_head.weight, load_model(str(tmp_path)).module.lm_head.weight)

    def test_half_precision(self) -> None:
        for family in OURS:
            module = LayerwiseForCausalLM(build(family).config).to(torch.bfloat16).eval()
            assert module(ids(2, 5)).logits.dtype == torch.bfloat16
            assert module(ids(2, 5)).logits.isfinite().all()

    def test_the_vocabulary_of_the_contract(self) -> None:
        assert build("layerwise").config.vocab_size == VOCABULARY


@pytest.mark.parametrize("feed_forward", ["gelu", "geglu"])
def test_compiled_it_is_the_same_model(feed_forward: str) -> None:
    """Its GELU is written out for the compiler on a CPU."""
    plain = small(feed_forward=feed_forward)
    tokens, found = ids(2, 9), []
    for model in (plain, torch.compile(plain, backend="aot_eager", fullgraph=False)):
        plain.zero_grad()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        found.append(
            (loss.detach(), *(weight.grad.clone() for weight in plain.parameters() if weight.grad is not None))
        )
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_gelu_written_out_is_as_near_to_gelu_as_torchs_own() -> None:
    """Value and slope, against double precision, from tail to tail."""
    exact = torch.linspace(-12, 12, 20_001, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.gelu(exact).sum().backward()
    compiled = torch.compile(gelu, backend="aot_eager", fullgraph=True)
    errors = []
    for function in (compiled, torch.nn.functional.gelu):
        x = exact.detach().float().requires_grad_()
        y = function(x)
        y.sum().backward()
        errors.append(
            [
                float((y.detach() - torch.nn.functional.gelu(exact.detach())).abs().max()),
                float((x.grad - exact.grad).abs().max()),
            ]
        )
    written_out, own = errors
    assert all(here <= 1.5 * there for here, there in zip(written_out, own, strict=True))
    half = torch.randn(7, dtype=torch.bfloat16)
    assert torch.equal(compiled(half), torch.nn.functional.gelu(half))
