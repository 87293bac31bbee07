"""The curves of one training: loss, accuracy and exact match by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from layerwise.reports.charts import LineChart, Series

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
