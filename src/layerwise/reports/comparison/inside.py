"""Charts of what lies inside two models: layer beside layer, head by head, module by module, and the parts of a logit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from layerwise.reports.charts import Chart, LineChart, Series
from layerwise.reports.heat_map import HeatMap

if TYPE_CHECKING:
    from layerwise.comparison.inside.attribution import Attribution

MEASURES = {
    "cka": "linear CKA",
    "kernel_cka": "kernel CKA",
    "svcca": "SVCCA",
    "procrustes": "Procrustes similarity",
    "rsa": "RSA",
    "mutual_knn": "mutual nearest neighbours",
}


def similarity_map(
    values: np.ndarray, sites_a: Sequence[str], sites_b: Sequence[str], pair: tuple[str, str], measure: str
) -> HeatMap:
    """Every layer of a (up and down) beside every layer of b (across); 1 where they are the same but for what the measure ignores."""
    name = MEASURES.get(measure, measure)
    low = min(0.0, float(np.nanmin(values)))
    return HeatMap(
        f"Layers of {pair[0]} and {pair[1]}: {name}", f"layer of {pair[1]}", f"layer of {pair[0]}", _layers(sites_b), _layers(sites_a),
        values, name, (low, 1.0),
    )  # fmt: skip


def head_map(table: pd.DataFrame, pair: tuple[str, str], measure: str = "js") -> HeatMap:
    """How differently each head attends in the two models: layers up and down, heads across."""
    grid = table.pivot(index="layer", columns="head", values=measure)
    label = {"js": "Jensen-Shannon divergence, nats", "total_variation": "total variation"}.get(measure, measure)
    return HeatMap(
        f"Attention of {pair[0]} and {pair[1]}, head by head", "head", "layer", list(map(str, grid.columns)), list(map(str, grid.index)),
        grid.to_numpy(dtype=float), label,
    )  # fmt: skip


def weight_map(table: pd.DataFrame, pair: tuple[str, str]) -> HeatMap:
    """How far each module's weights moved, as a share of their norm: layers up and down, modules across."""
    inside = table.dropna(subset=["layer"])
    names = [
        str(module).partition(f".{layer}.")[2] or str(module)
        for module, layer in zip(inside["module"], inside["layer"], strict=True)
    ]
    order = list(dict.fromkeys(names))
    grid = inside.assign(name=names).pivot(index="layer", columns="name", values="relative")[order]
    return HeatMap(
        f"Weights of {pair[1]} less those of {pair[0]}", "module", "layer", order, list(map(str, grid.index)), grid.to_numpy(dtype=float),
        "norm of the difference over that of the weights",
    )  # fmt: skip


def layer_lines(table: pd.DataFrame, pair: tuple[str, str]) -> LineChart:
    """Cosine of the residuals and relative norm of their difference, by layer."""
    layers = table["layer"].astype(int).tolist()
    series = [
        Series("cosine", layers, table["cosine"].tolist()),
        Series("‖b − a‖ / ‖a‖", layers, table["relative_norm"].tolist()),
    ]
    return LineChart(f"Residuals of {pair[0]} (a) and {pair[1]} (b) on the same tokens", "layer", "", series)


def lens_lines(table: pd.DataFrame, pair: tuple[str, str], lens: str) -> LineChart:
    """How often both models expect the same token if read out at a layer, and how often each expects there what it does in the end."""
    layers = table["layer_a"].astype(int).tolist()
    series = [
        Series("both the same token", layers, table["top1_agreement"].tolist()),
        Series("share of the likeliest five that both name", layers, table["top_k_agreement"].tolist()),
        Series(f"{pair[0]} as in its end", layers, table["top1_at_end_a"].tolist(), muted=True),
        Series(f"{pair[1]} as in its end", layers, table["top1_at_end_b"].tolist(), muted=True),
    ]
    return LineChart(
        f"What {pair[0]} and {pair[1]} would say at each layer ({lens})",
        "layer",
        "share of tokens",
        series,
        y_range=(0, 1.02),
    )


def attribution_chart(found: Attribution, label: str) -> dict[str, Chart]:
    """What every layer's attention and MLP, and every head, adds to a logit."""
    against = f" − {found.against!r}" if found.against is not None else ""
    title = f"{label}: logit of {found.target!r}{against} after “{found.prompt[-40:]}”"
    by_layer = found.by_layer()
    layers = by_layer["layer"].astype(int).tolist()
    lines = LineChart(
        title, "layer", "added to the logit",
        [Series(name, layers, by_layer[name].tolist()) for name in ("attention", "mlp")], levels={"nothing": 0.0},
    )  # fmt: skip
    charts: dict[str, Chart] = {"attribution": lines}
    heads = found.table[found.table["kind"] == "head"]
    if len(heads):
        grid = heads.astype({"layer": int, "head": int}).pivot(index="layer", columns="head", values="value")
        charts["attribution_heads"] = HeatMap(
            title, "head", "layer", list(map(str, grid.columns)), list(map(str, grid.index)), grid.to_numpy(dtype=float), "added to the logit",
            middle=0.0,
        )  # fmt: skip
    return charts


def _layers(sites: Sequence[str]) -> list[str]:
    """The layers' numbers where one kind of site is shown, else whole names."""
    parts = [site.rpartition(".") for site in sites]
    alike = len({name for name, _, _ in parts}) == 1 and all(number.isdigit() for _, _, number in parts)
    return [number for _, _, number in parts] if alike else list(sites)
