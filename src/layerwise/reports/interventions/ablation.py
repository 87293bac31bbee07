"""What a change of one part at a time shows: a map of heads, curves of layers and MLPs."""

from __future__ import annotations

import pandas as pd

from layerwise.reports.charts import Chart, LineChart, Series
from layerwise.reports.heat_map import HeatMap


def part_charts(table: pd.DataFrame, words: str, title: str, name: str) -> dict[str, Chart]:
    """By file name, from a row for each part with ``part``, ``layer``, ``head`` (-1 for none) and ``change``."""
    charts: dict[str, Chart] = {}
    change = f"change of {words.split(',')[0]}"
    heads = table[table["head"] >= 0]
    if len(heads):
        values = heads.pivot(index="layer", columns="head", values="change")
        charts[f"{name}_heads"] = HeatMap(
            f"{title}: heads", "head", "layer",
            [str(head) for head in values.columns], [str(layer) for layer in values.index], values.to_numpy(), change, middle=0.0,
        )  # fmt: skip
    rest = table[table["head"] < 0]
    if len(rest):
        lines = [
            Series(str(part), rows["layer"].tolist(), rows["change"].tolist())
            for part, rows in rest.groupby("part", sort=False)
        ]
        charts[f"{name}_layers"] = LineChart(title, "layer", change, lines, {"nothing changed": 0.0})
    return charts
