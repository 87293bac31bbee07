"""Steered generation beside plain ``generate``: what a plan costs while a model writes.

    python benchmarks/generation.py --model smollm2 --rounds 9

One thread, greedy, with a key-value cache, the same prompts and the same number of new tokens for all. First it is checked that a
plan that adds nothing writes what the plain model writes, and that steering writes what plain hooks by hand write. What acting at a
site costs is also measured by itself, in a block that computes nothing: whole generations differ by more from round to round.
"""

from __future__ import annotations

import argparse
import timeit
from typing import Any

import torch
from rounds import ratios, rounds

from layerwise.interventions.intervened import Intervened
from layerwise.interventions.plan import Plan
from layerwise.models.batch import make_batch
from layerwise.models.loading import load_model

PROMPTS = (
    "The city of Paris is in",
    "I think that the best way to learn is",
    "Once upon a time there was a small dog who",
    "The movie was very",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=9)
    flags = parser.parse_args()
    torch.set_num_threads(1)

    model = load_model(flags.model)
    module = model.module
    batch = make_batch(model, model.tokenize(list(PROMPTS)), range(len(PROMPTS)), "left")
    inputs = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
    settings: dict[str, Any] = {"max_new_tokens": flags.tokens, "min_new_tokens": flags.tokens, "do_sample": False}
    vector = torch.randn(model.sites.width, generator=torch.Generator().manual_seed(0))
    middle, layers = model.sites.n_layers // 2, model.sites.n_layers

    def steered(sites: str, strength: float) -> Intervened:
        operation = {"kind": "add", "vector": "given", "strength": strength}
        step = {"operation": operation, "sites": sites, "when": "every", "name": "push"}
        return Intervened(model, Plan.of({"steps": [step]}), given={"push": vector})

    one, every, nothing = (
        steered(f"resid_post.{middle}", 4.0),
        steered("resid_post.*", 0.2),
        steered("resid_post.*", 0.0),
    )
    block = module.get_submodule(model.sites.stack_of("resid_post.0").block(middle))

    def by_hand() -> torch.Tensor:
        def hook(part: Any, args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            moved = hidden + 4.0 * vector
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        handle = block.register_forward_hook(hook)
        try:
            return module.generate(**inputs, **settings)
        finally:
            handle.remove()

    contestants = {
        "plain generate": lambda: module.generate(**inputs, **settings),
        "a hook by hand, one layer": by_hand,
        "a plan, one layer": lambda: one.generate(batch, **settings).output,
        f"a plan, all {layers} layers": lambda: every.generate(batch, **settings).output,
    }
    with torch.no_grad():
        plain = contestants["plain generate"]()
        if not torch.equal(nothing.generate(batch, **settings).output, plain):
            raise SystemExit("a plan that adds nothing writes something else.")
        if not torch.equal(one.generate(batch, **settings).output, by_hand()):
            raise SystemExit("a plan and a hook by hand write different texts.")
        if torch.equal(by_hand(), plain):
            raise SystemExit("steering changes nothing: a stronger direction is needed.")
        timings = rounds(contestants, flags.rounds)
        bare = seconds_at_a_site(block, batch.mask.shape[1], vector)
        with every.generating(batch):
            tapped = seconds_at_a_site(block, batch.mask.shape[1], vector)
    print(f"{model}\n{len(PROMPTS)} prompts, {flags.tokens} new tokens each")
    print(ratios(timings, "plain generate"))
    step = min(timings["plain generate"].wall) / flags.tokens
    print(
        f"one site and token: {(tapped - bare) * 1e6:.1f} µs; at {layers} layers {(tapped - bare) * layers / step:.2%} of a plain step's {step * 1e3:.0f} ms"
    )


def seconds_at_a_site(block: torch.nn.Module, length: int, like: torch.Tensor) -> float:
    """Seconds of one call of a block on one new token of each text, were there nothing for it to compute."""
    computes, block.forward = block.forward, lambda hidden, **rest: hidden  # type: ignore[method-assign]
    prompt, token = (like.expand(len(PROMPTS), columns, -1).contiguous() for columns in (length, 1))
    try:
        block(prompt)  # the prompt's forward comes first
        return min(timeit.repeat(lambda: block(token), number=200, repeat=50)) / 200
    finally:
        block.forward = computes  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
