"""Cases that pyvene and this package both express, over two tiny models whose weights are a formula.

``pyvene_reference.py`` makes what the tests compare with. This needs torch and transformers alone.

Left out, since pyvene is wrong there, and tested by hand instead: subspaces that differ between texts (it swaps those of all texts
in each), autoencoders of more latents than the width (it swaps the first ``width`` of them), noise (it fails on any width but
its own), several heads as one vector (it fails), chains in which two interventions share a source (it keeps
the last), ``{"base": [1, 2]}`` (it reads a source's and a base's position).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

REFERENCE = Path(__file__).with_name("pyvene.safetensors")
WIDTH, VOCABULARY = 16, 40


@dataclass(frozen=True)
class Case:
    """One intervention in both languages.

    pyvene, locations, subspaces, mode: its representations, ``type`` being the class name, and what its call is given.
    steps, positions, subspaces_here: of the plan and its call. sources: the texts of each run, None where it is left out.
    setting: parameters to set, by name there and here. generate: pyvene's settings of a generation. given: the function of an
    intervention that is one, and of the step.
    """

    pyvene: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    locations: Any = None
    subspaces: Any = None
    mode: str = "parallel"
    positions: dict[str, Any] = field(default_factory=dict)
    subspaces_here: dict[str, Any] = field(default_factory=dict)
    sources: tuple[str | None, ...] = ("source",)
    setting: dict[str, str] = field(default_factory=dict)
    generate: dict[str, Any] | None = None
    given: Any = None


def formula(shape: tuple[int, ...] | torch.Size, salt: int = 0, scale: float = 0.3) -> Tensor:
    """Numbers that look random and are the same everywhere."""
    count = torch.Size(shape).numel()
    return (
        (torch.sin(torch.arange(count, dtype=torch.float64) * 12.9898 + salt * 78.233) * scale).float().reshape(shape)
    )


def rotation(rank: int = WIDTH) -> Tensor:
    """(width, rank) orthonormal columns."""
    return torch.linalg.qr(formula((WIDTH, WIDTH), 7).double()).Q[:, :rank].float().contiguous()


def model(name: str) -> Any:
    """A tiny GPT-2 or Llama in evaluation mode."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    common = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": None}
    if name == "gpt2":
        built: Any = GPT2LMHeadModel(GPT2Config(n_embd=WIDTH, n_layer=2, n_head=4, n_positions=32, **common))
    else:
        sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
        built = LlamaForCausalLM(LlamaConfig(**sizes, **common))
    with torch.no_grad():
        for salt, (key, parameter) in enumerate(built.named_parameters()):
            parameter.copy_(
                formula(parameter.shape, salt)
                + (1.0 if "norm" in key or "ln_" in key else 0.0) * (parameter.dim() == 1)
            )
    return built.eval()


def ids(name: str) -> Tensor:
    """(2, 6) token ids of a run."""
    return (torch.arange(12).reshape(2, 6) * {"base": 7, "source": 11, "a": 11, "b": 13}[name] + 5) % (
        VOCABULARY - 5
    ) + 5


def half(base: Tensor, source: Tensor) -> Tensor:
    """A function as an intervention."""
    return 0.5 * base + 0.5 * source


def _one(kind: str, site: Any, component: str, layer: int = 0, **more: Any) -> Case:
    """One intervention on one token of both texts; ``at="all"`` leaves pyvene's locations out."""
    ours, theirs, at = more.pop("ours", {}), more.pop("theirs", {}), more.pop("at", 2)
    operation = {"kind": kind, **ours} if ours else kind
    step = {"operation": operation, "sites": site, "positions": at, "name": "step", "when": more.pop("when", "prompt")}
    class_name = more.pop("type")
    sourceless = more.get("sources") == ()
    places = [[[at]] * 2]
    locations = {"base": places[0][0][0]} if sourceless else {"sources->base": ([places[0]], [places[0]])}
    locations = None if at == "all" else locations
    return Case([{"layer": layer, "component": component, "type": class_name, **theirs}], [step], locations, **more)


SWAP = "VanillaIntervention"
NEURONS = {"gpt2": "transformer.h.0.mlp.act.output", "llama": "model.layers.0.mlp.act_fn.output"}  # the gate alone
TURN = {"rotate_layer.weight": "basis.weight"}
CASES: dict[str, Case] = {
    "zero": _one("zero", "resid_post.0", "block_output", type="ZeroIntervention", sources=()),
    "interchange": _one("interchange", "resid_post.0", "block_output", type=SWAP),
    "interchange_mlp": _one("interchange", "mlp_out.1", "mlp_output", 1, type=SWAP),
    "interchange_attention": _one("interchange", "attn_out.1", "attention_output", 1, type=SWAP),
    "interchange_input": _one("interchange", "resid_pre.1", "block_input", 1, type=SWAP),
    "interchange_mix": _one("interchange", "z.0", "attention_value_output", type=SWAP),
    "add": _one("add", "resid_post.0", "block_output", type="AdditionIntervention"),
    "subtract": _one("subtract", "mlp_out.0", "mlp_output", type="SubtractionIntervention"),
    "rotation": _one("rotation", "resid_post.0", "block_output", type="RotatedSpaceIntervention", setting=TURN,
                     subspaces=[[[0, 1, 2]] * 2], subspaces_here={"step": [0, 1, 2]}),
    "low_rank": _one("low_rank_rotation", "resid_post.0", "block_output", type="LowRankRotatedSpaceIntervention", setting=TURN,
                     ours={"rank": 3}, theirs={"low_rank_dimension": 3}),
    "boundless": _one("boundless", "resid_post.0", "block_output", type="BoundlessRotatedSpaceIntervention", setting=TURN,
                      ours={"temperature": 50.0}),
    "mask": _one("mask", "resid_post.0", "block_output", type="SigmoidMaskIntervention", setting={"mask": "mask"},
                 ours={"temperature": 0.01}),
    "rotated_mask": _one("mask", "resid_post.0", "block_output", type="SigmoidMaskRotatedSpaceIntervention",
                         setting={**TURN, "masks": "mask"}, ours={"rotated": True, "temperature": 50.0}),
    "jumprelu": _one("sae", "resid_post.0", "block_output", type="JumpReLUAutoencoderIntervention",
                     ours={"activation": "jumprelu", "keep_error": False}, theirs={"low_rank_dimension": WIDTH},
                     setting={name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}),
    "other_position": Case(
        [{"layer": 0, "component": "block_output", "type": SWAP}],
        [{"operation": "interchange", "sites": "resid_post.0", "positions": 4, "source_positions": 1}],
        {"sources->base": ([[[1], [1]]], [[[4], [4]]])},
    ),
    "several_positions": Case(
        [{"layer": 0, "component": "block_output", "type": SWAP, "max_number_of_units": 2}],
        [{"operation": "interchange", "sites": "resid_post.0", "positions": "1,3"}],
        {"sources->base": ([[[1, 3], [1, 3]]], [[[1, 3], [1, 3]]])},
    ),
    "positions_of_each_text": Case(
        [{"layer": 0, "component": "block_output", "type": SWAP}],
        [{"operation": "interchange", "sites": "resid_post.0", "positions": "each", "name": "step"}],
        {"sources->base": ([[[1], [4]]], [[[3], [0]]])},
        positions={"step": {"base": [[3], [0]], "source": [[1], [4]]}},
    ),
    "two_sources": Case(
        [{"layer": 0, "component": "mlp_output", "type": SWAP}, {"layer": 1, "component": "block_output", "type": SWAP}],
        [{"operation": "interchange", "sites": "mlp_out.0", "positions": 1, "source": "a"},
         {"operation": "interchange", "sites": "resid_post.1", "positions": 3, "source": "b"}],
        {"sources->base": ([[[1]] * 2, [[3]] * 2], [[[1]] * 2, [[3]] * 2])}, sources=("a", "b"),
    ),
    "a_source_left_out": Case(
        [{"layer": 0, "component": "mlp_output", "type": SWAP}, {"layer": 1, "component": "block_output", "type": SWAP}],
        [{"operation": "interchange", "sites": "mlp_out.0", "positions": 1, "source": "a"},
         {"operation": "interchange", "sites": "resid_post.1", "positions": 3, "source": "b"}],
        {"sources->base": ([None, [[3]] * 2], [None, [[3]] * 2])}, sources=(None, "b"),
    ),
    "a_shared_source": Case(
        [{"layer": 0, "component": "mlp_output", "type": SWAP, "group_key": 0},
         {"layer": 1, "component": "attention_output", "type": SWAP, "group_key": 0}],
        [{"operation": "interchange", "sites": "mlp_out.0", "positions": 1},
         {"operation": "interchange", "sites": "attn_out.1", "positions": 3}],
        {"sources->base": ([[[1]] * 2, [[3]] * 2], [[[1]] * 2, [[3]] * 2])},
    ),
    "a_chain": Case(
        [{"layer": 0, "component": "block_output", "type": SWAP}, {"layer": 1, "component": "block_output", "type": SWAP}],
        [{"operation": "interchange", "sites": "resid_post.0", "positions": 2, "source_positions": 1, "source": "a", "into": "b"},
         {"operation": "interchange", "sites": "resid_post.1", "positions": 5, "source_positions": 4, "source": "b"}],
        {"source_0->source_1": ([[[1]] * 2], [[[2]] * 2]), "source_1->base": ([[[4]] * 2], [[[5]] * 2])},
        mode="serial", sources=("a", "b"),
    ),
    "joined_positions": Case(
        [{"layer": 0, "component": "block_output", "type": "BoundlessRotatedSpaceIntervention", "max_number_of_units": 2}],
        [{"operation": {"kind": "boundless", "temperature": 50.0}, "sites": "resid_post.0", "positions": "1,3", "joined": True}],
        {"sources->base": ([[[1, 3]] * 2], [[[1, 3]] * 2])}, setting=TURN,
    ),
    "steered_prompt": _one("add", "resid_post.0", "block_output", type="AdditionIntervention", at=2, ours={"vector": "given"},
                           theirs={"source_representation": formula((WIDTH,), 5, 8.0)}, sources=(),
                           generate={"intervene_on_prompt": True}),
    "collect": _one("collect", "mlp_out.1", "mlp_output", 1, type="CollectIntervention", sources=()),
    "collect_numbers": _one("collect", "mlp_out.1", "mlp_output", 1, type="CollectIntervention", sources=(),
                            subspaces=[[[0, 1, 5]] * 2], subspaces_here={"step": [0, 1, 5]}),
    "constant": _one("constant", "resid_post.0", "block_output", type=SWAP, ours={"vector": "given"},
                     theirs={"source_representation": formula((WIDTH,), 5, 8.0)}, sources=()),
    "skip": _one("skip", "resid_post.0", "block_output", type="SkipIntervention", sources=("base",)),
    "principal": _one("pca", "resid_post.0", "block_output", type="PCARotatedSpaceIntervention",
                      ours={"components": WIDTH, "standardize": True}, subspaces=[[[0, 1, 2]] * 2], subspaces_here={"step": [0, 1, 2]}),
    "partition": Case(
        [{"layer": 0, "component": "block_output", "type": SWAP, "subspace_partition": [[0, 4], [4, 16]]}],
        [{"operation": "interchange", "sites": "resid_post.0", "positions": 2, "partition": ["0-3", "4-15"], "name": "step"}],
        {"sources->base": ([[[2]] * 2], [[[2]] * 2])}, subspaces=[[[1]] * 2], subspaces_here={"step": [1]},
    ),
    "partition_of_a_rotation": Case(
        [{"layer": 1, "component": "mlp_output", "type": "RotatedSpaceIntervention", "subspace_partition": [[0, 4], [4, 16]]}],
        [{"operation": "rotation", "sites": "mlp_out.1", "positions": 2, "partition": ["0-3", "4-15"], "name": "step"}],
        {"sources->base": ([[[2]] * 2], [[[2]] * 2])}, subspaces=[[[0]] * 2], subspaces_here={"step": [0]}, setting=TURN,
    ),
    "add_numbers": _one("add", "resid_post.0", "block_output", type="AdditionIntervention",
                        subspaces=[[[0, 1, 7]] * 2], subspaces_here={"step": [0, 1, 7]}),
    "low_rank_columns": _one("low_rank_rotation", "resid_post.0", "block_output", type="LowRankRotatedSpaceIntervention", setting=TURN,
                             ours={"rank": 3}, theirs={"low_rank_dimension": 3}, subspaces=[[[0, 2]] * 2], subspaces_here={"step": [0, 2]}),
    "a_head": Case(
        [{"layer": 0, "component": "head_attention_value_output", "type": SWAP, "unit": "h.pos"}],
        [{"operation": "interchange", "sites": "z.0.1", "positions": 2}],
        {"sources->base": ([[[[1]] * 2, [[2]] * 2]], [[[[1]] * 2, [[2]] * 2]])},
    ),
    "values": _one("interchange", "v.1", "value_output", 1, type=SWAP, at=1),
    "neurons": _one("interchange", NEURONS, "mlp_activation", type=SWAP, subspaces=[[[0, 5, 9]] * 2], subspaces_here={"step": [0, 5, 9]}),
    "shared_weights": Case(
        [{"layer": 0, "component": "block_output", "type": "LowRankRotatedSpaceIntervention", "low_rank_dimension": 4,
          "intervention_link_key": 0, "subspace_partition": [[0, 2], [2, 4]]}] * 2,
        [{"operation": {"kind": "low_rank_rotation", "rank": 4}, "sites": "resid_post.0", "positions": 2, "partition": ["0-1", "2-3"],
          "source": source, "weights": "shared", "name": source} for source in ("a", "b")],
        {"sources->base": ([[[2]] * 2] * 2, [[[2]] * 2] * 2)}, sources=("a", "b"), setting=TURN,
        subspaces=[[[0]] * 2, [[1]] * 2], subspaces_here={"a": [0], "b": [1]},
    ),
    "a_function": _one("custom", "resid_post.0", "block_output", type="", ours={"source": True}, given=half),
    "steered_new_tokens": _one("add", "resid_post.0", "block_output", type="AdditionIntervention", ours={"vector": "given"}, when="decode",
                               at="all", theirs={"source_representation": formula((WIDTH,), 5, 8.0)}, sources=(),
                               generate={"intervene_on_prompt": False}),
    "steered_always": _one("add", "resid_post.0", "block_output", type="AdditionIntervention", ours={"vector": "given"}, when="every",
                           at="all", theirs={"source_representation": formula((WIDTH,), 5, 8.0)}, sources=(),
                           generate={"intervene_on_prompt": True}),
    "patched_prompt": _one("interchange", "resid_post.0", "block_output", type=SWAP, generate={"intervene_on_prompt": True}),
}  # fmt: skip


def parameter(case: str, there: str, shape: torch.Size) -> Tensor:
    """What a parameter of pyvene's name is set to in a case."""
    if there == "rotate_layer.weight":
        size = int(shape[0])
        return torch.linalg.qr(formula((size, size), 7).double()).Q[:, : shape[1]].float().contiguous()
    return formula(shape, len(case) + len(there), 1.0)
