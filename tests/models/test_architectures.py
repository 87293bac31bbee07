"""The contract every architecture family keeps: what its sites are called is what they are, in real numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from families import FAMILIES, HEADS, LAYERS, WIDTH, Tiny, build, texts, tiny
from torch import Tensor

from layerwise.errors import UserError
from layerwise.models.batch import make_batch
from layerwise.models.layouts import KNOWN_PAIRS
from layerwise.models.restart import Start
from layerwise.models.sites import Site, SiteMap, parse_site
from layerwise.models.taps import run

ENCODERS = ("bert", "roberta", "distilbert", "modernbert", "esm")
SEQ2SEQ = ("t5", "bart", "mbart")
DECODERS = tuple(name for name in FAMILIES if name not in ENCODERS + SEQ2SEQ)
PARALLEL = ("phi", "cohere", "gptj", "gpt_neox", "falcon", "falcon_grouped", "stablelm_parallel")
MOE = ("mixtral", "gpt_oss")
WITH_ATTENTION = tuple(name for name in FAMILIES if name != "mamba")
POST_NORM = {  # after which norm resid_mid and resid_post come
    **dict.fromkeys(("bert", "roberta"), ("attention.output.LayerNorm", "output.LayerNorm")),
    "distilbert": ("sa_layer_norm", "output_layer_norm"),
    **dict.fromkeys(("opt_post_norm", "bart"), ("self_attn_layer_norm", "final_layer_norm")),
}
BIASED = ("bloom", "mpt", "falcon_alibi", "t5")  # something is added to q·k besides the mask
CROSS = ("cross_q", "cross_k", "cross_v", "cross_pattern", "cross_z", "cross_attn_out", "resid_cross")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=WITH_ATTENTION)
def attending(request: pytest.FixtureRequest) -> str:
    return request.param


def batch_of(model: Tiny, *lengths: int, side=None):
    return make_batch(model, texts(*(lengths or (6, 6))), range(len(lengths) or 2), side)


def all_sites(model: Tiny) -> list[str]:
    """Every site of the model, in the order they run."""
    return list(model.sites.ports)


def everything(model: Tiny, batch, writes=None) -> dict[str, Tensor]:
    """Every site's tensor in one full forward."""
    return {name: value.clone() for name, value in run(model, batch, dict.fromkeys(all_sites(model)), writes).items()}


def prefixes(model: Tiny) -> list[str]:
    return list(model.sites.stacks)


def close(left: Tensor, right: Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(left, right, atol=tolerance, rtol=1e-4)


def test_it_has_every_site_its_blocks_allow(family: str) -> None:
    wanted = {"embed", "resid_pre", "resid_post", "final_norm", "logits"}
    if family != "mamba":
        wanted |= {"q", "k", "v", "pattern", "z", "attn_out", "resid_mid", "mlp_post", "mlp_out"}
    if family in PARALLEL:
        wanted.remove("resid_mid")
    if family in MOE:
        wanted = wanted - {"mlp_post"} | {"router"}
    if family in POST_NORM:
        wanted.remove("final_norm")
    if family in SEQ2SEQ:
        stacks = {f"{stack}.{name}" for stack in ("encoder", "decoder") for name in wanted - {"logits"}}
        wanted = stacks | {"logits", *CROSS}
    model = tiny(family)
    assert set(model.sites.names()) == wanted
    assert not model.sites.refused
    assert (model.sites.n_layers, model.sites.width) == (LAYERS, WIDTH)
    assert model.sites.n_heads == (HEADS if family != "mamba" else 1)


def test_shapes(family: str) -> None:
    model = tiny(family)
    found = everything(model, batch_of(model, 6, 4))
    for name, value in found.items():
        site = parse_site(name)
        if site.kind == "pattern":
            assert value.shape == (2, HEADS, 6, 6), name
        elif site.kind in ("q", "k", "v", "z"):
            heads = model.sites.heads_of(site.name)
            assert value.shape[:3] == (2, 6, heads), name
            assert value.shape[2] * value.shape[3] == model.sites.width_of(name)
            assert value.shape[3] == model.sites.width_of(f"{name}.0")
        else:
            assert value.shape == (2, 6, model.sites.width_of(name)), name


def test_pieces_add_up_by_the_law_of_the_block(attending: str) -> None:
    model = tiny(attending)
    found = everything(model, batch_of(model))
    for prefix in prefixes(model):
        close(found[f"{prefix}embed"], found[f"{prefix}resid_pre.0"], 0)
        close(found[f"{prefix}resid_post.0"], found[f"{prefix}resid_pre.1"], 0)
        for layer in range(LAYERS):
            pre, attn, mlp, post = (
                found[f"{prefix}{name}.{layer}"] for name in ("resid_pre", "attn_out", "mlp_out", "resid_post")
            )
            if attending in PARALLEL:
                close(pre + attn + mlp, post)
                continue
            block = model.module.get_submodule(model.sites.stacks[prefix].block(layer))
            after = [block.get_submodule(name) for name in POST_NORM.get(attending, ())] or [torch.nn.Identity()] * 2
            mid = found[f"{prefix}resid_mid.{layer}"]
            close(after[0](pre + attn), mid)
            if prefix == "decoder.":
                cross = block.encoder_attn_layer_norm if attending == "bart" else torch.nn.Identity()
                crossed = found[f"resid_cross.{layer}"]
                close(cross(mid + found[f"cross_attn_out.{layer}"]), crossed)
                mid = crossed
            close(after[1](mid + mlp), post)


def kinds_of_attention(model: Tiny) -> list[str]:
    """The prefixes of each attention's sites: '', or 'encoder.', 'decoder.' and 'cross_'."""
    return [*prefixes(model), "cross_"] if "decoder." in prefixes(model) else [""]


def test_heads_through_the_output_projection_are_what_attention_adds(attending: str) -> None:
    model = tiny(attending)
    found = everything(model, batch_of(model))
    for kind in kinds_of_attention(model):
        for layer in range(LAYERS):
            site = Site(f"{kind}z", layer)
            out = model.sites.port(site).module(model.module)
            block = model.module.get_submodule(next(iter(model.sites.stacks.values())).block(layer))
            after = (
                block.post_attention_layernorm if attending in ("gemma2", "gemma3", "olmo2") else torch.nn.Identity()
            )
            scale = 0.3 if attending == "granite" else 1.0
            close(after(out(found[str(site)].flatten(2))) * scale, found[f"{kind}attn_out.{layer}"])


def test_pattern_rows_are_probabilities_and_mix_the_values(attending: str) -> None:
    model = tiny(attending)
    found = everything(model, batch_of(model))
    for kind in kinds_of_attention(model):
        for layer in range(LAYERS):
            pattern, value = found[f"{kind}pattern.{layer}"], found[f"{kind}v.{layer}"]
            if attending == "gpt_oss":  # the sink takes a share of every row
                assert (pattern.sum(-1) < 1).all()
            else:
                close(pattern.sum(-1), torch.ones(pattern.shape[:-1]))
            value = value.repeat_interleave(HEADS // value.shape[2], dim=2)
            close(torch.einsum("bhqk,bkhd->bqhd", pattern, value), found[f"{kind}z.{layer}"])


@pytest.mark.parametrize("name", [name for name in WITH_ATTENTION if name not in BIASED])
def test_scaled_products_of_q_and_k_give_the_pattern(name: str) -> None:
    model = tiny(name)
    found = everything(model, batch_of(model))
    for kind in kinds_of_attention(model):
        for layer in range(LAYERS):
            query, key, pattern = (found[f"{kind}{site}.{layer}"] for site in ("q", "k", "pattern"))
            attention = model.sites.port(Site(f"{kind}q", layer)).module(model.module)
            unscaled = 1.0 if name == "gpt_neo" else query.shape[-1] ** -0.5
            scores = torch.einsum("bqhd,bkhd->bhqk", query, key.repeat_interleave(HEADS // key.shape[2], dim=2))
            # OPT has scaled its queries before they meet the keys.
            scores = scores * (1.0 if name.startswith("opt") else getattr(attention, "scaling", unscaled))
            if name == "gemma2":
                scores = torch.tanh(scores / 50.0) * 50.0
            scores = scores.masked_fill(pattern == 0, -torch.inf)  # causal and sliding masks
            if name == "gpt_oss":
                sinks = attention.sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
                close(torch.cat([scores, sinks], -1).softmax(-1)[..., :-1], pattern)
            else:
                close(scores.softmax(-1), pattern)


def test_a_causal_model_looks_back_only_and_an_encoder_both_ways(attending: str) -> None:
    model = tiny(attending)
    found = everything(model, batch_of(model))
    future = torch.ones(6, 6).triu(1).bool()
    for kind in kinds_of_attention(model):
        seen = found[f"{kind}pattern.0"][..., future]
        causal = attending in DECODERS or kind == "decoder."
        assert bool((seen == 0).all()) == causal


def order(name: str) -> tuple[int, int, int]:
    """Where in a forward a site runs: stack, layer, place in the block; equal for sites that do not depend on each other."""
    site = parse_site(name)
    stack = 0 if site.name.startswith("encoder.") else 1
    places = {"embed": -1, "resid_pre": 0, "q": 1, "k": 1, "v": 1, "pattern": 2, "z": 3, "attn_out": 4, "resid_mid": 5,
              "resid_cross": 10, "router": 11, "mlp_post": 12, "mlp_out": 13, "resid_post": 14, "final_norm": 15, "logits": 16}  # fmt: skip
    place = 5 + places[site.kind] if "cross_" in site.name else places[site.kind]
    layer = 0 if site.kind == "embed" else LAYERS if site.layer is None else site.layer
    return stack, layer, place


def test_a_write_changes_later_sites_and_no_earlier_one(family: str) -> None:
    model = tiny(family)
    batch = batch_of(model)
    clean = everything(model, batch)
    for name in all_sites(model):
        generator = torch.Generator().manual_seed(0)

        def jolt(value: Tensor, generator: torch.Generator = generator) -> Tensor:
            return value + torch.randn(value.shape, generator=generator)

        dirty = everything(model, batch, {name: jolt})
        changed = {site for site in clean if not torch.equal(clean[site], dirty[site])}
        assert name in changed
        assert "logits" in changed, f"a write at {name} does not reach the logits"
        parallel = family in PARALLEL and parse_site(name).kind in ("mlp_post", "mlp_out")
        for site in changed - {name}:
            same = {name, site} in ({f"{p}embed", f"{p}resid_pre.0"} for p in prefixes(model))
            same = same or {name, site} in ({f"{p}resid_post.0", f"{p}resid_pre.1"} for p in prefixes(model))
            assert same or order(site) > order(name), f"a write at {name} changes {site}"
            assert not (parallel and parse_site(site).kind == "attn_out" and order(site)[1] == order(name)[1])
        again = everything(model, batch)
        assert all(torch.equal(clean[site], again[site]) for site in clean), f"a write at {name} stays"


def test_writing_what_is_there_changes_nothing(family: str) -> None:
    model = tiny(family)
    batch = batch_of(model, 6, 4)
    clean = everything(model, batch)
    dirty = everything(model, batch, {name: lambda value: value.clone() for name in all_sites(model)})
    for name, value in clean.items():
        close(dirty[name], value, 1e-5)


def test_writing_one_head_leaves_the_others(attending: str) -> None:
    model = tiny(attending)
    batch = batch_of(model)
    stack = prefixes(model)[0]
    clean = everything(model, batch)
    for kind in ("q", "k", "v", "pattern", "z"):
        site = f"{stack}{kind}.1"
        head = model.sites.heads_of(f"{stack}{kind}") - 1
        dirty = run(model, batch, {site: None, f"{site}.{head}": None}, {f"{site}.{head}": torch.zeros_like})
        axis = 1 if kind == "pattern" else 2
        rest = torch.tensor([index for index in range(clean[site].shape[axis]) if index != head], dtype=torch.long)
        assert torch.equal(dirty[f"{site}.{head}"], torch.zeros_like(dirty[f"{site}.{head}"]))
        close(dirty[site].index_select(axis, rest), clean[site].index_select(axis, rest), 1e-6)
    changed = run(model, batch, {f"{stack}attn_out.1": None}, {f"{stack}z.1.0": torch.zeros_like})
    assert not torch.allclose(changed[f"{stack}attn_out.1"], clean[f"{stack}attn_out.1"])


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_gives_what_each_text_alone_gives(family: str, side: str) -> None:
    model = tiny(family)
    corpus = texts(3, 7, 5)
    if family in ("bart", "mbart") and side == "left":
        with pytest.raises(UserError, match="padded on the right only"):
            make_batch(model, corpus, range(3), "left")
        return
    batch = make_batch(model, corpus, range(3), side)
    found = everything(model, batch)
    assert all(value.isfinite().all() for value in found.values()), "padding must not hold numbers that spread"
    for index in range(3):
        alone = everything(model, make_batch(model, corpus, [index]))
        real = batch.mask[index]
        for name, value in alone.items():
            together = found[name][index]
            if parse_site(name).kind == "pattern":
                close(together[:, real][:, :, real], value[0], 5e-5)
            else:
                close(together[real], value[0], 5e-5)


def plain(module, batch, **more):
    """The model's own answer, by its eager attention."""
    plain_module = copy.deepcopy(module)
    for part in plain_module.modules():
        if hasattr(getattr(part, "config", None), "_attn_implementation"):
            part.config._attn_implementation = "eager"
    with torch.no_grad():
        return plain_module(**batch.inputs, **more)


def test_results_are_those_of_plain_transformers(family: str) -> None:
    model = tiny(family)
    batch = batch_of(model, 6, 4)
    found = everything(model, batch)
    more = {} if family == "mamba" else {"output_attentions": True}
    if family == "falcon_alibi":
        pytest.skip("its eager attention in transformers adds the slopes twice; the fused one, which we follow, once")
    answer = plain(model.module, batch, output_hidden_states=True, **more)
    names = {"": "", "encoder.": "encoder_", "decoder.": "decoder_"}
    for prefix in prefixes(model):
        hidden = answer[f"{names[prefix]}hidden_states"]
        if family == "mamba":  # whose list begins after the first block
            hidden = (found["embed"], *hidden)
        close(hidden[0], found[f"{prefix}embed"])
        close(hidden[1], found[f"{prefix}resid_post.0"])
        last = f"{prefix}final_norm" if f"{prefix}final_norm" in found else f"{prefix}resid_post.1"
        if family != "opt_post_norm":  # which projects its last hidden state to another width
            close(hidden[-1], found[last])
        if family != "mamba":
            for layer, pattern in enumerate(answer[f"{names[prefix]}attentions"]):
                close(pattern[0], found[f"{prefix}pattern.{layer}"][0])
    if family in SEQ2SEQ:
        for layer, pattern in enumerate(answer["cross_attentions"]):
            close(pattern[0], found[f"cross_pattern.{layer}"][0])
    close(answer.logits, found["logits"])


def test_stopping_early_gives_what_a_full_run_gives_and_runs_no_more(family: str) -> None:
    model = tiny(family)
    batch = batch_of(model, 6, 4)
    full = everything(model, batch)
    prefix = prefixes(model)[0]
    ran: list[int] = []
    blocks = [model.module.get_submodule(model.sites.stacks[prefix].block(layer)) for layer in range(LAYERS)]
    handles = [
        block.register_forward_pre_hook(lambda *_, layer=layer: ran.append(layer)) for layer, block in enumerate(blocks)
    ]
    try:
        early = run(model, batch, {f"{prefix}resid_post.0": None})
    finally:
        for handle in handles:
            handle.remove()
    assert ran == [0]
    close(early[f"{prefix}resid_post.0"], full[f"{prefix}resid_post.0"], 1e-5)


def test_a_run_restarted_at_a_layer_ends_as_the_full_run(family: str) -> None:
    model = tiny(family)
    batch = batch_of(model, 6, 4)
    for prefix in prefixes(model):
        start, end = f"{prefix}resid_pre.1", f"{prefix}resid_post.1"
        full = run(model, batch, {start: None, end: None}, logits=True)
        blocks = model.sites.stacks[prefix]
        attention = [
            part for part in model.module.get_submodule(blocks.block(0)).modules() if not list(part.children())
        ]
        ran: list[int] = []
        handle = attention[-1].register_forward_hook(lambda *_, ran=ran: ran.append(0))
        again = run(model, batch, {end: None}, logits=True, start=Start(start, full[start]))
        handle.remove()
        close(again[end], full[end], 1e-5)
        close(again["logits"], full["logits"], 1e-5)
        assert not ran or not blocks.plain_output
        moved = run(model, batch, {end: None}, start=Start(start, full[start] + torch.randn(full[start].shape)))
        assert not torch.allclose(moved[end], full[end], atol=1e-3)


def test_layouts_are_found_by_structure_when_the_family_is_unknown(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = build(family)
    known = tiny(family).sites
    monkeypatch.setattr("layerwise.models.architecture.KNOWN", {})
    pairs = {f"another {name}": pair for name, pair in KNOWN_PAIRS.items()}
    monkeypatch.setattr("layerwise.models.architecture.KNOWN_PAIRS", pairs)
    guessed = SiteMap.of(module)
    if family == "mamba":
        assert guessed.names() == known.names()
        return
    assert set(guessed.names()) == set(known.names()), guessed.refused
    assert guessed.ports == known.ports
