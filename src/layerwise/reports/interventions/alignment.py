"""What an alignment shows: where exchanging works, how it was learned, how much of the basis is exchanged, which tokens it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from layerwise.reports.charts import Chart, LineChart, Series
from layerwise.reports.heat_map import HeatMap

BESIDE = {"control": "random basis", "whole": "all of it", "before": "before training"}
ACCURACY = "interchange intervention accuracy"
SMOOTHED = 20  # points of a loss curve


def alignment_charts(table: pd.DataFrame, losses: Mapping[str, np.ndarray], task: str, model: str) -> dict[str, Chart]:
    """By file name: maps of layer and position, curves over layers beside their controls, the training.

    table: a row for each hypothesis with ``variables``, ``place``, ``site``, ``layer`` (-1: none), ``positions``, ``accuracy``, ``low``,
    ``high``, ``control``, ``whole``, ``before``. losses: (steps,) of some of them, by name.
    """
    charts: dict[str, Chart] = {}
    rest = [table[table["layer"] < 0]]
    layered = table[table["layer"] >= 0].assign(kind=lambda rows: rows["site"].astype(str).str.split(".").str[0])
    for (variables, kind), rows in layered.groupby(["variables", "kind"], sort=False):
        name = _file(f"{variables}_{kind}")
        title = f"{variables} of {task} in {model}, {kind}"
        if rows["layer"].nunique() > 1 and rows["positions"].nunique() > 1:
            charts[f"alignment_map_{name}"] = _map(rows, title)
        if rows["layer"].nunique() > 1:
            charts[f"alignment_curve_{name}"] = _curve(rows, title)
        else:
            rest.append(rows)
    if any(map(len, rest)):
        charts["alignment_places"] = _places(pd.concat(rest), f"{task} in {model}")
    if losses:
        series = [Series(name, *_smoothed(values)) for name, values in losses.items()]
        charts["alignment_training"] = LineChart(f"Training on {task}", "step", "loss", series)
    return charts


def basis_charts(place: str, tokens: Mapping[str, pd.DataFrame], shares: Sequence[np.ndarray]) -> dict[str, Chart]:
    """Of one hypothesis: how much of each number of the basis is exchanged, and which tokens the directions of each variable lie in.

    tokens: by place, a row for each token of a text and a column for each variable, shares that sum to 1 down a column. shares: (width,) by place, of boundaries and masks.
    """
    charts: dict[str, Chart] = {}
    if shares:
        series = [
            Series(f"place {number}" if len(shares) > 1 else place, list(range(len(share))), share.tolist())
            for number, share in enumerate(shares)
        ]
        charts["basis_shares"] = LineChart(
            f"How much is exchanged: {place}", "number of the basis", "share exchanged", series, y_range=(-0.02, 1.02)
        )
    for site, values in tokens.items():
        charts[f"basis_tokens_{_file(site)}"] = HeatMap(
            f"Which tokens the basis reads at {site}", "variable", "token, of one of the texts", list(map(str, values.columns)),
            list(map(str, values.index)), values.to_numpy(), "share of its directions", range=(0.0, 1.0),
        )  # fmt: skip
    return charts


def _map(rows: pd.DataFrame, title: str) -> HeatMap:
    order = list(dict.fromkeys(rows["positions"]))
    values = rows.pivot(index="layer", columns="positions", values="accuracy")[order]
    return HeatMap(
        title, "position", "layer", order, [str(layer) for layer in values.index], values.to_numpy(dtype=float), ACCURACY, range=(0.0, 1.0)
    )  # fmt: skip


def _places(rows: pd.DataFrame, title: str) -> HeatMap:
    """Places that no layers set in order, and what stands beside each."""
    columns = [column for column in ("accuracy", *BESIDE) if rows[column].notna().any()]
    names = ["as aligned", *(BESIDE[column] for column in columns[1:])]
    places = [f"{row.variables} at {row.place}" for row in rows.itertuples()]
    return HeatMap(
        title,
        "what is exchanged",
        "place",
        names,
        places,
        rows[columns].to_numpy(dtype=float),
        ACCURACY,
        range=(0.0, 1.0),
    )


def _curve(rows: pd.DataFrame, title: str) -> LineChart:
    series = []
    for positions, part in rows.groupby("positions", sort=False):
        layers = part["layer"].tolist()
        series.append(
            Series(str(positions), layers, part["accuracy"].tolist(), part["low"].tolist(), part["high"].tolist())
        )
        for column, words in BESIDE.items():
            if part[column].notna().all():
                series.append(Series(f"{positions}, {words}", layers, part[column].tolist(), muted=True))
    return LineChart(title, "layer", ACCURACY, series, y_range=(-0.02, 1.02))


def _smoothed(values: np.ndarray) -> tuple[list[float], list[float]]:
    parts = np.array_split(np.arange(len(values)), min(SMOOTHED, len(values)))
    return [float(part.mean()) for part in parts], [float(values[part].mean()) for part in parts]


def _file(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name)
