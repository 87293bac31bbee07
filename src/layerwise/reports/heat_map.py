"""A matrix as a chart: described once, drawn twice, as all of ``reports.charts``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure as Picture

from layerwise.reports.charts import INK, canvas, styled

MANY_COLUMNS = 16


@dataclass(frozen=True)
class HeatMap:
    """A matrix of values (rows, columns) with named rows and columns, the value printed in each cell while they fit.

    ``middle``: where two colours meet, for values of either sign; by default one colour grows from the lowest to the highest.
    """

    title: str
    x_label: str
    y_label: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: np.ndarray
    value_label: str
    range: tuple[float, float] | None = None
    middle: float | None = None

    def _limits(self) -> tuple[float, float]:
        """The values of the strongest colours; as far from the middle on either side, where there is one."""
        values = np.asarray(self.values, dtype=float)
        there = values[np.isfinite(values)]
        low, high = self.range or ((float(there.min()), float(there.max())) if len(there) else (0.0, 1.0))
        if self.middle is None:
            return low, high
        reach = max(high - self.middle, self.middle - low) or 1.0
        return self.middle - reach, self.middle + reach

    def _cell_text(self) -> list[list[str]]:
        counts = np.issubdtype(np.asarray(self.values).dtype, np.integer)
        return [
            ["" if np.isnan(value) else f"{value:d}" if counts else self._short(value) for value in row]
            for row in self.values
        ]

    def _short(self, value: float) -> str:
        """Two digits after the point; without the zero before it where many columns share the width."""
        text = f"{value:.2f}".replace("-0.00", "0.00")
        return text.replace("0.", ".", 1) if len(self.columns) > MANY_COLUMNS and abs(value) < 1 else text

    def _narrow(self) -> bool:
        """Whether the columns' names, such as layers, stand side by side without turning."""
        return max(map(len, self.columns), default=0) <= 3

    def plotly(self) -> go.Figure:
        low, high = self._limits()
        figure = go.Figure(
            go.Heatmap(
                z=np.asarray(self.values).tolist(),
                x=list(self.columns),
                y=list(self.rows),
                zmin=low,
                zmax=high,
                colorscale="Blues" if self.middle is None else "RdBu_r",
                colorbar={"title": {"text": self.value_label}},
                text=self._cell_text(),
                texttemplate="%{text}" if np.size(self.values) <= 400 else None,
                hovertemplate=f"{self.x_label} %{{x}}<br>{self.y_label} %{{y}}<br>{self.value_label} %{{z}}<extra></extra>",
            )
        )
        figure.update_xaxes(title=self.x_label, type="category")
        figure.update_yaxes(title=self.y_label, type="category", autorange="reversed")
        return styled(figure, self.title)

    def picture(self) -> Picture:
        picture, axes = canvas(self.title)
        many = len(self.columns) > MANY_COLUMNS
        tall = (
            1.2 + 0.5 * max(len(self.rows), 4) if len(self.rows) <= MANY_COLUMNS else min(3 + 0.22 * len(self.rows), 16)
        )
        if many or len(self.rows) > MANY_COLUMNS:
            picture.set_size_inches(min(0.36 * len(self.columns) + 2, 16) if many else 8, tall)
        values = np.asarray(self.values, dtype=float)
        low, high = self._limits()
        image = axes.imshow(
            values, cmap="Blues" if self.middle is None else "RdBu_r", vmin=low, vmax=high, aspect="auto"
        )
        axes.grid(False)
        axes.set_xticks(
            range(len(self.columns)),
            self.columns,
            rotation=0 if len(self.columns) <= 8 or self._narrow() else 60,
            fontsize=8,
        )
        axes.set_yticks(range(len(self.rows)), self.rows, fontsize=8)
        axes.set_xlabel(self.x_label)
        axes.set_ylabel(self.y_label)
        if values.size <= 400:
            # White is read on the strong end of one colour, and on both ends of two.
            strong = (values - low) / ((high - low) or 1.0)
            on_dark = strong > 0.5 if self.middle is None else np.abs(strong - 0.5) > 0.3
            for row, cells in enumerate(self._cell_text()):
                for column, text in enumerate(cells):
                    axes.text(
                        column,
                        row,
                        text,
                        ha="center",
                        va="center",
                        fontsize=7,
                        color="white" if on_dark[row, column] else INK,
                    )
        picture.colorbar(image, ax=axes, label=self.value_label)
        return picture
