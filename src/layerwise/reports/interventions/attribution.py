"""What attribution shows: estimates beside true patching, and which parts speak to which."""

from __future__ import annotations

import numpy as np
import pandas as pd

from layerwise.reports.comparison.charts import Scatter
from layerwise.reports.heat_map import HeatMap

SHOWN = 40  # parts of the largest edges in a map


def agreement_chart(sample: pd.DataFrame, model: str) -> Scatter:
    """Estimates over true changes, from the columns ``estimate`` and ``patched`` and those that name a row."""
    names = sample.drop(columns=["estimate", "patched"]).astype(str).agg(" ".join, axis=1)
    return Scatter(
        f"Attribution and true patching of {model}", "change by true patching", "estimated change",
        sample["patched"].to_numpy(), sample["estimate"].to_numpy(), names.tolist(),
        {"patched truly": np.ones(len(sample), dtype=bool)},
    )  # fmt: skip


def edge_map(edges: pd.DataFrame, model: str) -> HeatMap:
    """The senders and receivers of the largest edges, from ``sender``, ``receiver`` and ``score``; the rest is in the table."""
    size = edges["score"].abs()
    senders, receivers = (_largest(edges, size, name) for name in ("sender", "receiver"))
    values = edges.pivot(index="sender", columns="receiver", values="score").reindex(index=senders, columns=receivers)
    return HeatMap(
        f"Edges of {model}: from parts down the side straight to parts across", "receiver", "sender",
        receivers, senders, values.to_numpy(dtype=float), "estimated change", middle=0.0,
    )  # fmt: skip


def _largest(edges: pd.DataFrame, size: pd.Series, name: str) -> list[str]:
    """The parts with the largest edges, in the order of the model."""
    largest = size.groupby(edges[name]).max().sort_values(ascending=False).index[:SHOWN]
    return [part for part in dict.fromkeys(edges[name]) if part in set(largest)]
