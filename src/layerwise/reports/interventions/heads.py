"""A number for each head of a model as a map."""

from __future__ import annotations

import pandas as pd

from layerwise.reports.heat_map import HeatMap


def head_map(heads: pd.DataFrame, title: str) -> HeatMap:
    """heads: a row for each, with ``layer``, ``head`` and ``accuracy``."""
    values = heads.pivot(index="head", columns="layer", values="accuracy")
    return HeatMap(
        title, "layer", "head", [str(layer) for layer in values.columns], [str(head) for head in values.index], values.to_numpy(), "accuracy",
    )  # fmt: skip
