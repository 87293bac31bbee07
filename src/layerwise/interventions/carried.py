"""A plan carried out on pairs of prompts, by any metric: before, under the plan, and under a control that should do nothing in particular."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from layerwise.interventions.intervened import Intervened
from layerwise.interventions.metrics import Questions, make_measure
from layerwise.interventions.prompts import Prompts
from layerwise.interventions.steering.doses import random_directions
from layerwise.interventions.sweeps.asked import AskedPairs, Side

VECTORS = ("vector", "basis")  # buffers of operations that act along directions


def carry_out(
    intervened: Intervened,
    asked: AskedPairs,
    metric: str,
    *,
    base: Side = "clean",
    seed: int = 0,
    token_budget: int | None = None,
    done: Callable[[int], None] = lambda texts: None,
) -> dict[str, np.ndarray]:
    """(n,) of the metric for each pair: ``base`` and ``source`` as they are, ``plan``, and ``control`` where there is one.

    Every source the plan reads is the pair's other prompt. The control is the same plan along random directions as long as its own; without
    directions, with another pair's prompt of the same length as source, if every pair has one. Operations that must know the data see the
    base prompts first.
    """
    other: Side = "corrupted" if base == "clean" else "clean"
    chunks = asked.chunks(token_budget)
    if any(unit.operation.fits for unit in intervened.units):
        intervened.fit([_prompts(asked, base, rows) for rows in chunks])
    directed = any(
        isinstance(getattr(unit.operation, name, None), Tensor) for unit in intervened.units for name in VECTORS
    )
    sources = intervened.plan.order()
    donors = _donors(asked, other) if sources and not directed else None
    found: dict[str, np.ndarray] = {}
    for rows in chunks:
        own, source = _prompts(asked, base, rows), _prompts(asked, other, rows)
        plain = {"base": _logits(intervened, own), "source": _logits(intervened, source)}
        clean = plain["base" if base == "clean" else "source"]

        def value(logits: Tensor, prompts: Prompts, rows: np.ndarray = rows, clean: Tensor = clean) -> np.ndarray:
            def clean_logits(texts: Tensor, columns: Tensor) -> Tensor:
                return clean[texts, columns.clamp(max=clean.shape[1] - 1)]

            questions = Questions(
                prompts.batch, asked.tokens("answers", rows), asked.tokens("others", rows), clean_logits
            )
            measure = make_measure(metric, questions)
            texts, columns = measure.at.nonzero(as_tuple=True)
            numbers = measure.per_token(logits[texts, columns], texts, columns).float()
            return measure.of(numbers.new_zeros(len(rows)).index_add(0, texts, numbers)).cpu().numpy()

        results = {
            "base": value(plain["base"], own),
            "source": value(plain["source"], source),
            "plan": value(_logits(intervened, own, dict.fromkeys(sources, source)), own),
        }
        if directed:
            with _along_random(intervened, seed):
                results["control"] = value(_logits(intervened, own, dict.fromkeys(sources, source)), own)
        elif donors is not None:
            strangers = _prompts(asked, other, donors[rows])
            results["control"] = value(_logits(intervened, own, dict.fromkeys(sources, strangers)), own)
        for name, values in results.items():
            found.setdefault(name, np.full(len(asked), np.nan))[rows] = values
        done(len(rows) * 4)
    return found


def _donors(asked: AskedPairs, side: Side) -> np.ndarray | None:
    """(n,) for each pair another one whose prompt has as many tokens, and its parts too; None where one has none."""
    parts = asked.pairs.parts if side == "clean" else asked.pairs.corrupted_parts
    names = sorted(set.intersection(*(set(row) for row in parts)))
    counts = [[len(row) for row in asked.columns(side, f"part:{name}")] for name in names]
    alike: dict[tuple[int, ...], list[int]] = {}
    for row, sizes in enumerate(zip(asked.lengths(side).tolist(), *counts, strict=True)):
        alike.setdefault(sizes, []).append(row)
    donors = np.zeros(len(asked), dtype=np.int64)
    for rows in alike.values():
        if len(rows) < 2:
            return None
        donors[rows] = np.roll(rows, 1)
    return donors


@torch.no_grad()
def _logits(intervened: Intervened, own: Prompts, sources: dict[str, Prompts] | None = None) -> Tensor:
    output = intervened.clean(own) if sources is None else intervened(own, sources).output
    return output.logits


def _prompts(asked: AskedPairs, side: Side, rows: np.ndarray) -> Prompts:
    offsets, parts = asked.offsets[side], asked.pairs.parts if side == "clean" else asked.pairs.corrupted_parts
    return Prompts(
        asked.batch(side, rows),
        None if offsets is None else tuple(offsets[row] for row in rows),
        tuple(parts[row] for row in rows),
    )


@contextmanager
def _along_random(intervened: Intervened, seed: int) -> Iterator[None]:
    """Random directions of the same length in place of the plan's own."""
    kept: list[tuple[torch.nn.Module, str, Tensor]] = []
    for number, operation in enumerate(intervened.operations.values()):
        for name in VECTORS:
            own = getattr(operation, name, None)
            if isinstance(own, Tensor):
                kept.append((operation, name, own))
                rows = own.reshape(-1, own.shape[-1])
                drawn = torch.cat(
                    [random_directions(row, 1, seed + 1000 * number + index) for index, row in enumerate(rows)]
                )
                drawn = torch.linalg.qr(drawn.T).Q.T if name == "basis" else drawn
                setattr(operation, name, drawn.reshape(own.shape))
    try:
        yield
    finally:
        for operation, name, own in kept:
            setattr(operation, name, own)
