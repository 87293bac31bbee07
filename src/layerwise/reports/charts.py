"""Charts described once, drawn twice: interactive by plotly, as a picture by matplotlib.

A chart is plain data. It knows nothing of probes or runs; ``reports.probe`` says which charts a probe gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure as Picture

# Okabe and Ito's palette: told apart by people with any colour vision, and in this order.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A800")
GREY = "#8A8F98"
INK = "#1F2430"
GRID = "#E6E8EC"


class Chart(Protocol):
    """What is drawn both ways."""

    def plotly(self) -> go.Figure: ...

    def picture(self) -> Picture: ...


@dataclass(frozen=True)
class Series:
    """One line: ``x`` and ``y`` of equal length; ``low`` and ``high`` draw its interval as a band.

    ``muted`` draws a control or baseline in grey, so that the eye goes to the result.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    muted: bool = False
    text: Sequence[str] | None = None


@dataclass(frozen=True)
class LineChart:
    """Lines over a common axis, with optional horizontal levels (chance, majority) named at the right edge."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    levels: dict[str, float] = field(default_factory=dict)
    y_range: tuple[float, float] | None = None
    x_scale: Literal["linear", "log"] = "linear"
    y_scale: Literal["linear", "log"] = "linear"

    def styles(self) -> list[tuple[Series, str, str]]:
        """(series, colour, dash) for each line; muted ones share grey and differ by their dash."""
        dashes = ("dash", "dot", "dashdot", "longdash")
        bright = [one for one in self.series if not one.muted]
        muted = [one for one in self.series if one.muted]
        return [(one, PALETTE[i % len(PALETTE)], "solid") for i, one in enumerate(bright)] + [
            (one, GREY, dashes[i % len(dashes)]) for i, one in enumerate(muted)
        ]

    def plotly(self) -> go.Figure:
        figure = go.Figure()
        for one, colour, dash in self.styles():
            if one.low is not None and one.high is not None:
                figure.add_trace(
                    go.Scatter(
                        x=[*one.x, *reversed(list(one.x))],
                        y=[*one.high, *reversed(list(one.low))],
                        fill="toself",
                        mode="lines",
                        fillcolor=colour,
                        opacity=0.15,
                        line={"width": 0},
                        hoverinfo="skip",
                        showlegend=False,
                        legendgroup=one.name,
                    )
                )
            figure.add_trace(
                go.Scatter(
                    x=list(one.x),
                    y=list(one.y),
                    name=one.name,
                    text=list(one.text) if one.text is not None else None,
                    mode="lines+markers" if len(one.x) <= 100 else "lines",
                    line={"color": colour, "dash": dash, "width": 1.5 if one.muted else 2.5},
                    marker={"size": 4 if one.muted else 6},
                    legendgroup=one.name,
                )
            )
        for name, level in self.levels.items():
            figure.add_hline(
                y=level,
                line={"color": GREY, "width": 1, "dash": "dot"},
                annotation_text=name,
                annotation_font_color=GREY,
            )
        figure.update_xaxes(title=self.x_label, type=self.x_scale)
        figure.update_yaxes(title=self.y_label, range=self.y_range, type=self.y_scale)
        return styled(figure, self.title)

    def picture(self) -> Picture:
        picture, axes = canvas(self.title)
        mpl_dash = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3))}
        for one, colour, dash in self.styles():
            if one.low is not None and one.high is not None:
                axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.15, linewidth=0)
            marker = "o" if len(one.x) <= 100 and not one.muted else None
            axes.plot(
                one.x,
                one.y,
                label=one.name,
                color=colour,
                linestyle=mpl_dash[dash],
                linewidth=1.2 if one.muted else 2,
                marker=marker,
                markersize=3.5,
            )
        for name, level in self.levels.items():
            axes.axhline(level, color=GREY, linewidth=1, linestyle=":", zorder=0)
            axes.annotate(
                name, (1, level), xycoords=("axes fraction", "data"), color=GREY, fontsize=8, ha="right", va="bottom"
            )
        axes.set_xlabel(self.x_label)
        axes.set_ylabel(self.y_label)
        axes.set_xscale(self.x_scale)
        axes.set_yscale(self.y_scale)
        if self.y_range is not None:
            axes.set_ylim(*self.y_range)
        if len(self.series) > 1:
            axes.legend(frameon=False, fontsize=8)
        return picture


@dataclass(frozen=True)
class Histogram:
    """Distributions of one quantity, one per name, over common bins; ``marks`` are named vertical lines."""

    title: str
    x_label: str
    groups: dict[str, np.ndarray]
    marks: dict[str, float] = field(default_factory=dict)
    bins: int = 30

    def _edges(self) -> np.ndarray:
        """(bins + 1,) from the lowest to the highest value; one bin where all are the same but for rounding."""
        everything = np.concatenate(list(self.groups.values())).astype(np.float64)
        low, high = float(everything.min()), float(everything.max())
        if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
            return np.array([low - 0.5, high + 0.5])
        return np.linspace(low, high, self.bins + 1)

    def plotly(self) -> go.Figure:
        edges = self._edges()
        size = float(edges[1] - edges[0])
        figure = go.Figure()
        for index, (name, values) in enumerate(self.groups.items()):
            figure.add_trace(
                go.Histogram(
                    x=values.tolist(),
                    name=name,
                    marker_color=PALETTE[index % len(PALETTE)],
                    opacity=0.6,
                    xbins={"start": float(edges[0]), "end": float(edges[-1]) + size, "size": size},
                )
            )
        for name, value in self.marks.items():
            figure.add_vline(x=value, line={"color": INK, "width": 1, "dash": "dash"}, annotation_text=name)
        figure.update_layout(barmode="overlay")
        figure.update_xaxes(title=self.x_label)
        figure.update_yaxes(title="items")
        return styled(figure, self.title)

    def picture(self) -> Picture:
        picture, axes = canvas(self.title)
        edges = self._edges()
        for index, (name, values) in enumerate(self.groups.items()):
            axes.hist(values, edges, label=name, color=PALETTE[index % len(PALETTE)], alpha=0.6)
        for name, value in self.marks.items():
            axes.axvline(value, color=INK, linewidth=1, linestyle="--")
            axes.annotate(
                name, (value, 1), xycoords=("data", "axes fraction"), fontsize=8, rotation=90, ha="right", va="top"
            )
        axes.set_xlabel(self.x_label)
        axes.set_ylabel("items")
        axes.legend(frameon=False, fontsize=8)
        return picture


def styled(figure: go.Figure, title: str) -> go.Figure:
    """Give a plotly figure the house look: white, light grid, readable type."""
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0.02, "font": {"size": 17}},
        font={"family": "system-ui, sans-serif", "color": INK, "size": 13},
        margin={"l": 70, "r": 30, "t": 60, "b": 60},
        legend={"orientation": "h", "y": -0.18},
        hovermode="closest",
    )
    return figure


def canvas(title: str):  # type: ignore[no-untyped-def]  # (Figure, Axes); matplotlib's own types are loose here
    """A matplotlib figure of the house look and its only axes. Made without pyplot, so nothing is kept alive."""
    picture = Picture(figsize=(8, 4.5), dpi=130, layout="constrained")
    axes = picture.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return picture, axes
