"""Collecting every layer, mean-pooled, beside a bare forward of the model body on the same batches, and beside peers.

    python benchmarks/collect.py --model smollm2 --texts 100 --rounds 7

One thread. The bare forward has its texts tokenized and batched beforehand; ``collect`` is timed whole, from texts to
matrices. Peers that are not installed are left out (benchmarks/requirements.txt names them), and each peer runs twice:
at its best, on the same batches and without the language-model head, and as its users run it, on the whole model, in
input order, 32 texts a batch. That all of them give the same numbers is checked first.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rounds import ratios, rounds

from layerwise.activations.collect import collect
from layerwise.data.batching import token_budget_batches
from layerwise.data.load import load_dataset
from layerwise.models.batch import Batch, make_batch
from layerwise.models.loading import load_model
from layerwise.models.model import LanguageModel

Contestant = Callable[[], np.ndarray]  # → (texts, layers, width)
INPUT_ORDER = 32


def texts(number: int) -> list[str]:
    """One to eight statements each: about 10 to 80 tokens."""
    draw = random.Random(0)
    statements = list(load_dataset("cities").texts)
    return [" ".join(draw.sample(statements, draw.randint(1, 8))) for _ in range(number)]


def model_named(name: str) -> LanguageModel:
    """``gpt2-small`` is GPT-2 small's shape with random weights (and SmolLM2's tokenizer); others are loaded."""
    loaded = load_model("smollm2" if name == "gpt2-small" else name)
    if name != "gpt2-small":
        return loaded
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return LanguageModel(GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).eval(), loaded.tokenizer, name)


class Task:
    """One model, some texts, and the batches that everyone gets."""

    def __init__(self, model: LanguageModel, lines: list[str], token_budget: int) -> None:
        self.model, self.texts, self.token_budget = model, lines, token_budget
        self.tokens = model.tokenize(lines)
        self.layers = model.sites.n_layers
        lengths = self.tokens.lengths
        self.sorted = self._batches(token_budget_batches(lengths, token_budget))
        order = np.arange(len(lines))
        self.unsorted = self._batches([order[at : at + INPUT_ORDER] for at in range(0, len(order), INPUT_ORDER)])

    def _batches(self, rows: list[np.ndarray]) -> list[tuple[np.ndarray, Batch]]:
        return [(part, make_batch(self.model, self.tokens, part)) for part in rows]

    @property
    def blocks(self) -> list[torch.nn.Module]:
        body: Any = self.model.body
        return list(body.h if hasattr(body, "h") else body.layers)

    def empty(self) -> np.ndarray:
        return np.empty((len(self.texts), self.layers, self.model.sites.width), dtype=np.float32)

    def bare(self) -> None:
        """The reference: the body, nothing read."""
        with torch.no_grad():
            for _, batch in self.sorted:
                self.model.body(**batch.inputs, use_cache=False)

    def collected(self, sites: str = "resid_post.*") -> np.ndarray:
        found = collect(self.model, self.texts, sites, "mean", token_budget=self.token_budget, progress=False)
        return np.stack([found.matrix(site) for site in found.sites], axis=1)

    def hidden_states(self) -> np.ndarray:
        """transformers' own ``output_hidden_states``, pooled afterwards; its last layer is behind the final norm."""
        out = self.empty()
        with torch.no_grad():
            for rows, batch in self.sorted:
                states = self.model.body(**batch.inputs, use_cache=False, output_hidden_states=True).hidden_states
                for layer in range(self.layers):
                    out[rows, layer] = pooled(states[layer + 1], batch.mask)
        return out

    def nnsight(self, best: bool) -> Contestant:
        import nnsight

        module = copy.deepcopy(self.model.module)  # peers change the model they wrap
        wrapped = nnsight.NNsight(module.base_model if best else module)
        name = "h" if hasattr(module.base_model, "h") else "layers"
        root = wrapped if best else getattr(wrapped, module.base_model_prefix)

        def contestant() -> np.ndarray:
            out = self.empty()
            for rows, batch in self.sorted if best else self.unsorted:
                weights = shares(batch.mask)
                with torch.no_grad(), wrapped.trace(**batch.inputs, use_cache=False):
                    means = nnsight.save([])
                    for block in getattr(root, name):
                        hidden = block.output if isinstance(block.output, torch.Tensor) else block.output[0]
                        means.append(torch.bmm(weights, hidden))
                for layer, mean in enumerate(means):
                    out[rows, layer] = mean[:, 0].numpy()
            return out

        return contestant

    def pyvene(self, best: bool) -> Contestant:
        import pyvene

        width = self.model.sites.width
        parts = [
            {
                "layer": layer,
                "component": "block_output",
                "intervention": pyvene.CollectIntervention(embed_dim=width, keep_last_dim=True),
            }
            for layer in range(self.layers)
        ]
        module = copy.deepcopy(self.model.module)  # peers change the model they wrap
        wrapped = pyvene.IntervenableModel(pyvene.IntervenableConfig(parts), module.base_model if best else module)
        wrapped.disable_model_gradients()

        def contestant() -> np.ndarray:
            out = self.empty()
            for rows, batch in self.sorted if best else self.unsorted:
                with torch.no_grad():
                    (_, found), _ = wrapped({**batch.inputs, "use_cache": False}, unit_locations=None)
                for layer, hidden in enumerate(found):
                    out[rows, layer] = pooled(hidden, batch.mask)
            return out

        return contestant

    def checked(self, name: str, contestant: Contestant, expected: np.ndarray, but: int = 0) -> Contestant:
        """The contestant, once its numbers are seen to be right; ``but`` layers at the end are not compared."""
        mine, theirs = contestant()[:, : self.layers - but], expected[:, : self.layers - but]
        # A few dimensions are thousands of times larger than the others, so what is allowed goes by each one's own size.
        allowed = 1e-4 * np.abs(theirs) + 1e-3 * np.median(np.abs(theirs), axis=(0, 2), keepdims=True)
        worst = float((np.abs(mine - theirs) / allowed).max())
        print(f"{name}: largest difference {worst:.3f} of what is allowed")
        if worst > 1:
            raise SystemExit(f"{name} does not give the same numbers.")
        return contestant


def shares(mask: torch.Tensor) -> torch.Tensor:
    """(batch, 1, tokens)"""
    return (mask / mask.sum(1, keepdim=True))[:, None, :].float()


def pooled(hidden: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    return torch.bmm(shares(mask), hidden)[:, 0].numpy()


def reference(task: Task) -> np.ndarray:
    """Every block's output of each text read alone, by a plain hook on the block."""
    out = task.empty()
    row = 0

    def hook(layer: int) -> Callable[..., None]:
        def keep(_module: Any, _arguments: Any, output: Any) -> None:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            out[row, layer] = hidden[0].mean(0).numpy()

        return keep

    handles = [block.register_forward_hook(hook(layer)) for layer, block in enumerate(task.blocks)]
    with torch.no_grad():
        for ids in task.tokens.ids:
            task.model.body(input_ids=torch.from_numpy(ids)[None])
            row += 1
    for handle in handles:
        handle.remove()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="gpt2-small for its shape with random weights")
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--token_budget", type=int, default=1024)
    parser.add_argument("--no_peers", action="store_true")
    flags = parser.parse_args()
    torch.set_num_threads(1)

    task = Task(model_named(flags.model), texts(flags.texts), flags.token_budget)
    lengths = task.tokens.lengths
    middle = task.layers // 2 - 1
    print(f"{task.model}\n{len(lengths)} texts, {lengths.sum()} tokens of {lengths.min()} to {lengths.max()} each")
    expected = reference(task)
    half = task.collected(f"resid_post.{middle}")
    np.testing.assert_allclose(
        half[:, 0], expected[:, middle], rtol=1e-4, atol=1e-3 * np.median(np.abs(expected[:, middle]))
    )
    contestants: dict[str, Callable[[], object]] = {
        "bare forward of the body": task.bare,
        "layerwise, every layer": task.checked("layerwise", task.collected, expected),
        f"layerwise, layer {middle} of 0–{task.layers - 1}": lambda: task.collected(f"resid_post.{middle}"),
        "output_hidden_states, pooled after": task.checked("transformers", task.hidden_states, expected, but=1),
    }
    for peer in ("nnsight", "pyvene"):
        if flags.no_peers or importlib.util.find_spec(peer) is None:
            print(f"{peer}: left out")
            continue
        for best, how in ((True, "same batches, no head"), (False, f"whole model, input order, {INPUT_ORDER} a batch")):
            name = f"{peer}, {how}"
            contestants[name] = task.checked(name, getattr(task, peer)(best), expected)
    print(ratios(rounds(contestants, flags.rounds), "bare forward of the body"))


if __name__ == "__main__":
    main()
