"""What steering shows: the behaviour over strength and site, what neutral text pays for it, and random directions beside it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from layerwise.reports.charts import Chart, LineChart, Series
from layerwise.reports.heat_map import HeatMap

STRENGTH = "strength"


def steering_charts(
    table: pd.DataFrame, best: str, metric: str, title: str, clean_perplexity: float
) -> dict[str, Chart]:
    """By file name.

    table: a row for each place, direction and strength, with ``place``, ``kind`` (own or random), ``strength``, ``effect``, ``low`` and
    ``high`` of an own one's effect, ``perplexity``. best: the place whose strengths are drawn as lines.
    """
    change = f"change of {metric}"
    mine, here = table["kind"] == "own", table["place"] == best
    own = table[mine]
    there, random = (_with_none(table[here & chosen], clean_perplexity) for chosen in (mine, ~mine))
    effects = [_own(there, "effect", "low", "high"), *_randoms(random, "effect")]
    costs = [_own(there, "perplexity"), *_randoms(random, "perplexity")]
    charts: dict[str, Chart] = {
        "strengths": LineChart(f"{title}: {best}", STRENGTH, change, effects, {"as it is": 0.0}),
        "perplexity": LineChart(
            f"{title}: {best}", STRENGTH, "perplexity of neutral text", costs, {"as it is": clean_perplexity}
        ),
    }
    if own["place"].nunique() > 1:
        for name, label, middle in (("effect", change, 0.0), ("perplexity", "perplexity of neutral text", None)):
            values = own.pivot(index=STRENGTH, columns="place", values=name)[list(dict.fromkeys(own["place"]))]
            charts[f"strength_by_site_{name}"] = HeatMap(
                f"{title}: {label}", "site", STRENGTH, _short(list(values.columns)), [f"{one:g}" for one in values.index],
                values.to_numpy(), label, middle=middle,
            )  # fmt: skip
    return charts


def _with_none(rows: pd.DataFrame, clean_perplexity: float) -> pd.DataFrame:
    """The rows in order of strength, with one of strength 0 for each direction: nothing moves."""
    none = rows.drop_duplicates("direction").assign(
        **{STRENGTH: 0.0, "effect": 0.0, "low": 0.0, "high": 0.0, "perplexity": clean_perplexity}
    )
    return pd.concat([rows, none]).sort_values(STRENGTH)


def _own(rows: pd.DataFrame, value: str, low: str | None = None, high: str | None = None) -> Series:
    bounds = [None if name is None else rows[name].tolist() for name in (low, high)]
    return Series("the direction", rows[STRENGTH].tolist(), rows[value].tolist(), bounds[0], bounds[1])


def _randoms(rows: pd.DataFrame, value: str) -> list[Series]:
    """The middle 95 % of random directions, where there are any."""
    if rows.empty:
        return []
    shares = rows.groupby(STRENGTH)[value].quantile(np.array([0.025, 0.5, 0.975])).unstack()
    low, middle, high = (shares[share].tolist() for share in (0.025, 0.5, 0.975))
    return [Series("random directions", shares.index.tolist(), middle, low, high, muted=True)]


def _short(places: list[str]) -> list[str]:
    """Layers alone, where all places are one kind of site."""
    names = {place.rpartition(".")[0] for place in places}
    return [place.rpartition(".")[2] for place in places] if len(names) == 1 else places
