"""Attribution patching: every cell of a map estimated from one gradient, and how far a sample is from true patching.

Nanda, "Attribution Patching" (2023): the change of the metric is the change of the activation times the gradient there. With more than
one step the gradient is the mean over points between the two prompts' embeddings (integrated gradients, Hanna et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerwise.interventions.cell_plan import CellPlan
from layerwise.interventions.metrics import METRICS, Measure
from layerwise.interventions.sweeps.asked import AskedPairs
from layerwise.interventions.sweeps.config import Attribution
from layerwise.interventions.sweeps.controls import beside_random, strongest
from layerwise.interventions.sweeps.gradients import Leaves, between, run_with_gradients
from layerwise.interventions.sweeps.maps import Grid
from layerwise.interventions.sweeps.sweep import Chunk, measures_of, sweep, writing
from layerwise.models.readout import Readout
from layerwise.models.rest import keep_pass
from layerwise.models.taps import run


@dataclass(frozen=True, eq=False)
class Agreement:
    """A sample of estimates beside true patching: ``table`` has the columns ``estimate``, ``patched``, and ``random``, what a change as
    large does there in a random direction.

    error: mean absolute difference, as a share of the mean absolute patched change. correlation: Pearson's r.
    """

    table: pd.DataFrame

    @property
    def error(self) -> float:
        estimate, patched = self.table["estimate"], self.table["patched"]
        return float((estimate - patched).abs().mean() / max(float(patched.abs().mean()), 1e-12))

    @property
    def correlation(self) -> float:
        return float(self.table["estimate"].corr(self.table["patched"]))


@dataclass(frozen=True, eq=False)
class Attributed:
    """estimates: (cells,) of the change of the mean metric when the corrupted prompt's value is put into the clean run.

    clean, corrupted: (texts,) the anchors. agreement: of a sample with true patching; None where none was asked for.
    """

    estimates: np.ndarray
    clean: np.ndarray
    corrupted: np.ndarray
    agreement: Agreement | None


def check_differentiable(metric: str) -> None:
    """UserError for a metric that only counts: its gradient is zero or there is none."""
    from layerwise.errors import UserError

    if metric in ("rank", "accuracy", "preference"):
        smooth = [name for name in METRICS if name not in ("rank", "accuracy", "preference")]
        raise UserError(f"{metric} has no gradient, which attribution goes by.\nTake one of: {', '.join(smooth)}.")


def sample_of(estimates: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Numbers of the cells to check: half the strongest, half drawn from the others."""
    first = strongest(estimates, count // 2)
    rest = np.setdiff1d(np.arange(len(estimates)), first)
    drawn = np.random.default_rng(seed).permutation(rest)[: count - len(first)]
    return np.concatenate([first, np.sort(drawn)])


def begin_chunk(
    asked: AskedPairs, rows: np.ndarray, sites: list[str], metric: str, readout: Readout
) -> tuple[Chunk, Measure, Measure]:
    """The clean prompts' pass and both prompts' values at the sites, with the metric of each."""
    wanted = dict.fromkeys([*sites, "resid_pre.0", readout.site])
    clean, corrupted = asked.batch("clean", rows), asked.batch("corrupted", rows)
    chunk = Chunk(rows, keep_pass(asked.model, clean, wanted), clean, corrupted, run(asked.model, corrupted, wanted))
    return chunk, *measures_of(asked, metric, chunk, False, readout)


def attribute(
    grid: Grid,
    settings: Attribution,
    metric: str,
    *,
    seed: int = 0,
    token_budget: int | None = None,
    done: Callable[[int], None] = lambda texts: None,
) -> Attributed:
    """Estimates for every cell of a grid whose pairs have prompts of equal length. Raises UserError for a metric without gradient."""
    check_differentiable(metric)
    asked, readout = grid.asked, Readout.of(grid.asked.model)
    cells = grid.cells("clean", "corrupted")
    total = np.zeros(len(cells))
    anchors = np.empty((2, len(asked)))
    for rows in asked.chunks(token_budget):
        plan = CellPlan(
            asked.model,
            cells,
            asked.batch("clean", np.arange(len(asked))),
            asked.batch("corrupted", np.arange(len(asked))),
        )
        chunk, measure, goal = begin_chunk(asked, rows, plan.sites, metric, readout)
        gradients = _mean_gradients(asked, chunk, measure, readout, plan.sites, settings.steps)
        by_site = {
            site: _by_token((chunk.found[site] - chunk.pass_.read[site]) * gradients[site]) for site in plan.sites
        }
        for number, cell in enumerate(cells):
            for site in cell.sites:
                values, head = by_site[plan.whole(site)], plan.parsed[plan.named[site]].head
                for place, row in enumerate(rows):
                    own = values[place, list(cell.columns[row])]
                    total[number] += float(own.sum() if head is None else own[:, head].sum())
        anchors[0, rows] = _anchor(measure, readout, chunk.pass_.read[readout.site])
        anchors[1, rows] = _anchor(goal, readout, chunk.found[readout.site])
        done(len(rows))
    estimates = total / len(asked)
    return Attributed(
        estimates, anchors[0], anchors[1], _agreement(grid, estimates, settings, metric, seed, token_budget)
    )


def _anchor(measure: Measure, readout: Readout, states: Tensor) -> np.ndarray:
    from layerwise.interventions.patching import whole_run

    return np.asarray(whole_run(measure, readout, states).double().cpu().numpy())


def _by_token(product: Tensor) -> Tensor:
    """(texts, tokens) or (texts, tokens, heads), summed over what a token or head has."""
    return product.sum(-1).double().cpu()


def _mean_gradients(
    asked: AskedPairs, chunk: Chunk, measure: Measure, readout: Readout, sites: list[str], steps: int
) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}

    def add(leaves: Leaves, value: Tensor) -> None:
        found = torch.autograd.grad(value, [leaves.added[site] for site in sites], allow_unused=True)
        for site, gradient in zip(sites, found, strict=True):
            if gradient is not None:
                sums[site] = sums.get(site, 0) + gradient
            else:
                sums.setdefault(site, torch.zeros_like(leaves.added[site]))

    for at in between(steps):
        run_with_gradients(asked, chunk, measure, readout, sites, at, add)
    return {site: value.detach() / steps for site, value in sums.items()}


def _agreement(
    grid: Grid, estimates: np.ndarray, settings: Attribution, metric: str, seed: int, token_budget: int | None
) -> Agreement | None:
    if not settings.sample:
        return None
    chosen = sample_of(estimates, settings.sample, seed)
    cells = grid.cells("clean", "corrupted")
    swept = sweep(
        grid.asked,
        [cells[number] for number in chosen],
        metric,
        writing(lambda chunk, plan: chunk.found),
        token_budget=token_budget,
    )
    # The estimate is a mean over all texts, those without the place among them.
    patched = (swept.values - swept.base).mean(1)
    random = beside_random(
        grid.asked, cells, chosen, metric, lambda chunk, plan: chunk.found, seed=seed, token_budget=token_budget
    )
    table = grid.table.iloc[chosen].drop(columns=["sites", "place"])
    table = table.assign(estimate=estimates[chosen], patched=patched, random=random * swept.there.mean(1))
    return Agreement(table.reset_index(drop=True))
