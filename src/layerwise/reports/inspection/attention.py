"""Attention patterns as small squares: heads side by side, or one head while its model learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure as Picture
from plotly.subplots import make_subplots

from layerwise.reports.charts import INK, LineChart, Series, styled
from layerwise.reports.heat_map import HeatMap
from layerwise.reports.token_view import visible

if TYPE_CHECKING:
    import pandas as pd

    from layerwise.training.inspection.attention import AttentionPatterns, HeadProgress

NAMED_TOKENS = 24  # so many are named along an axis, where there is room
PICTURED = 400  # squares of one picture; the interactive figure has all
SCORES = {
    "induction": "attention to the token after the earlier occurrence",
    "previous_token": "attention to the token before",
    "duplicate_token": "attention to the earlier occurrence",
    "first_token": "attention to the first token",
}


@dataclass(frozen=True)
class AttentionGrid:
    """Squares of (query, key) attention, queries down and keys across, each under its name.

    tokens: (tokens,) names. panels: name and (tokens, tokens) of each square, in rows of ``columns``.
    """

    title: str
    tokens: Sequence[str]
    panels: Sequence[tuple[str, np.ndarray]]
    columns: int

    @property
    def rows(self) -> int:
        return math.ceil(len(self.panels) / self.columns)

    def _labels(self) -> list[str]:
        """Names that no two tokens share."""
        return [f"{place} {shown(token)}" for place, token in enumerate(self.tokens)]

    def _names_tokens(self) -> bool:
        return self.columns <= 4 and len(self.tokens) <= NAMED_TOKENS

    def plotly(self) -> go.Figure:
        labels, named = self._labels(), self._names_tokens()
        figure = make_subplots(
            self.rows, self.columns, subplot_titles=[name for name, _ in self.panels],
            horizontal_spacing=min(0.12, 0.5 / self.columns) if named else 0.1 / self.columns,
            vertical_spacing=min(0.16, 0.6 / self.rows) if named else 0.25 / self.rows,
        )  # fmt: skip
        for place, (name, pattern) in enumerate(self.panels):
            figure.add_trace(
                go.Heatmap(
                    z=pattern.astype(np.float32), x=labels, y=labels, zmin=0, zmax=1, colorscale="Blues", showscale=place == 0,
                    colorbar={"title": "attention"},
                    hovertemplate=f"{name}<br>%{{y}} → %{{x}}: %{{z:.3f}}<extra></extra>",
                ),
                place // self.columns + 1,
                place % self.columns + 1,
            )  # fmt: skip
        figure.update_xaxes(showticklabels=named, showgrid=False, tickangle=60)
        figure.update_yaxes(showticklabels=named, showgrid=False, autorange="reversed")
        figure = styled(figure, self.title)
        side = 60 if not named else max(220, 16 * len(self.tokens) + 60)
        figure.update_annotations(font={"size": 10 if not named else 13})
        figure.update_layout(height=max(360, self.rows * side * (1.0 if named else 1.35) + 140))
        return figure

    def picture(self) -> Picture:
        shown_panels = self.panels[:PICTURED]
        rows = math.ceil(len(shown_panels) / self.columns)
        named = self._names_tokens()
        side = 0.9 if not named else max(2.4, 0.16 * len(self.tokens) + 0.8)
        size = (max(4.0, min(self.columns * side, 20) + 0.6), max(2.4, min(rows * side, 40) + 0.6))
        picture = Picture(figsize=size, dpi=110, layout="constrained")
        left_out = len(self.panels) - len(shown_panels)
        picture.suptitle(self.title + (f" (the first {PICTURED})" if left_out else ""), fontsize=10, color=INK)
        axes = picture.subplots(rows, self.columns, squeeze=False)
        for square in axes.flat:
            square.set_axis_off()
        labels = [shown(token) for token in self.tokens]
        for square, (name, pattern) in zip(axes.flat, shown_panels, strict=False):
            square.set_axis_on()
            square.imshow(pattern, cmap="Blues", vmin=0, vmax=1)
            square.set_title(name, fontsize=8 if named else 6, color=INK, pad=2)
            ticks = range(len(labels)) if named else []
            square.set_xticks(ticks, labels if named else [], rotation=60, ha="right", fontsize=7)
            square.set_yticks(ticks, labels if named else [], fontsize=7)
        return picture


def shown(token: str) -> str:
    """A token with its spaces and line breaks to be seen, and never empty."""
    return visible(token) or "∅"


def head_grid(found: AttentionPatterns) -> AttentionGrid:
    """All heads of a prompt, a row of squares a layer."""
    names = [site.removeprefix("pattern.").replace(".", " / ") for site in found.patterns]
    layers = [site.rpartition(".")[0] for site in found.patterns]
    widest = max(layers.count(layer) for layer in set(layers))
    even = len(set(map(layers.count, layers))) == 1
    panels = list(zip(names, found.patterns.values(), strict=True))
    return AttentionGrid(
        f"Attention (layer / head): “{found.prompt[:60]}”",
        found.tokens,
        panels,
        widest if even else min(len(panels), 8),
    )


def progress_grid(found: HeadProgress) -> AttentionGrid:
    """One head at each checkpoint."""
    panels = [(f"step {step:,}", pattern) for step, pattern in zip(found.steps, found.patterns, strict=True)]
    return AttentionGrid(f"{found.site}: “{found.prompt[:60]}”", found.tokens, panels, min(len(panels), 6))


def progress_lines(found: HeadProgress) -> LineChart:
    """What that head does with repeated tokens, by step."""
    steps = found.scores["step"].tolist()
    series = [Series(label, steps, found.scores[name].tolist()) for name, label in SCORES.items()]
    return LineChart(f"{found.site} on repeated random tokens", "step", "attention", series, y_range=(0, 1.02))


def score_map(scores: pd.DataFrame, score: str, label: str) -> HeatMap:
    """One score of every head: layers up and down, heads across."""
    grid = scores.pivot(index="layer", columns="head", values=score)
    return HeatMap(
        f"{label}: {score.replace('_', ' ')} on repeated random tokens", "head", "layer", list(map(str, grid.columns)),
        list(map(str, grid.index)), grid.to_numpy(dtype=float), SCORES[score], (0.0, 1.0),
    )  # fmt: skip
