"""A causal model drawn: variables by time step from left to right, an arrow from each cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from matplotlib.figure import Figure as Picture

from layerwise.reports.charts import GREY, INK, PALETTE, canvas, styled


@dataclass(frozen=True)
class CausalGraph:
    """parents: by variable. steps: the time step of each. chosen: those that are set apart. live: (parent, child) of live edges; others
    are drawn faint; None draws all alike.
    """

    title: str
    parents: Mapping[str, Sequence[str]]
    steps: Mapping[str, int]
    chosen: Sequence[str] = ()
    live: Sequence[tuple[str, str]] | None = None

    def places(self) -> dict[str, tuple[float, float]]:
        """Where each variable stands: its step across, and down the column near the middle of its causes."""
        found: dict[str, tuple[float, float]] = {}
        for step in sorted(set(self.steps.values())):
            names = [name for name, own in self.steps.items() if own == step]

            def middle(name: str) -> float:
                heights = [found[parent][1] for parent in self.parents[name] if parent in found]
                return -sum(heights) / len(heights) if heights else 0.0

            ordered = sorted(names, key=middle)
            for number, name in enumerate(ordered):
                found[name] = (float(step), (len(ordered) - 1) / 2 - number)
        return found

    def edges(self) -> list[tuple[str, str, bool]]:
        """(parent, child, whether it is live)."""
        return [
            (parent, child, self.live is None or (parent, child) in self.live)
            for child, parents in self.parents.items()
            for parent in parents
        ]

    def plotly(self) -> go.Figure:
        places, figure = self.places(), go.Figure()
        for parent, child, live in self.edges():
            (x0, y0), (x1, y1) = places[parent], places[child]
            figure.add_annotation(
                x=x1, y=y1, ax=x0, ay=y0, xref="x", yref="y", axref="x", ayref="y", text="", showarrow=True, arrowhead=2,
                arrowcolor=INK if live else GREY, opacity=1.0 if live else 0.35, standoff=26, startstandoff=26, arrowwidth=1.5,
            )  # fmt: skip
        names = list(places)
        figure.add_trace(
            go.Scatter(
                x=[places[name][0] for name in names], y=[places[name][1] for name in names], text=names, mode="markers+text",
                textposition="top center", hoverinfo="text", showlegend=False,
                marker={"size": 22, "color": [PALETTE[0] if name in self.chosen else "white" for name in names], "line": {"color": INK, "width": 1.5}},
            )
        )  # fmt: skip
        figure.update_xaxes(title="time step", dtick=1, showgrid=False, range=self._across(places))
        figure.update_yaxes(visible=False, range=self._down(places))
        return styled(figure, self.title)

    def picture(self) -> Picture:
        places = self.places()
        picture, axes = canvas(self.title)
        for parent, child, live in self.edges():
            axes.annotate(
                "", places[child], places[parent],
                arrowprops={"arrowstyle": "-|>", "color": INK if live else GREY, "alpha": 1.0 if live else 0.35, "shrinkA": 11, "shrinkB": 11},
            )  # fmt: skip
        for name, (x, y) in places.items():
            colour = PALETTE[0] if name in self.chosen else "white"
            axes.scatter([x], [y], s=220, color=colour, edgecolors=INK, zorder=3)
            axes.annotate(name, (x, y), xytext=(0, 13), textcoords="offset points", ha="center", fontsize=9, color=INK)
        axes.set_xlim(*self._across(places))
        axes.set_ylim(*self._down(places))
        axes.set_xticks(sorted(set(self.steps.values())))
        axes.set_yticks([])
        axes.grid(False)
        axes.set_xlabel("time step")
        return picture

    def _across(self, places: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
        across = [x for x, _ in places.values()]
        return min(across) - 0.4, max(across) + 0.4

    def _down(self, places: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
        down = [y for _, y in places.values()]
        return min(down) - 0.6, max(down) + 0.8
