"""What erasure shows: how well a concept can still be read, layer by layer, and what erasing each site alone does and costs."""

from __future__ import annotations

import pandas as pd

from layerwise.reports.charts import Chart, LineChart, Series

CONTROLS = ("nothing erased", "random")


def erasure_charts(
    decodable: pd.DataFrame, arms: pd.DataFrame, chance: float, metric: str, title: str
) -> dict[str, Chart]:
    """By file name.

    decodable: a row for each arm and layer, with ``method``, ``site`` ('' for all together), ``layer``, ``accuracy``. arms: a row for each
    arm, with ``method``, ``site``, ``layer`` of the site, ``effect`` and ``perplexity``.
    """
    together = decodable[decodable["site"] == ""]
    charts: dict[str, Chart] = {
        "decodable": LineChart(f"{title}: what a probe still finds", "layer", "accuracy, held out", _lines(together, "accuracy"), {"chance": chance})
    }  # fmt: skip
    apart = arms[arms["site"] != ""]
    if len(apart):
        change = f"change of {metric}"
        own = decodable[(decodable["site"] != "") & (decodable["layer"] == decodable["layer"].max())]
        last = own.assign(layer=own["site"].map(apart.drop_duplicates("site").set_index("site")["layer"]))
        charts = {
            "decodable_at_the_end": LineChart(
                f"{title}, one site at a time: what a probe finds behind the last block", "erased at layer", "accuracy, held out",
                _lines(last, "accuracy"), {"chance": chance},
            ),
            "effect_by_site": LineChart(f"{title}, one site at a time", "erased at layer", change, _lines(apart, "effect"), {"as it is": 0.0}),
            "perplexity_by_site": LineChart(
                f"{title}, one site at a time", "erased at layer", "perplexity of neutral text", _lines(apart, "perplexity")
            ),
        }  # fmt: skip
    return charts


def _lines(rows: pd.DataFrame, value: str) -> list[Series]:
    return [
        Series(str(method), part["layer"].tolist(), part[value].tolist(), muted=method in CONTROLS)
        for method, part in rows.sort_values("layer").groupby("method", sort=False)
    ]
