"""The charts of a probe run, from its tables and scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_curve

from layerwise.reports.charts import Chart, Histogram, LineChart, Series
from layerwise.reports.heat_map import HeatMap

if TYPE_CHECKING:
    from layerwise.probes.investigation import Findings

CONTROLS = {"shuffled": "shuffled labels", "random_twin": "random-weight twin", "control_task": "control task"}


def charts(found: Findings, title: str) -> dict[str, Chart]:
    """Every chart that what was found allows, by file name."""
    levels = common_levels({name.replace("_", " "): value for name, value in found.baselines.items()})
    drawn: dict[str, Chart] = {}
    if found.table["layer"].notna().sum() > 1:
        drawn["layer_curve"] = layer_curve(found.table, found.metric, levels, title)
    by_pooler = layer_pooler_map(found.table, found.metric, title)
    if by_pooler is not None:
        drawn["site_pooler"] = by_pooler
    judged, names = found.held_out, found.problem.label_names
    if found.problem.task == "regression":
        drawn["predictions"] = regression_chart(found.y_test, judged.predicted)
    elif judged.confusion is not None:
        drawn["confusion"] = confusion(judged.confusion, names)
    if judged.probabilities is not None and len(names) == 2 and len(np.unique(found.y_test)) == 2:
        drawn |= binary_charts(found.y_test, judged.probabilities[:, 1], names, _cut(found))
    if found.learning is not None:
        drawn["learning_curve"] = learning_curve(found.learning.to_frame(), found.metric)
    return drawn


def _cut(found: Findings) -> float:
    """The second class's probability above which the probe predicts it: 0.5, or what calibration makes of the decision value 0."""
    platt = found.calibration
    return 0.5 if platt is None else float(platt.probabilities(np.zeros((1, 1)))[0, 1])


def common_levels(levels: dict[str, float], apart: float = 0.01) -> dict[str, float]:
    """Levels by name, those less than ``apart`` from each other under one name, so that their labels can be read."""
    merged: dict[str, float] = {}
    for name, value in sorted(levels.items(), key=lambda item: item[1]):
        near = next((known for known, level in merged.items() if abs(level - value) < apart), None)
        if near is not None:
            merged[f"{near}, {name}"] = merged.pop(near)
        elif not np.isnan(value):
            merged[name] = value
    return merged


def layer_curve(
    table: pd.DataFrame, metric: str, levels: dict[str, float], title: str, judged: str = "cross-validated"
) -> LineChart:
    """Score by layer, a line for each kind of site and pooler, its controls in grey; ``judged`` says how it was scored.

    ``table`` has the columns name, layer, pooler, score, low and high (NaN where there is no interval) and any of ``CONTROLS``;
    rows without a layer are left out.
    """
    known = table.dropna(subset=["layer"]).sort_values("layer")
    several = known.groupby(["name", "pooler"]).ngroups > 1
    series: list[Series] = []
    for (name, pooler), rows in known.groupby(["name", "pooler"], sort=False):
        layers = rows["layer"].astype(int).tolist()
        bounded = bool(rows[["low", "high"]].notna().all(axis=None))
        series.append(
            Series(
                f"{name}, {pooler}",
                layers,
                rows["score"].tolist(),
                rows["low"].tolist() if bounded else None,
                rows["high"].tolist() if bounded else None,
                text=rows["site"].tolist(),
            )
        )
        if not several:
            for column, label in CONTROLS.items():
                if column in rows and rows[column].notna().any():
                    series.append(Series(label, layers, rows[column].tolist(), muted=True))
    return LineChart(title, "layer", f"{judged} {metric}", series, levels)


def layer_pooler_map(table: pd.DataFrame, metric: str, title: str) -> HeatMap | None:
    """Score of every site against every pooler; None where there is only one pooler."""
    matrix = table.pivot_table(index="site", columns="pooler", values="score", sort=False)
    if matrix.shape[1] < 2:
        return None
    return HeatMap(
        title,
        "pooler",
        "site",
        [str(c) for c in matrix.columns],
        [str(i) for i in matrix.index],
        matrix.to_numpy(),
        metric,
    )


def confusion(matrix: np.ndarray, label_names: tuple[str, ...]) -> HeatMap:
    """Counts of true (rows) against predicted (columns) classes on the test set."""
    return HeatMap(
        "Confusion on the test set",
        "predicted",
        "true",
        label_names,
        label_names,
        np.asarray(matrix, dtype=int),
        "items",
    )


def binary_charts(
    y: np.ndarray, probability: np.ndarray, label_names: tuple[str, ...], threshold: float
) -> dict[str, Chart]:
    """ROC, reliability and score histogram of a two-class probe on the test set; ``probability`` is of the second class.

    ``threshold``: the probability above which the probe predicts that class.
    """
    false_rate, true_rate, _ = roc_curve(y, probability)
    observed, claimed = calibration_curve(y, probability, n_bins=min(10, max(2, len(y) // 10)), strategy="quantile")
    diagonal = Series("chance", [0, 1], [0, 1], muted=True)
    ideal = Series("perfectly calibrated", [0, 1], [0, 1], muted=True)
    groups = {label_names[k]: probability[y == k] for k in (0, 1)}
    return {
        "roc": LineChart(
            "ROC on the test set",
            "false positive rate",
            "true positive rate",
            [Series("probe", false_rate, true_rate), diagonal],
        ),
        "calibration": LineChart(
            "Calibration on the test set",
            "claimed probability",
            "observed share",
            [Series("probe", claimed, observed), ideal],
        ),
        "scores": Histogram(
            f"Probability of “{label_names[1]}” on the test set", "probability", groups, {"threshold": threshold}
        ),
    }


def regression_chart(y: np.ndarray, prediction: np.ndarray) -> LineChart:
    """Predicted against true targets, averaged in ten equally filled bins, with the spread of the predictions as a band."""
    bins = pd.Series(pd.qcut(y, 10, labels=False, duplicates="drop"))
    grouped = pd.DataFrame({"y": y, "prediction": prediction}).groupby(bins)
    mean, spread = grouped.mean(), grouped["prediction"].std().fillna(0.0)
    level = mean["prediction"]
    line = Series("probe", mean["y"].tolist(), level.tolist(), (level - spread).tolist(), (level + spread).tolist())
    ends = [float(np.min(y)), float(np.max(y))]
    return LineChart(
        "Prediction against target on the test set",
        "target",
        "prediction",
        [line, Series("perfect", ends, ends, muted=True)],
    )


def learning_curve(table: pd.DataFrame, metric: str) -> LineChart:
    """Score against the number of training items; ``table`` has the columns size, mean, low, high."""
    size, mean, low, high = (table[column].tolist() for column in ("size", "mean", "low", "high"))
    line = Series("probe", size, mean, low, high)
    return LineChart("Learning curve", "training items", metric, [line], x_scale="log")


def transfer_maps(table: pd.DataFrame, metric: str, layer: int | None) -> dict[str, HeatMap]:
    """Train-on by test-on scores and cosines of the directions at one layer; columns train, test, layer, score, cosine."""
    rows = table[table["layer"] == layer] if layer is not None else table
    where = f" at layer {layer}" if layer is not None else ""
    maps = {}
    for column, title, span in (
        ("score", f"Transfer{where}", None),
        ("cosine", f"Cosine of the directions{where}", (-1.0, 1.0)),
    ):
        matrix = rows.pivot_table(index="train", columns="test", values=column, sort=False)
        if matrix.size:
            names = [str(name) for name in matrix.index], [str(name) for name in matrix.columns]
            maps[f"transfer_{column}"] = HeatMap(
                title,
                "tested on",
                "trained on",
                names[1],
                names[0],
                matrix.to_numpy(),
                metric if column == "score" else "cosine",
                span,
            )
    return maps
