"""Metrics of several runs over one axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from layerwise.reports.charts import LineChart, Series

if TYPE_CHECKING:
    import pandas as pd

MOST_POINTS = 2_000  # of a line: more cannot be told apart on any screen


def metric_lines(histories: pd.DataFrame, x: str, y_scale: Literal["linear", "log"] = "linear") -> LineChart:
    """A line for each run and metric.

    histories: run (its label), metric, x and value, a row a point.
    """
    metrics = histories["metric"].drop_duplicates().tolist()
    runs = histories["run"].drop_duplicates().tolist()
    series = []
    for (run, metric), points in histories.groupby(["run", "metric"], sort=False):
        points = points.sort_values("x", kind="stable")
        kept = np.unique(np.linspace(0, len(points) - 1, min(len(points), MOST_POINTS)).round().astype(int))
        points = points.iloc[kept]
        parts = [str(run)] * (len(runs) > 1) + [str(metric)] * (len(metrics) > 1)
        series.append(Series(" · ".join(parts) or str(metric), points["x"].tolist(), points["value"].tolist()))
    title = ", ".join(metrics) + (f" of {len(runs)} runs" if len(runs) > 1 else f" of {runs[0]}")
    label = {"time": "seconds"}.get(x, x)
    return LineChart(title, label, metrics[0] if len(metrics) == 1 else "", series, y_scale=y_scale)
