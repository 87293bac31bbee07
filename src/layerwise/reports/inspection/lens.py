"""The logit lens as a map: layers from the bottom up, tokens across, in each cell what would be said there."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from matplotlib.figure import Figure as Picture

from layerwise.reports.charts import INK, LineChart, Series, canvas, styled
from layerwise.reports.inspection.attention import shown

if TYPE_CHECKING:
    from layerwise.training.inspection.lens import LensReading

_LONGEST = 12  # characters of a token in a cell


@dataclass(frozen=True)
class LensMap:
    """One reading, drawn."""

    reading: LensReading
    model: str

    @property
    def _title(self) -> str:
        return f"What {self.model} would say at each layer: “{self.reading.prompt[:60]}”"

    def _labels(self) -> list[str]:
        return [f"{place} {shown(token)}" for place, token in enumerate(self.reading.tokens)]

    def _cells(self) -> list[list[str]]:
        return [[shown(str(top[0]))[:_LONGEST] for top in row] for row in self.reading.top]

    def plotly(self) -> go.Figure:
        reading = self.reading
        hover = [
            [
                "<br>".join(
                    f"{escape(shown(str(name)))} {value:.3f}" for name, value in zip(names, values, strict=True)
                )
                for names, values in zip(row_names, row_values, strict=True)
            ]
            for row_names, row_values in zip(reading.top, reading.p, strict=True)
        ]
        figure = go.Figure(
            go.Heatmap(
                z=reading.p[:, :, 0], x=self._labels(), y=list(reading.sites), zmin=0, zmax=1, colorscale="Blues", customdata=hover,
                text=[[escape(cell) for cell in row] for row in self._cells()], texttemplate="%{text}", textfont={"size": 11},
                colorbar={"title": "probability"}, hovertemplate="%{y} after %{x}<br>%{customdata}<extra></extra>",
            )
        )  # fmt: skip
        figure.update_xaxes(title="token", type="category", tickangle=45)
        figure.update_yaxes(type="category")
        figure = styled(figure, self._title)
        figure.update_layout(height=max(420, 24 * len(reading.sites) + 180))
        return figure

    def picture(self) -> Picture:
        reading = self.reading
        picture, axes = canvas(self._title)
        picture.set_size_inches(
            max(6.0, min(0.85 * len(reading.tokens) + 2.2, 22)), max(3.0, 0.26 * len(reading.sites) + 1.4)
        )
        image = axes.imshow(reading.p[:, :, 0], cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
        axes.grid(False)
        axes.set_xticks(
            range(len(reading.tokens)), [shown(token) for token in reading.tokens], rotation=45, ha="right", fontsize=8
        )
        axes.set_yticks(range(len(reading.sites)), reading.sites, fontsize=7)
        for row, cells in enumerate(self._cells()):
            for column, text in enumerate(cells):
                colour = "white" if reading.p[row, column, 0] > 0.5 else INK
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
        picture.colorbar(image, ax=axes, label="probability of the likeliest token")
        return picture


def lens_curve(reading: LensReading, model: str) -> LineChart:
    """By layer, how far what would be said lies from what is said in the end, after the last token and over all of them."""
    layers = [float(site.rpartition(".")[2]) if site.rpartition(".")[2].isdigit() else float(place)
              for place, site in enumerate(reading.sites)]  # fmt: skip
    series = [
        Series("after the last token", layers, reading.kl_to_end[:, -1].tolist()),
        Series("mean over the tokens", layers, reading.kl_to_end.mean(1).tolist(), muted=True),
    ]
    return LineChart(f"{model}: KL(end ‖ layer) by the logit lens", "layer", "nats", series)
