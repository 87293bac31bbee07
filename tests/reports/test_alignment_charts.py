"""Charts of alignment: what is drawn is what was given."""

from __future__ import annotations

import numpy as np
import pandas as pd

from layerwise.reports.interventions.alignment import alignment_charts, basis_charts
from layerwise.reports.interventions.causal_graph import CausalGraph

PARENTS = {"a": (), "b": (), "c": (), "a+b": ("a", "b"), "sum": ("a+b", "c")}
STEPS = {"a": 0, "b": 0, "c": 0, "a+b": 1, "sum": 2}


def test_the_graph_has_an_arrow_for_each_cause_and_fainter_ones_where_nothing_hangs_on_it() -> None:
    graph = CausalGraph("sums", PARENTS, STEPS, ("a+b",), [("a", "a+b"), ("a+b", "sum")])
    assert {(parent, child) for parent, child, live in graph.edges() if not live} == {("b", "a+b"), ("c", "sum")}
    places = graph.places()
    assert [places[name][0] for name in ("a", "a+b", "sum")] == [0, 1, 2]
    assert len(set(places.values())) == 5
    drawn = graph.plotly()
    assert len(drawn.layout.annotations) == 4
    assert sorted(arrow.opacity for arrow in drawn.layout.annotations) == [0.35, 0.35, 1.0, 1.0]
    assert len(graph.picture().axes[0].texts) == 4 + 5


def table(layers: tuple[int, ...], positions: tuple[str, ...]) -> pd.DataFrame:
    rows = [
        {
            "variables": "v", "place": f"resid_post.{layer} {position}", "site": f"resid_post.{layer}", "layer": layer, "positions": position,
            "accuracy": 0.1 * layer, "low": 0.0, "high": 1.0, "control": 0.5, "whole": 0.6, "before": None,
        }
        for layer in layers
        for position in positions
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_grid_is_a_map_and_curves_and_places_without_layers_are_rows() -> None:
    charts = alignment_charts(table((0, 1, 2), ("last", "first")), {"x": np.linspace(2, 1, 100)}, "task", "model")
    assert set(charts) == {"alignment_map_v_resid_post", "alignment_curve_v_resid_post", "alignment_training"}
    np.testing.assert_allclose(charts["alignment_map_v_resid_post"].values[:, 0], [0, 0.1, 0.2])  # type: ignore[union-attr]
    assert len(charts["alignment_training"].series[0].y) == 20  # type: ignore[union-attr]
    assert set(alignment_charts(table((-1,), ("all",)), {}, "task", "model")) == {"alignment_places"}
    alone = alignment_charts(table((1,), ("last",)).assign(before=0.05), {}, "task", "model")
    np.testing.assert_allclose(alone["alignment_places"].values, [[0.1, 0.5, 0.6, 0.05]])  # type: ignore[union-attr]
    for chart in charts.values():
        chart.plotly(), chart.picture()


def test_a_basis_shows_its_boundary_and_its_tokens() -> None:
    charts = basis_charts(
        "here", {"resid_post.3": pd.DataFrame(np.eye(2), ["2: to", "3: 8"], ["v", "w"])}, [np.array([1.0, 0.5, 0.0])]
    )
    assert set(charts) == {"basis_shares", "basis_tokens_resid_post.3"}
    assert list(charts["basis_shares"].series[0].y) == [1.0, 0.5, 0.0]  # type: ignore[union-attr]
