"""Maps of patching and tracing: layers down, positions across; heads as layers by heads."""

from __future__ import annotations

import pandas as pd

from layerwise.reports.charts import Chart
from layerwise.reports.heat_map import HeatMap

MAPS_OF_HEADS = 8  # positions that get a map of heads each


def map_charts(table: pd.DataFrame, name: str, way: str, words: str, model: str, label: str = "") -> dict[str, Chart]:
    """By file name, from a row for each cell with ``site``, ``layer``, ``head``, ``position`` and ``effect``; ``label`` says of what."""
    charts: dict[str, Chart] = {}
    label = label or f"share of the way of {words.split(',')[0]}"
    for site, rows in table[table["head"] < 0].groupby("site", sort=False):
        charts[f"{name}_{_file(str(site))}"] = _map(rows, "position", f"{site} of {model}: {way}", label)
    for site, rows in table[table["head"] >= 0].groupby("site", sort=False):
        effect = rows.groupby("position", sort=False)["effect"]
        strongest = effect.agg(lambda values: values.abs().max()).sort_values(ascending=False)
        for position in strongest.index[:MAPS_OF_HEADS]:
            charts[f"{name}_{_file(str(site))}_{_file(str(position))}"] = _map(
                rows[rows["position"] == position], "head", f"{site} of {model} at {position}: {way}", label
            )
    return charts


def _map(rows: pd.DataFrame, across: str, title: str, label: str) -> HeatMap:
    order = list(dict.fromkeys(rows[across]))
    values = rows.pivot(index="layer", columns=across, values="effect")[order]
    return HeatMap(
        title, across, "layer", [str(column) for column in order], [str(layer) for layer in values.index], values.to_numpy(dtype=float),
        label, middle=0.0,
    )  # fmt: skip


def _file(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name)
