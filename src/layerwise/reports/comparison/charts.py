"""Charts that comparisons need beside those of ``reports.charts``: bars by category, and two models' scores against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure as Picture

from layerwise.reports.charts import GREY, INK, PALETTE, canvas, styled
from layerwise.reports.text_table import cut

NAME_WIDTH = 34  # characters of a category's name
HOVER_WIDTH = 140


@dataclass(frozen=True)
class Bar:
    """One model's bars: a value per category, with its interval."""

    name: str
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Bars:
    """Horizontal bars with intervals, a group per category; the last category may be set apart, as OVERALL is."""

    title: str
    label: str
    categories: Sequence[str]
    counts: Sequence[int]
    bars: Sequence[Bar]
    range: tuple[float, float] | None = None

    def _names(self) -> list[str]:
        return [
            f"{cut(name, NAME_WIDTH)} (n={count})" for name, count in zip(self.categories, self.counts, strict=True)
        ]

    def plotly(self) -> go.Figure:
        figure = go.Figure()
        names = self._names()
        for index, bar in enumerate(self.bars):
            values, low, high = (np.asarray(part, dtype=float) for part in (bar.values, bar.low, bar.high))
            figure.add_trace(
                go.Bar(
                    x=values.tolist(), y=names, name=bar.name, orientation="h", marker_color=PALETTE[index % len(PALETTE)],
                    error_x={
                        "type": "data", "symmetric": False, "array": (high - values).tolist(), "arrayminus": (values - low).tolist(),
                        "color": INK, "thickness": 1.2, "width": 3,
                    },
                    customdata=np.stack([low, high], axis=1).tolist(),
                    hovertemplate="%{y}<br>%{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra>" + bar.name + "</extra>",
                )
            )  # fmt: skip
        figure.update_xaxes(title=self.label, range=self.range)
        figure.update_yaxes(type="category", autorange="reversed", automargin=True)
        height = 170 + len(names) * (14 + 16 * len(self.bars))
        figure.update_layout(barmode="group", height=max(360, height), bargap=0.25)
        figure = styled(figure, self.title)
        return figure.update_layout(
            legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 1, "xanchor": "right"}
        )

    def picture(self) -> Picture:
        picture, axes = canvas(self.title)
        picture.set_size_inches(8, max(3.0, 1.3 + len(self.categories) * (0.12 + 0.16 * len(self.bars))))
        places = np.arange(len(self.categories), dtype=float)
        thickness = 0.8 / max(1, len(self.bars))
        for index, bar in enumerate(self.bars):
            values, low, high = (np.asarray(part, dtype=float) for part in (bar.values, bar.low, bar.high))
            at = places + (index - (len(self.bars) - 1) / 2) * thickness
            axes.barh(at, values, thickness * 0.92, color=PALETTE[index % len(PALETTE)], label=bar.name)
            axes.hlines(at, low, high, color=INK, linewidth=1)
        axes.set_yticks(places, self._names(), fontsize=8)
        axes.invert_yaxis()
        axes.set_ylim(len(places) - 0.45, -0.55)
        axes.set_xlabel(self.label)
        if self.range is not None:
            axes.set_xlim(*self.range)
        if len(self.bars) > 1:
            axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(self.bars))
        return picture


@dataclass(frozen=True)
class Scatter:
    """One point per item: its score by one model across, by another up. ``groups`` are named sets of points in a colour each."""

    title: str
    x_label: str
    y_label: str
    x: np.ndarray
    y: np.ndarray
    texts: Sequence[str]
    groups: Mapping[str, np.ndarray]

    def _ends(self) -> tuple[float, float]:
        both = np.concatenate([self.x, self.y])
        both = both[np.isfinite(both)]
        low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)
        room = 0.04 * (high - low) or 0.5
        return low - room, high + room

    def plotly(self) -> go.Figure:
        low, high = self._ends()
        figure = go.Figure(
            go.Scatter(
                x=[low, high], y=[low, high], mode="lines", line={"color": GREY, "dash": "dot", "width": 1}, hoverinfo="skip", showlegend=False
            )
        )  # fmt: skip
        for index, (name, rows) in enumerate(self._shown()):
            figure.add_trace(
                go.Scattergl(
                    x=self.x[rows].tolist(), y=self.y[rows].tolist(), name=f"{name} ({len(rows)})", mode="markers",
                    marker={"color": PALETTE[index % len(PALETTE)], "size": 7, "opacity": 0.65},
                    text=[f"{row}: {cut(self.texts[row], HOVER_WIDTH)}" for row in rows],
                    hovertemplate=f"%{{text}}<br>{self.x_label} %{{x:.3f}}<br>{self.y_label} %{{y:.3f}}<extra>{name}</extra>",
                )
            )  # fmt: skip
        figure.update_xaxes(title=self.x_label, range=[low, high], constrain="domain")
        figure.update_yaxes(title=self.y_label, range=[low, high], constrain="domain", scaleanchor="x")
        side_by_side = {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0.5, "xanchor": "center"}
        return styled(figure, self.title).update_layout(height=760, margin={"t": 90}, legend=side_by_side)

    def picture(self) -> Picture:
        low, high = self._ends()
        picture, axes = canvas(self.title)
        picture.set_size_inches(6.4, 6.0)
        axes.plot([low, high], [low, high], color=GREY, linewidth=1, linestyle=":")
        for index, (name, rows) in enumerate(self._shown()):
            axes.scatter(
                self.x[rows], self.y[rows], s=16, color=PALETTE[index % len(PALETTE)], alpha=0.65, linewidths=0, label=f"{name} ({len(rows)})"
            )  # fmt: skip
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_aspect("equal")
        axes.set_xlabel(self.x_label)
        axes.set_ylabel(self.y_label)
        axes.legend(frameon=False, fontsize=8)
        return picture

    def _shown(self) -> list[tuple[str, np.ndarray]]:
        """Groups that hold points, as item numbers; points that a model has no score for are left out."""
        there = np.isfinite(self.x) & np.isfinite(self.y)
        found = [(name, np.flatnonzero(mask & there)) for name, mask in self.groups.items()]
        return [(name, rows) for name, rows in found if len(rows)]
