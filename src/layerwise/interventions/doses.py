"""Doses: how a metric of the logits answers when more and more of a direction is added, beside random directions of the same length.

What a probe's direction does to behaviour is only worth something beside what any push of that size does: the model may be
moved by all of them (a large one breaks it) or by none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.patching import Metric, last_columns
from layerwise.measures.statistics import Interval, bootstrap, permutation_p
from layerwise.models.batch import Batch, budget_of
from layerwise.models.readout import Readout
from layerwise.models.rest import keep_pass, run_rest


@dataclass(frozen=True, eq=False)
class Doses:
    """The metric under every dose.

    strengths: (s,). values: (directions, s, texts). clean: (texts,), the metric without any.
    """

    strengths: np.ndarray
    values: np.ndarray
    clean: np.ndarray

    @property
    def effects(self) -> np.ndarray:
        """(directions, s, texts): how far the metric moved."""
        return self.values - self.clean

    def slopes(self) -> np.ndarray:
        """(directions, texts): metric per unit of strength, the least-squares line through the clean metric at strength 0."""
        s = self.strengths
        return np.einsum("s,dst->dt", s, self.effects) / float(s @ s)


@dataclass(frozen=True)
class CausalCheck:
    """Whether a direction moves a metric more than random ones do.

    slope: mean over texts, per unit of strength, with its interval over texts (or groups of texts).
    random: (r,) the random directions' mean slopes.
    p: the share of directions, its own among them, whose mean slope is at least as large in size.
    """

    slope: Interval
    random: np.ndarray
    p: float

    @property
    def times_random(self) -> float:
        """Its size over the root mean square of the random ones'."""
        return abs(self.slope.estimate) / float(np.sqrt(np.mean(self.random**2)))


def random_directions(like: Tensor, count: int, seed: int = 0) -> Tensor:
    """(count, width): directions drawn evenly from the sphere, as long as ``like`` (width,)."""
    drawn = torch.randn(count, len(like), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn / drawn.norm(dim=1, keepdim=True) * like.double().norm()).to(like)


def give_doses(
    model: Any,
    batch: Batch,
    site: str,
    directions: Tensor,
    strengths: Sequence[float],
    metric: Metric,
    *,
    where: Tensor | None = None,
    at: Tensor | None = None,
    token_budget: int | None = None,
    done: Callable[[int], None] = lambda doses: None,
) -> Doses:
    """Add ``strength · direction`` at a site of each text and measure, for all directions (d, width) and strengths.

    Args:
        where: (texts, tokens) True at the tokens that get it; by default every real one.
        at: (texts,) the columns whose logits the metric sees; by default the last real tokens.
        done: is told how many doses each forward has finished.

    Raises UserError for directions of another width than the site's, and strengths that are all zero.
    """
    if not strengths or not any(strengths):
        raise UserError("give at least one strength that is not zero.")
    width = model.sites.width_of(site)
    if directions.dim() != 2 or (width is not None and directions.shape[1] != width):
        raise UserError(
            f"{site} is {width} wide, and the directions are {tuple(directions.shape)}: give (directions, {width})."
        )
    budget = budget_of(batch.mask.device, token_budget)
    parsed, readout = model.sites.one(site), Readout.of(model)
    kept = keep_pass(model, batch, {readout.site: None}, prefix=model.sites.stack_of(str(parsed)).prefix)
    layer = model.sites.layer_of(str(parsed)) or 0
    where = batch.mask if where is None else where & batch.mask
    ends = last_columns(batch) if at is None else at
    n, texts = len(batch.mask), torch.arange(len(batch.mask), device=batch.mask.device)
    column = min(int(where.any(0).float().argmax()), int(ends.min()))
    begin = kept.first_column(column)
    with torch.no_grad():
        clean = metric(readout.logits(kept.read[readout.site][texts, ends]), texts)
    doses = torch.cat([strength * directions for strength in strengths]).to(
        clean.device
    )  # (strengths × directions, width)
    values = torch.empty(len(doses), n)
    for part in torch.arange(len(doses)).split(max(1, budget // (n * (kept.length - begin)))):
        added = doses[part].repeat_interleave(n, 0)[:, None] * where.repeat(len(part), 1)[:, :, None]

        def write(value: Tensor, added: Tensor = added) -> Tensor:
            return value + added[:, added.shape[1] - value.shape[1] :].to(value.dtype).view(
                len(value), value.shape[1], *value.shape[2:]
            )

        rows = texts.repeat(len(part))

        def at_ends(states: Tensor, rows: Tensor = rows) -> Tensor:
            return states[torch.arange(len(states), device=states.device), ends[rows] - begin]

        found = run_rest(model, kept, layer, column, len(part), {readout.site: at_ends}, {str(parsed): write})
        with torch.no_grad():
            values[part] = metric(readout.logits(found[readout.site]), rows).view(len(part), n).float().cpu()
        done(len(part))
    shaped = values.view(len(strengths), len(directions), n).transpose(0, 1)
    return Doses(np.asarray(strengths, dtype=np.float64), shaped.double().numpy(), clean.double().cpu().numpy())


def causal_check(doses: Doses, groups: np.ndarray | None = None, level: float = 0.95, seed: int = 0) -> CausalCheck:
    """The first direction's slope beside those of the others, which are random. ``groups``: (texts,) of texts that belong together.

    Raises UserError where there is no random direction.
    """
    slopes = doses.slopes()
    if len(slopes) < 2:
        raise UserError("a direction is checked against random ones: give at least one of them.")
    own, random = slopes[0], slopes[1:].mean(1)
    intervals = bootstrap(
        lambda weights: {"slope": weights @ own / weights.sum(-1)}, len(own), groups=groups, level=level, seed=seed
    )
    return CausalCheck(intervals["slope"], random, permutation_p(abs(float(own.mean())), np.abs(random)))
