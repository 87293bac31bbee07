"""The curves of one training by step, and what changes to a training change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from layerwise.reports.charts import LineChart, Series
from layerwise.reports.comparison.charts import Bar, Bars

if TYPE_CHECKING:
    import pandas as pd

_NAMES = {"batch": "batch", "train": "training data", "val": "validation"}
_LABELS = {"loss": "loss (nats per token)", "accuracy": "share of tokens", "exact_match": "share of answers"}


def learning_curves(histories: Mapping[str, Sequence[tuple[int, float]]], title: str) -> dict[str, LineChart]:
    """A chart for each of loss, accuracy and exact match that was recorded, by its name.

    histories: metric (``val/loss``) → its (step, value) pairs. Metrics of single batches are drawn muted; those recorded once
    (test sets) are left out.
    """
    charts = {}
    for kind, label in _LABELS.items():
        series = []
        for metric, points in sorted(histories.items(), key=lambda item: (item[0].startswith("batch/"), item[0])):
            split, _, name = metric.partition("/")
            if name == kind and len(points) > 1:
                steps, values = zip(*sorted(points), strict=True)
                series.append(Series(_NAMES.get(split, split), steps, values, muted=split == "batch"))
        if series:
            charts[f"curve_{kind}"] = LineChart(f"{kind.replace('_', ' ')}: {title}", "step", label, series)
    return charts


def ablation_chart(table: pd.DataFrame, metric: str) -> Bars:
    """Each change's difference from the base with its interval, the largest in size first.

    table: columns ``change``, ``difference``, ``low``, ``high``, ``pairs``.
    """
    rows = table.reindex(table["difference"].abs().sort_values(ascending=False).index)
    bar = Bar("change less base", list(rows["difference"]), list(rows["low"]), list(rows["high"]))
    return Bars(f"{metric}: change less base", metric, list(rows["change"]), list(rows["pairs"]), [bar])
