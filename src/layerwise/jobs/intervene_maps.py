"""What maps of cells leave behind: tables, curves over layers, figures, lines for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from layerwise.interventions.sweeps.maps import Mapped
    from layerwise.tracking.run import Tracker

STRONGEST = 5
WAYS = {
    "denoising": "clean values put into the corrupted run",
    "noising": "corrupted values put into the clean run",
    "tracing": "clean values restored in the noised run",
}


def map_table(found: Mapped) -> pd.DataFrame:
    """A row for each cell: its place, the mean metric, how far that moved, and the share of the way between the anchors."""
    values = np.where(found.swept.there, found.swept.values, np.nan)
    empty = ~found.swept.there.any(1)
    mean = np.full(len(values), np.nan)
    mean[~empty] = np.nanmean(values[~empty], axis=1)
    return found.cells.drop(columns=["sites", "place"]).assign(
        value=mean, change=found.swept.changes, effect=found.swept.effects, texts=found.swept.there.sum(1)
    )


def record_map(found: Mapped, words: str, model: str, tracker: Tracker) -> None:
    """The table, a curve over layers for each site and position, and the maps."""
    from layerwise.reports.interventions.maps import map_charts

    table = map_table(found)
    tracker.table(table, found.direction)
    if len(found.controls):
        tracker.table(found.controls, f"{found.direction}_controls")
    for (site, position), rows in table[table["head"] < 0].groupby(["site", "position"], sort=False):
        name = "".join(letter if letter.isalnum() or letter in "_-." else "_" for letter in f"{site}_{position}")
        tracker.curve(f"{found.direction}/{name}", dict(zip(rows["layer"], rows["effect"], strict=True)))
    for name, chart in map_charts(table, found.direction, WAYS[found.direction], words, model).items():
        tracker.figure(chart, name)


def map_lines(found: Mapped) -> list[str]:
    """The strongest cells of each site, and their controls."""
    table = map_table(found)
    lines = [f"{found.direction}, {WAYS[found.direction]} (0 nothing moved, 1 all the way):"]
    for site, rows in table.groupby("site", sort=False):
        first = rows.reindex(rows["effect"].abs().sort_values(ascending=False).index).head(STRONGEST)
        lines.append(f"  {site}: " + ", ".join(f"{place(row)} {row.effect:.2f}" for row in first.itertuples()))
    if len(found.controls):
        sizes = [float(found.controls[name].abs().mean()) for name in ("change", "random")]
        lines.append(
            f"  control: the {len(found.controls)} strongest cells move the metric by {sizes[0]:.3f} on average, random changes as large "
            f"by {sizes[1]:.3f}"
        )
    return lines


def place(row: Any) -> str:
    """A cell of a map in words."""
    return f"layer {row.layer}{'' if row.head < 0 else f' head {row.head}'} at {row.position}"
