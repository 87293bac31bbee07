"""A layer × position patching map beside the ways it is commonly made: ``python benchmarks/patching.py --rounds 5``.

Twelve layers, twenty positions, one pair of prompts (``--pairs`` for more), GPT-2 small's shape with random weights, one thread.
``batched hooks`` writes all positions of a layer in one forward of copies of the prompt, the whole model for each; ``naive`` runs one
cell at a time. Peers that are installed take part as their users run them. All numbers are compared before anything is timed; what
the peers need once (clean values, configurations, a bridge) is made before the clock starts.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from rounds import Timing, ratios, rounds
from threadpoolctl import threadpool_limits
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from layerwise.interventions.patching import Cell, patch
from layerwise.models.batch import Batch, Ids, make_batch
from layerwise.models.model import LanguageModel

LAYERS, POSITIONS = 12, 20
RIGHT, WRONG = 464, 257
Map = Callable[[Sequence[int], Sequence[int]], Tensor]  # of layers and positions: (layers, positions, pairs)
MODULES = {
    "resid_pre": "transformer.h.{}",
    "attn_out": "transformer.h.{}.attn",
    "mlp_out": "transformer.h.{}.mlp",
    "z": "transformer.h.{}.attn.c_proj",
}


class Task:
    """A model and pairs of prompts of one length; every contestant returns the map (layers, positions, pairs)."""

    def __init__(self, site: str, pairs: int) -> None:
        torch.manual_seed(0)
        self.module = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, attn_implementation="sdpa")).eval()
        self.model, self.site, self.pairs = LanguageModel(self.module, None, "gpt2-small"), site, pairs
        draw = np.random.default_rng(0)
        clean = draw.integers(0, 50000, (pairs, POSITIONS))
        corrupted = clean.copy()
        corrupted[:, 3] = draw.integers(0, 50000, pairs)
        self.clean, self.corrupted = torch.from_numpy(clean), torch.from_numpy(corrupted)

    def batch(self, ids: Tensor) -> Batch:
        rows = list(ids.numpy())
        return make_batch(self.model, Ids(rows), range(len(rows)))

    def metric(self, logits: Tensor) -> Tensor:
        return logits[..., RIGHT] - logits[..., WRONG]

    def ours(self) -> Tensor:
        cells = [
            Cell((f"{self.site}.{layer}",), tuple((column,) for _ in range(self.pairs)))
            for layer in range(LAYERS)
            for column in range(POSITIONS)
        ]
        found = patch(
            self.model, self.batch(self.corrupted), self.batch(self.clean), cells, lambda logits, _: self.metric(logits)
        )
        return found.values.view(LAYERS, POSITIONS, self.pairs)

    def _port(self, layer: int) -> tuple[Any, bool]:
        """The module, and whether its input is patched."""
        return self.module.get_submodule(MODULES[self.site].format(layer)), self.site in ("resid_pre", "z")

    @cached_property
    def clean_values(self) -> list[Tensor]:
        kept: list[Tensor] = []
        hooks = []
        for layer in range(LAYERS):
            module, entering = self._port(layer)
            if entering:
                hooks.append(module.register_forward_pre_hook(lambda m, args: kept.append(args[0])))
            else:
                hooks.append(module.register_forward_hook(lambda m, args, out: kept.append(_first(out))))
        with torch.no_grad():
            self.module(self.clean, use_cache=False)
        for hook in hooks:
            hook.remove()
        return kept

    @torch.no_grad()
    def hooks(self, layers: Sequence[int], columns: Sequence[int], together: int) -> Tensor:
        """Plain hooks, ``together`` positions of a layer in one forward."""
        values, found = self.clean_values, torch.empty(len(layers), len(columns), self.pairs)
        for place, layer in enumerate(layers):
            module, entering = self._port(layer)
            for begin in range(0, len(columns), together):
                now = columns[begin : begin + together]

                def put(value: Tensor, now: Sequence[int] = now, layer: int = layer) -> Tensor:
                    value = value.clone()
                    for copy_number, column in enumerate(now):
                        rows = slice(copy_number * self.pairs, (copy_number + 1) * self.pairs)
                        value[rows, column] = values[layer][:, column]
                    return value

                if entering:
                    hook = module.register_forward_pre_hook(lambda m, args: (put(args[0]), *args[1:]))
                else:
                    hook = module.register_forward_hook(
                        lambda m, args, out: put(out) if isinstance(out, Tensor) else (put(out[0]), *out[1:])
                    )
                logits = self.module(self.corrupted.repeat(len(now), 1), use_cache=False).logits[:, -1]
                hook.remove()
                found[place, begin : begin + together] = self.metric(logits).view(len(now), self.pairs)
        return found


def _first(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out[0]


def nnsight(task: Task) -> Map | None:
    """nnsight, a trace for each layer with all positions as one batch (its best), on the same module."""
    if importlib.util.find_spec("nnsight") is None:
        return None
    from nnsight import NNsight

    model = NNsight(copy.deepcopy(task.module))

    def map_of(layers: Sequence[int], columns: Sequence[int]) -> Tensor:
        found = torch.empty(len(layers), len(columns), task.pairs)
        copies, positions = torch.arange(len(columns)), torch.tensor(columns)
        with torch.no_grad():
            for place, layer in enumerate(layers):
                inner, clean = model.transformer.h[layer], task.clean_values[layer]
                with model.trace(task.corrupted.repeat(len(columns), 1), use_cache=False):
                    whole = _peer_value(inner, task.site).clone()
                    shaped = whole.view(len(columns), task.pairs, POSITIONS, -1)
                    shaped[copies, :, positions] = clean[:, positions].transpose(0, 1)
                    if task.site == "resid_pre":
                        inner.input = shaped.view_as(whole)
                    elif task.site == "z":
                        inner.attn.c_proj.input = shaped.view_as(whole)
                    elif task.site == "attn_out":
                        inner.attn.output = (shaped.view_as(whole), *inner.attn.output[1:])
                    else:
                        inner.mlp.output = shaped.view_as(whole)
                    logits = model.lm_head.output[:, -1].save()
                found[place] = task.metric(logits).view(len(columns), task.pairs)
        return found

    return map_of


def _peer_value(inner: Any, site: str) -> Any:
    if site == "resid_pre":
        return inner.input
    if site == "z":
        return inner.attn.c_proj.input
    return inner.attn.output[0] if site == "attn_out" else inner.mlp.output


def pyvene(task: Task) -> Map | None:
    """pyvene, one configuration for each layer and one call for each cell, as its tutorials make such a map."""
    if importlib.util.find_spec("pyvene") is None:
        return None
    import pyvene as pv

    components = {
        "resid_pre": "block_input",
        "attn_out": "attention_output",
        "mlp_out": "mlp_output",
        "z": "attention_value_output",
    }
    module = copy.deepcopy(task.module)
    module.config._attn_implementation = "eager"
    kind = {"component": components[task.site], "intervention_type": pv.VanillaIntervention}
    models = [
        pv.IntervenableModel(pv.IntervenableConfig([{"layer": layer, **kind}]), module) for layer in range(LAYERS)
    ]

    def map_of(layers: Sequence[int], columns: Sequence[int]) -> Tensor:
        found = torch.empty(len(layers), len(columns), task.pairs)
        for place, layer in enumerate(layers):
            for number, column in enumerate(columns):
                _, out = models[layer](
                    {"input_ids": task.corrupted}, [{"input_ids": task.clean}], {"sources->base": column}
                )
                found[place, number] = task.metric(out.logits[:, -1]).detach()
        return found

    return map_of


def transformer_lens(task: Task) -> Map | None:
    """TransformerLens: its own ``patching`` functions on a bridge to a copy of the module, whose logits are compared first."""
    if importlib.util.find_spec("transformer_lens") is None:
        return None
    import pandas as pd
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformer_lens import patching
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:  # a bridge wants a tokenizer, which is not used: one of a single word
        word = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
        special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "a")
        PreTrainedTokenizerFast(tokenizer_object=word, **special).save_pretrained(folder)
        model = TransformerBridge.boot_transformers(
            "gpt2",
            hf_model=copy.deepcopy(task.module),
            device="cpu",
            tokenizer=PreTrainedTokenizerFast.from_pretrained(folder),
        )
    patching.tqdm = list  # no bar for each map
    functions = {
        "resid_pre": patching.get_act_patch_resid_pre,
        "attn_out": patching.get_act_patch_attn_out,
        "mlp_out": patching.get_act_patch_mlp_out,
        "z": partial(
            patching.generic_activation_patch, patch_setter=patching.layer_pos_patch_setter, activation_name="z"
        ),
    }
    with torch.no_grad():
        torch.testing.assert_close(
            model(task.corrupted),
            task.module(task.corrupted).logits,
            atol=1e-4,
            rtol=1e-4,
            msg="TransformerLens: logits",
        )
        _, cache = model.run_with_cache(task.clean)

    @torch.no_grad()
    def map_of(layers: Sequence[int], columns: Sequence[int]) -> Tensor:
        cells = pd.DataFrame([(layer, column) for layer in layers for column in columns], columns=["layer", "pos"])
        found = functions[task.site](
            model, task.corrupted, cache, lambda logits: task.metric(logits[:, -1]),
            index_axis_names=None, index_df=cells, reduce="none",
        )  # fmt: skip
        return found.values.view(len(layers), len(columns), task.pairs)

    return map_of


PEERS = {"nnsight": nnsight, "pyvene": pyvene, "TransformerLens": transformer_lens}
# What runs the whole model for every cell, or for every layer with all its cells, costs the same wherever the cells are: it is timed
# on a sample of the map, and its seconds are those times the map's share of it.
EVERY_LAYER, EVERY_POSITION = list(range(LAYERS)), list(range(POSITIONS))
SAMPLES = {
    "naive loop": (EVERY_LAYER, [7]),
    "pyvene": (EVERY_LAYER, [7]),
    "TransformerLens": (EVERY_LAYER, [7]),
    "batched hooks": ([1, 6, 11], EVERY_POSITION),
    "nnsight": ([1, 6, 11], EVERY_POSITION),
}


def contest(task: Task, peers: Sequence[str], number: int) -> str:
    """The table of one site, after every contestant's numbers were compared with ours, on the cells that it is timed on."""
    maps: dict[str, Map] = {
        "batched hooks": lambda layers, columns: task.hooks(layers, columns, POSITIONS),
        "layerwise": lambda layers, columns: task.ours(),
        "naive loop": lambda layers, columns: task.hooks(layers, columns, 1),
    }
    maps |= {name: made for name in peers if (made := PEERS[name](task)) is not None}
    want = task.ours()
    contestants, shares = {}, {}
    for name, made in maps.items():
        layers, columns = SAMPLES.get(name, (EVERY_LAYER, EVERY_POSITION))
        contestants[name] = partial(made, layers, columns)
        shares[name] = LAYERS * POSITIONS / (len(layers) * len(columns))
        torch.testing.assert_close(
            contestants[name](), want[layers][:, columns], atol=2e-4, rtol=1e-3,
            msg=lambda text, name=name: f"{name}: {text}",
        )  # fmt: skip
        print(f"{task.site}: {name} gives the same numbers", file=sys.stderr)
    found = {
        name: Timing(*([second * shares[name] for second in seconds] for seconds in (timing.wall, timing.processor)))
        for name, timing in rounds(contestants, number, warm=False).items()
    }
    return ratios(found, "batched hooks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--sites", nargs="+", default=list(MODULES), choices=list(MODULES))
    parser.add_argument(
        "--peers", nargs="*", default=list(PEERS), choices=list(PEERS), help="those installed take part"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)
    for site in arguments.sites:
        table = contest(Task(site, arguments.pairs), arguments.peers, arguments.rounds)
        print(f"\n## {site}: {LAYERS} layers × {POSITIONS} positions, {arguments.pairs} pairs\n{table}", flush=True)


if __name__ == "__main__":
    main()
