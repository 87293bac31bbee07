"""Training steps of distributed alignment search beside pyvene's, and many rotations trained together beside one by one.

    python benchmarks/alignment.py --pyvene ENV/bin/python --rounds 3

GPT-2 small with random weights, 20 tokens, batches of 16, the exchange after block 6 of 12. Ours trains from sources, residuals, keys
and values kept before; what keeping them costs is timed beside it. pyvene runs every source and base whole, as it does. Both begin with the same
rotation, and their losses on all batches are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from rounds import Timing, ratios, rounds
from transformers import GPT2Config, GPT2LMHeadModel

from layerwise.interventions.alignment.align import Alignment
from layerwise.interventions.alignment.causal_model import CausalModel, Setting, Variable
from layerwise.interventions.alignment.config import Training
from layerwise.interventions.alignment.counterfactuals import Counterfactuals
from layerwise.interventions.alignment.grid import Means, Side
from layerwise.interventions.alignment.hypotheses import Hypothesis
from layerwise.interventions.alignment.stacked import Stack
from layerwise.interventions.alignment.training import frozen, train_stack
from layerwise.interventions.prompts import Prompts
from layerwise.models.batch import Ids, make_batch
from layerwise.models.model import LanguageModel

SEED, LAYER, TOKENS, BATCH, RATE = 0, 6, 20, 16, 1e-3
CANDIDATES = (1000, 2000)


@dataclass(frozen=True, eq=False)
class Numbers:
    """A task of random ids: enough to time training by."""

    name: str = "numbers"
    causal: CausalModel = field(default_factory=lambda: CausalModel([Variable("row", values=(0,))]))
    answers: tuple[int, ...] = (0, 1)
    held_out: None = None
    allowed: None = None
    learn: None = None

    def encode(self, model: Any, settings: Sequence[Setting]) -> Prompts:
        rows = [np.random.default_rng(setting["row"]).integers(0, 50257, TOKENS) for setting in settings]
        return Prompts(make_batch(model, Ids(rows), range(len(rows))))

    def candidates(self, model: Any) -> torch.Tensor:
        return torch.tensor(CANDIDATES)


def pairs_of(n: int) -> Counterfactuals:
    base, source = ([{"row": row + start} for row in range(n)] for start in (0, n))
    return Counterfactuals(("x",), "y", base, {"x": source}, [("x",)] * n, [row % 2 for row in range(n)])


class Pyvene:
    """The peer, told to train an epoch at a time."""

    def __init__(self, python: str, task: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [python, __file__.replace("alignment.py", "alignment_peer.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.times = Timing([], [])
        self.tell(json.dumps(task))

    def epoch(self) -> None:
        took = self.tell("go")
        self.times.wall.append(took["seconds"])
        self.times.processor.append(took["processor"])

    def tell(self, line: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        for answer in self.process.stdout:
            if answer.startswith(("{", '"')):  # all else is pyvene talking
                return json.loads(answer)
        raise SystemExit("pyvene ended.")


def against_pyvene(
    model: LanguageModel, method: Any, size: int, position: int, batches: int, python: str, number: int
) -> None:
    """One epoch of ours and of pyvene's, in turn."""
    pairs, task = pairs_of(batches * BATCH), Numbers()
    training = Training(epochs=1, batch_size=BATCH, learning_rate=RATE)
    alignment = Alignment(model, task, method, size, training)  # type: ignore[arg-type]  # its causal model is no matter here
    hypothesis = Hypothesis(("x",), ((f"resid_post.{LAYER}", str(position)),))
    means = Means(1024, 2**31)

    def kept() -> tuple[Stack, Side]:
        plans = alignment.plans([hypothesis], pairs, method, SEED)
        return Stack(plans), Side.of(model, task, pairs, plans, means)  # type: ignore[arg-type]

    stack, side = kept()
    basis = next(iter(stack.plans[0].operations.values())).basis.weight.detach()  # type: ignore[union-attr]
    ids = {
        name: task.encode(model, settings).batch.inputs["input_ids"].view(batches, BATCH, TOKENS).tolist()
        for name, settings in (("base", pairs.base), ("source", pairs.sources["x"]))
    }
    peer = Pyvene(
        python,
        {
            "seed": SEED, "layer": LAYER, "position": position, "rank": size if method == "low_rank" else None, "size": size, "rate": RATE,
            "basis": basis.tolist(), "right": side.right.view(batches, BATCH).tolist(), "candidates": CANDIDATES, **ids,
        },
    )  # fmt: skip
    cells = side.cells(stack)
    with torch.no_grad():
        scores = side.bases.scores(stack, cells, torch.arange(len(pairs)), LAYER + 1)[0]
    own = torch.nn.functional.cross_entropy(scores, side.right, reduction="none").view(batches, BATCH).mean(1)
    theirs = torch.tensor(peer.tell("losses")["losses"])
    print(
        f"\n{method}, {size} numbers, token {position} of {TOKENS}: losses differ by at most {(own - theirs).abs().max():.1e}"
    )

    def ours() -> None:
        with frozen(model.module):
            train_stack(stack, side.bases, cells, side.right, LAYER + 1, training, SEED)

    found = rounds({"ours": ours, "pyvene": peer.epoch, "keeping, once a dataset": kept}, number)
    found["pyvene"] = Timing(peer.times.wall[1:], peer.times.processor[1:])  # without the round that does not count
    print(ratios(found, "ours"), flush=True)
    peer.process.kill()


def together(model: LanguageModel, count: int, number: int) -> None:
    """So many rotations of rank 1 at one place, together and one by one."""
    pairs, task = pairs_of(2 * BATCH), Numbers()
    training = Training(epochs=1, batch_size=BATCH, learning_rate=RATE)
    alignment = Alignment(model, task, "low_rank", 1, training)  # type: ignore[arg-type]
    hypothesis = Hypothesis(("x",), ((f"resid_post.{LAYER}", "last"),))
    plans = [alignment.plans([hypothesis], pairs, "low_rank", seed)[0] for seed in range(count)]
    side = Side.of(model, task, pairs, plans, Means(1024, 2**31))  # type: ignore[arg-type]

    def trained(stacks: list[Stack]) -> Callable[[], np.ndarray]:
        def train() -> np.ndarray:
            with frozen(model.module):
                losses = [
                    train_stack(stack, side.bases, side.cells(stack), side.right, LAYER + 1, training, SEED)
                    for stack in stacks
                ]
            return np.concatenate(losses, 1)

        return train

    ways = {"together": trained([Stack(plans)]), "one by one": trained([Stack([plan]) for plan in plans])}
    first = {name: way() for name, way in ways.items()}
    apart = np.abs(first["together"] - first["one by one"]).max()
    print(f"\n{count} rotations: losses differ by at most {apart:.1e}")
    print(ratios(rounds(ways, number), "together"), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pyvene", help="python of an environment with pyvene and torch; without it pyvene is left out"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--rotations", type=int, default=64)
    parser.add_argument("--positions", type=int, nargs="+", default=[19, 10])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    model = LanguageModel(GPT2LMHeadModel(GPT2Config()).eval(), None, "gpt2, random")
    if options.pyvene:
        for position in options.positions:
            against_pyvene(model, "low_rank", 1, position, options.batches, options.pyvene, options.rounds)
        against_pyvene(model, "rotation", 64, options.positions[0], options.batches, options.pyvene, 1)
    if options.rotations:
        together(model, options.rotations, options.rounds)


if __name__ == "__main__":
    main()
