"""Maps over sites, layers and positions: activation patching both ways, and causal tracing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.cell_plan import Cell
from layerwise.interventions.sweeps.asked import AskedPairs, Side
from layerwise.interventions.sweeps.axis import Place, fitting, places, subject_places
from layerwise.interventions.sweeps.config import Patching, Tracing
from layerwise.interventions.sweeps.controls import beside_random, strongest
from layerwise.interventions.sweeps.ledger import Ledgers
from layerwise.interventions.sweeps.sweep import OTHER, Chunk, Swept, sweep, writing
from layerwise.models.names import parse_site
from layerwise.models.taps import Write, run

BASES: dict[str, Side] = {"denoising": "corrupted", "noising": "clean"}  # whose run is changed
WINDOWED = ("attn_out", "mlp_out")


@dataclass(frozen=True, eq=False)
class Mapped:
    """One direction of a map.

    cells: a row for each, with ``site``, ``layer``, ``head`` (-1 for none), ``position``; its effects are those of ``swept``.
    controls: the strongest cells beside a change as large in a random direction.
    """

    direction: str
    cells: pd.DataFrame
    swept: Swept
    controls: pd.DataFrame
    asked: AskedPairs


@dataclass(frozen=True, eq=False)
class Grid:
    """The cells of a map before anything runs: ``table`` names them, a place of ``axis`` and ``sites`` each."""

    asked: AskedPairs
    axis: list[Place]
    table: pd.DataFrame

    def cells(self, base: Side, source: Side) -> list[Cell]:
        """The cells with the tokens of one direction."""
        made = []
        for number, sites in zip(self.table["place"], self.table["sites"], strict=True):
            place = self.axis[number]
            same = place.columns[base] == place.columns[source]
            made.append(Cell(sites, place.columns[base], None if same else place.columns[source]))
        return made


def patching_grid(asked: AskedPairs, settings: Patching) -> Grid:
    """Sites × layers × positions. Raises UserError for a site that the model lacks and for positions beyond the prompts."""
    named = site_rows(asked.model, settings.sites, lambda kind: settings.window)
    asked = fitting(asked, settings.positions)
    return _grid(asked, places(asked, settings.positions), named)


def tracing_grid(asked: AskedPairs, settings: Tracing) -> Grid:
    """Sites × layers × the places of causal tracing. Raises UserError for a part that the prompts do not have."""
    named = site_rows(asked.model, settings.sites, lambda kind: settings.window if kind in WINDOWED else 1)
    return _grid(asked, subject_places(asked, settings.part), named)


def _grid(asked: AskedPairs, axis: list[Place], named: list[dict[str, Any]]) -> Grid:
    rows = [{**row, "position": place.label, "place": number} for row in named for number, place in enumerate(axis)]
    return Grid(asked, axis, pd.DataFrame(rows))


def site_rows(model: Any, sites: Sequence[str], window: Callable[[str], int]) -> list[dict[str, Any]]:
    """Every site meant, with the sites of its neighbouring layers where several are written at once."""
    rows = []
    for text in model.sites.expand(sites):
        site = parse_site(text)
        if site.layer is None:
            raise UserError(
                f"{text} is of no layer, so it has no place in a map: name sites such as resid_pre.* or z.*.*."
            )
        beside = window(site.kind)
        low, n_layers = site.layer - beside // 2, model.sites.stack_of(text).n_layers
        layers = range(max(0, low), min(n_layers, low + beside))
        head = "" if site.head is None else f".{site.head}"
        rows.append({
            "site": site.name, "layer": site.layer, "head": -1 if site.head is None else site.head,
            "sites": tuple(f"{site.name}.{layer}{head}" for layer in layers),
        })  # fmt: skip
    return rows


def patch_map(
    grid: Grid,
    direction: str,
    metric: str,
    *,
    controls: int = 0,
    seed: int = 0,
    ledgers: Ledgers | None = None,
    token_budget: int | None = None,
    done: Callable[[int], None] = lambda runs: None,
) -> Mapped:
    """Every cell of the grid, one direction: ``denoising`` writes into the corrupted prompts, ``noising`` into the clean ones."""
    base = BASES[direction]
    cells = grid.cells(base, OTHER[base])
    ledger = (ledgers or Ledgers()).open(direction, len(cells), len(grid.asked))

    def values(chunk: Chunk, plan: Any) -> Mapping[str, Tensor]:
        return chunk.found

    swept = sweep(
        grid.asked, cells, metric, writing(values), base=base, ledger=ledger, token_budget=token_budget, done=done
    )
    chosen = strongest(swept.changes, controls)
    random = beside_random(grid.asked, cells, chosen, metric, values, base=base, seed=seed, token_budget=token_budget)
    return Mapped(direction, grid.table, swept, _controls(grid, chosen, swept, random), grid.asked)


def _controls(grid: Grid, chosen: np.ndarray, swept: Swept, random: np.ndarray) -> pd.DataFrame:
    return grid.table.iloc[chosen].drop(columns=["sites", "place"]).assign(change=swept.changes[chosen], random=random)


def trace(
    grid: Grid,
    settings: Tracing,
    metric: str,
    *,
    seed: int = 0,
    ledgers: Ledgers | None = None,
    token_budget: int | None = None,
    done: Callable[[int], None] = lambda runs: None,
) -> Mapped:
    """Causal tracing: the mean over draws of noise; the anchors are the noised and the clean run."""
    asked = grid.asked
    noise = _Noise(asked, settings, seed)
    cells = grid.cells("clean", "clean")
    drawn = []

    def values(chunk: Chunk, plan: Any) -> Mapping[str, Tensor]:
        return chunk.found

    ledgers = ledgers or Ledgers()
    for draw in range(settings.draws):
        ledger = ledgers.open(f"draw-{draw}", len(cells), len(asked))
        drawn.append(
            sweep(
                asked, cells, metric, writing(values), source="clean", writes=noise.writes(draw), ledger=ledger,
                token_budget=token_budget, done=done,
            )
        )  # fmt: skip
    swept = Swept(
        np.mean([one.values for one in drawn], axis=0), np.mean([one.base for one in drawn], axis=0), drawn[0].source, drawn[0].there
    )  # fmt: skip
    chosen = strongest(swept.changes, settings.controls)
    random = beside_random(
        asked,
        cells,
        chosen,
        metric,
        values,
        source="clean",
        writes=noise.writes(0),
        seed=seed,
        token_budget=token_budget,
    )
    return Mapped("tracing", grid.table, swept, _controls(grid, chosen, swept, random), asked)


class _Noise:
    """Noise on the embeddings of one part of each clean prompt, the same however prompts are batched."""

    def __init__(self, asked: AskedPairs, settings: Tracing, seed: int) -> None:
        self.asked, self.seed = asked, seed
        self.columns = asked.columns("clean", f"part:{settings.part}")
        self.scale = settings.noise * self._spread()

    def _spread(self) -> float:
        """Standard deviation of the numbers of the embeddings of the part's tokens, over all prompts."""
        kept = []
        for rows in self.asked.chunks():
            value = run(self.asked.model, self.asked.batch("clean", rows), {"embed": None})["embed"]
            kept += [value[place, list(self.columns[row])].flatten().float() for place, row in enumerate(rows)]
        return float(torch.cat(kept).std())

    def writes(self, draw: int) -> Callable[[np.ndarray], Mapping[str, Write]]:
        """The noise of one draw, for the prompts ``rows``."""

        def of_rows(rows: np.ndarray) -> Mapping[str, Write]:
            def write(value: Tensor) -> Tensor:
                new = value.clone()
                for place, row in enumerate(rows):
                    columns = list(self.columns[row])
                    drawn = np.random.default_rng([self.seed, draw, int(row)])
                    noise = torch.from_numpy(drawn.standard_normal((len(columns), value.shape[-1])))
                    new[place, columns] += self.scale * noise.to(value)
                return new

            return {"embed": write}

        return of_rows
