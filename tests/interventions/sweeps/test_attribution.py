"""Attribution: gradients that are true ones, integrated ones that add up, samples beside true patching."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from layerwise.errors import UserError
from layerwise.interventions.patching import Rerun
from layerwise.interventions.sweeps.attribution import attribute, begin_chunk
from layerwise.interventions.sweeps.config import Attribution, Patching
from layerwise.interventions.sweeps.edges import Graph, _patched, attribute_edges
from layerwise.interventions.sweeps.maps import patching_grid
from layerwise.models.readout import Readout

SITES = ["resid_pre.*", "attn_out.*", "mlp_out.*", "z.*.*", "q.*.*"]


def test_integrated_gradients_of_the_embeddings_add_up_to_the_whole_change(asked) -> None:
    grid = patching_grid(asked, Patching(sites=["resid_pre.0"], positions=["parts"]))
    found = attribute(grid, Attribution(steps=60, sample=0), "logit_difference")
    whole = float((found.corrupted - found.clean).mean())
    assert found.estimates.sum() == pytest.approx(whole, rel=2e-3)


def test_estimates_are_the_slopes_of_true_patching(asked) -> None:
    """A patch a thousandth of the way does a thousandth of what is estimated."""
    grid = patching_grid(asked, Patching(sites=SITES, positions=["part:subject", "last"]))
    found = attribute(grid, Attribution(steps=1, sample=0), "logit_difference")
    from layerwise.interventions.sweeps.sweep import sweep, writing

    def little(chunk, plan):
        from layerwise.models.taps import run

        own = run(plan.model, chunk.base, dict.fromkeys(plan.sites))
        return {site: own[site] + 1e-2 * (chunk.found[site] - own[site]) for site in plan.sites}

    swept = sweep(grid.asked, grid.cells("clean", "corrupted"), "logit_difference", writing(little))
    slopes = (swept.values - swept.base).mean(1) / 1e-2
    np.testing.assert_allclose(found.estimates, slopes, atol=0.03 * np.abs(slopes).max())


def test_edges_are_the_slopes_of_true_edge_patching(asked) -> None:
    asked = asked.select([0, 2])
    table, _ = attribute_edges(asked, Attribution(of="edges", steps=1, sample=0), "logit_difference")
    graph, readout = Graph(asked.model), Readout.of(asked.model)
    edges = np.argwhere(graph.exists())
    assert len(table) == len(edges) == sum(receiver.before for receiver in graph.receivers)
    slopes = np.zeros(len(edges))
    for rows in asked.chunks():
        chunk, measure, _ = begin_chunk(asked, rows, graph.read, "logit_difference", readout)
        near = {
            site: chunk.pass_.read[site] + 1e-2 * (chunk.found[site] - chunk.pass_.read[site])
            for site in [*graph.read, "resid_pre.0"]
        }
        rerun = Rerun(asked.model, chunk.pass_, measure, readout)
        slopes += _patched(graph, rerun, graph.contributions(replace(chunk, found=near)), edges) / 1e-2
    np.testing.assert_allclose(table["score"], slopes / len(asked), atol=0.03 * np.abs(slopes).max())


def test_a_sample_is_patched_truly(asked) -> None:
    _, found = attribute_edges(asked, Attribution(of="edges", steps=5, sample=12), "logit_difference")
    assert found.agreement is not None
    assert len(found.agreement.table) == 12
    assert found.agreement.correlation > 0.9
    assert found.agreement.error < 0.5
    grid = patching_grid(asked, Patching(sites=["mlp_out.*"]))
    cells = attribute(grid, Attribution(steps=5, sample=6), "logit_difference")
    assert cells.agreement is not None
    assert cells.agreement.correlation > 0.9
    for agreement in (found.agreement, cells.agreement):  # each beside a change as large in a random direction
        random = agreement.table["random"]
        assert (random.abs() > 0).sum() == (agreement.table["patched"].abs() > 0).sum()
        assert random.tolist() != pytest.approx(agreement.table["patched"].tolist(), rel=1e-2)


def test_a_metric_that_counts_has_no_gradient(asked) -> None:
    with pytest.raises(UserError, match="accuracy has no gradient"):
        attribute_edges(asked, Attribution(of="edges"), "accuracy")
