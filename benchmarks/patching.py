"""A layer × position patching map beside the ways it is commonly made: ``python benchmarks/patching.py --rounds 5``.

Twelve layers, twenty positions, one pair of prompts (``--pairs`` for more), GPT-2 small's shape with random weights, one thread.
``batched hooks`` writes all positions of a layer in one forward of copies of the prompt, the whole model for each; ``naive`` runs one
cell at a time. Peers that are installed take part as their users run them. All numbers are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rounds import ratios, rounds
from threadpoolctl import threadpool_limits
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from layerwise.interventions.patching import Cell, patch
from layerwise.models.batch import Batch, Ids, make_batch
from layerwise.models.model import LanguageModel

LAYERS, POSITIONS = 12, 20
RIGHT, WRONG = 464, 257
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

    def _clean_values(self) -> list[Tensor]:
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
    def hooks(self, together: int) -> Tensor:
        """Plain hooks, ``together`` positions of a layer in one forward."""
        values, found = self._clean_values(), torch.empty(LAYERS, POSITIONS, self.pairs)
        for layer in range(LAYERS):
            module, entering = self._port(layer)
            for begin in range(0, POSITIONS, together):
                columns = list(range(begin, min(begin + together, POSITIONS)))

                def put(value: Tensor, columns: list[int] = columns, layer: int = layer) -> Tensor:
                    value = value.clone()
                    for copy_number, column in enumerate(columns):
                        rows = slice(copy_number * self.pairs, (copy_number + 1) * self.pairs)
                        value[rows, column] = values[layer][:, column]
                    return value

                if entering:
                    hook = module.register_forward_pre_hook(lambda m, args: (put(args[0]), *args[1:]))
                else:
                    hook = module.register_forward_hook(
                        lambda m, args, out: put(out) if isinstance(out, Tensor) else (put(out[0]), *out[1:])
                    )
                logits = self.module(self.corrupted.repeat(len(columns), 1), use_cache=False).logits[:, -1]
                hook.remove()
                found[layer, columns] = self.metric(logits).view(len(columns), self.pairs)
        return found


def _first(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out[0]


def nnsight(task: Task) -> Callable[[], Tensor] | None:
    """nnsight, a trace for each layer with all positions as one batch (its best), on the same module."""
    if importlib.util.find_spec("nnsight") is None:
        return None
    from nnsight import NNsight

    model = NNsight(copy.deepcopy(task.module))
    positions = torch.arange(POSITIONS)

    def map_of() -> Tensor:
        found = torch.empty(LAYERS, POSITIONS, task.pairs)
        values = task._clean_values()
        with torch.no_grad():
            for layer in range(LAYERS):
                inner = model.transformer.h[layer]
                with model.trace(task.corrupted.repeat(POSITIONS, 1), use_cache=False):
                    whole = _peer_value(inner, task.site).clone()
                    shaped = whole.view(POSITIONS, task.pairs, POSITIONS, -1)
                    shaped[positions, :, positions] = values[layer].transpose(0, 1)
                    if task.site == "resid_pre":
                        inner.input = shaped.view_as(whole)
                    elif task.site == "z":
                        inner.attn.c_proj.input = shaped.view_as(whole)
                    elif task.site == "attn_out":
                        inner.attn.output = (shaped.view_as(whole), *inner.attn.output[1:])
                    else:
                        inner.mlp.output = shaped.view_as(whole)
                    logits = model.lm_head.output[:, -1].save()
                found[layer] = task.metric(logits).view(POSITIONS, task.pairs)
        return found

    return map_of


def _peer_value(inner: Any, site: str) -> Any:
    if site == "resid_pre":
        return inner.input
    if site == "z":
        return inner.attn.c_proj.input
    return inner.attn.output[0] if site == "attn_out" else inner.mlp.output


def pyvene(task: Task) -> Callable[[], Tensor] | None:
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
    component = components[task.site]
    module = copy.deepcopy(task.module)
    module.config._attn_implementation = "eager"

    def map_of() -> Tensor:
        found = torch.empty(LAYERS, POSITIONS, task.pairs)
        for layer in range(LAYERS):
            config = pv.IntervenableConfig(
                [{"layer": layer, "component": component, "intervention_type": pv.VanillaIntervention}]
            )
            intervenable = pv.IntervenableModel(config, module)
            for column in range(POSITIONS):
                _, out = intervenable(
                    {"input_ids": task.corrupted}, [{"input_ids": task.clean}], {"sources->base": column}
                )
                found[layer, column] = task.metric(out.logits[:, -1]).detach()
        return found

    return map_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--sites", nargs="+", default=list(MODULES), choices=list(MODULES))
    parser.add_argument("--no_peers", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)
    for site in arguments.sites:
        task = Task(site, arguments.pairs)
        contestants: dict[str, Callable[[], Tensor]] = {
            "batched hooks": lambda task=task: task.hooks(POSITIONS),
            "layerwise": task.ours,
            "naive loop": lambda task=task: task.hooks(1),
        }
        peers = {} if arguments.no_peers else {"nnsight": nnsight(task), "pyvene": pyvene(task)}
        contestants |= {name: made for name, made in peers.items() if made is not None}
        want = task.hooks(1)
        for name, contestant in contestants.items():
            torch.testing.assert_close(
                contestant(), want, atol=2e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
            )
        found = rounds(contestants, arguments.rounds)
        print(
            f"\n## {site}: {LAYERS} layers × {POSITIONS} positions, {arguments.pairs} pairs\n{ratios(found, 'batched hooks')}",
            flush=True,
        )


if __name__ == "__main__":
    main()
