"""What a causal check shows: the dose-response of a direction over the band of random ones, and where it stands among them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from layerwise.reports.charts import Chart, Histogram, LineChart, Series

NAMES = {"sphere": "random directions", "activations": "random, as activations spread"}
MIDDLE = (0.025, 0.5, 0.975)


def causal_check_charts(
    table: pd.DataFrame, bands: Mapping[float, tuple[float, float]], metric: str, title: str
) -> dict[str, Chart]:
    """By file name.

    table: a row for each direction and strength, with ``kind`` (own, or the control's name) and the mean ``effect``. bands: of the own
    direction's effect, low and high by strength.
    """
    added = table[table["strength"].notna()]
    change = f"change of {metric}"
    own = added[added["kind"] == "own"].sort_values("strength")
    strengths = [*own["strength"], 0.0]
    order = np.argsort(strengths)

    def line(values: list[float]) -> list[float]:
        return [([*values, 0.0])[place] for place in order]

    xs = [strengths[place] for place in order]
    lows, highs = ([bands[strength][side] for strength in own["strength"]] for side in (0, 1))
    lines = [Series("this direction", xs, line(own["effect"].tolist()), line(lows), line(highs))]
    for kind, rows in added[added["kind"] != "own"].groupby("kind", sort=False):
        shares = rows.groupby("strength")["effect"].quantile(np.array(MIDDLE)).unstack()
        low, middle, high = (line(shares[share].tolist()) for share in MIDDLE)
        lines.append(Series(NAMES[str(kind)], xs, middle, low, high, muted=True))
    removed = table[table["strength"].isna()]
    groups = {
        NAMES[str(kind)]: rows["effect"].to_numpy()
        for kind, rows in removed[removed["kind"] != "own"].groupby("kind", sort=False)
    }
    mark = {"this direction": float(removed.loc[removed["kind"] == "own", "effect"].iloc[0])}
    return {
        "dose_response": LineChart(f"{title}: added", "strength (1: from one class mean to the other)", change, lines, {"as it is": 0.0}),
        "projected_out": Histogram(f"{title}: projected out", f"{change}, random directions counted", groups, mark, bins=12),
    }  # fmt: skip


def class_chart(classes: pd.DataFrame, metric: str, title: str) -> LineChart:
    """The metric after texts of each class over strength: does a unit carry one class to where the other is?

    classes: a row for each class and strength, with ``class``, ``strength``, ``value``, ``low`` and ``high``.
    """
    series = []
    for name, rows in classes.groupby("class", sort=False):
        strength, value, low, high = (rows[column].tolist() for column in ("strength", "value", "low", "high"))
        series.append(Series(str(name), strength, value, low, high))
    return LineChart(f"{title}: by class", "strength (1: from one class mean to the other)", metric, series)
