"""Ablation, patching maps and causal tracing: identities, and the same by whole forwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sweeps_pairs import make_pairs

from layerwise.errors import UserError
from layerwise.interventions.patching import Cell, last_columns
from layerwise.interventions.sweeps.ablation import ablate
from layerwise.interventions.sweeps.asked import ask
from layerwise.interventions.sweeps.axis import fitting, places
from layerwise.interventions.sweeps.config import Ablation, Patching, Tracing
from layerwise.interventions.sweeps.cost import cost_line, passes
from layerwise.interventions.sweeps.ledger import Ledger, Ledgers
from layerwise.interventions.sweeps.maps import patch_map, patching_grid, trace, tracing_grid
from layerwise.interventions.sweeps.sweep import sweep, writing
from layerwise.models.taps import run

METRICS = ["logit_difference", "probability", "kl", "kl_tokens", "loss", "perplexity"]


def difference(asked, row: int, writes=None, side: str = "clean") -> float:
    """The logit difference of one pair by a whole forward."""
    batch = asked.batch(side, [row])
    logits = run(asked.model, batch, writes=writes, logits=True)["logits"][0, int(last_columns(batch)[0])]
    return float(logits[int(asked.answers[row])] - logits[int(asked.others[row])])


@pytest.mark.parametrize("method", ["zero", "mean", "resample", "corrupted"])
def test_ablation_is_what_whole_forwards_give(asked, method: str) -> None:
    found = ablate(
        asked, Ablation(method=method, parts=["layers", "attention", "mlps", "heads"], controls=2), "logit_difference"
    )
    assert len(found.parts) == 2 * (1 + 1 + 1 + 4)
    assert found.swept.base.tolist() == pytest.approx([difference(asked, row) for row in range(4)], abs=2e-5)
    corrupted = [difference(asked, row, side="corrupted") for row in range(4)]
    assert found.swept.source.tolist() == pytest.approx(corrupted, abs=2e-5)
    assert found.controls["random"].notna().all()
    if method == "zero":
        number = found.parts.index[(found.parts["part"] == "layers") & (found.parts["layer"] == 1)][0]
        skipped = dict.fromkeys(("attn_out.1", "mlp_out.1"), torch.zeros_like)
        want = [difference(asked, row, skipped) for row in range(4)]
        assert found.swept.values[number].tolist() == pytest.approx(want, abs=2e-5)
    if method == "corrupted":
        number = found.parts.index[
            (found.parts["part"] == "heads") & (found.parts["layer"] == 0) & (found.parts["head"] == 2)
        ][0]
        other = run(asked.model, asked.batch("corrupted", [1]), {"z.0.2": None})["z.0.2"]
        want = difference(asked, 1, {"z.0.2": lambda value: other})
        assert found.swept.values[number, 1] == pytest.approx(want, abs=2e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_patching_all_restores_the_other_run_and_itself_nothing(asked, metric: str) -> None:
    """Every token of the first residual is the whole of the other run; a run's own values change nothing."""
    everywhere = Cell(("resid_pre.0",), asked.columns("clean", "all"))
    own = writing(lambda chunk, plan: run(plan.model, chunk.base, dict.fromkeys(plan.sites)))
    parts = [
        Cell((site,), asked.columns("clean", "all"))
        for site in ("mlp_out.0", "z.1.2", "resid_pre.1", "v.0.1", "pattern.1.0")
    ]
    same = sweep(asked, [everywhere, *parts], metric, own)
    np.testing.assert_allclose(same.values, np.broadcast_to(same.base, same.values.shape), atol=1e-4)
    if metric in ("kl", "kl_tokens"):
        np.testing.assert_allclose(same.base, 0, atol=1e-6)
    other = sweep(asked, [everywhere], metric, writing(lambda chunk, plan: chunk.found))
    # The text itself stays the base's, so its likelihood is no anchor of the other run's.
    if metric not in ("loss", "perplexity"):
        np.testing.assert_allclose(other.values[0], other.source, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(other.effects, 1, atol=1e-3)


def test_a_map_both_ways_over_parts(asked) -> None:
    grid = patching_grid(asked, Patching(sites=["resid_pre.*", "z.*.*"]))
    assert list(dict.fromkeys(grid.table["position"])) == ["before", "subject", "after subject", "last"]
    for direction, base, source in (("denoising", "corrupted", "clean"), ("noising", "clean", "corrupted")):
        found = patch_map(grid, direction, "logit_difference", controls=3)
        cell = found.cells.query("site == 'resid_pre' and layer == 0 and position == 'subject'").index[0]
        assert found.swept.effects[cell] == pytest.approx(1, abs=1e-3)  # the subject is the only difference
        last = found.cells.query("site == 'resid_pre' and layer == 0 and position == 'last'").index[0]
        assert found.swept.changes[last] == pytest.approx(0, abs=1e-5)
        row = 1
        head = found.cells.query("site == 'z' and layer == 1 and head == 3 and position == 'after subject'").index[0]
        columns = list(grid.axis[int(found.cells["place"][head])].columns[base][row])
        other = run(asked.model, asked.batch(source, [row]), {"z.1.3": None})["z.1.3"]

        def write(value, columns=columns, other=other):
            new = value.clone()
            new[:, columns] = other[:, columns]
            return new

        want = difference(asked, row, {"z.1.3": write}, base)
        assert found.swept.values[head, row] == pytest.approx(want, abs=2e-5)
        assert len(found.controls) == 3


def test_tracing_restores_a_noised_run(asked) -> None:
    settings = Tracing(noise=2.0, draws=2, window=1, sites=["resid_post.*", "mlp_out.*"], controls=2)
    grid = tracing_grid(asked, settings)
    found = trace(grid, settings, "probability", seed=3)
    assert (found.swept.base != found.swept.source).all()
    last = found.cells.query("site == 'resid_post' and layer == 1 and position == 'last'").index[0]
    assert found.swept.effects[last] == pytest.approx(
        1, abs=1e-4
    )  # the last token's last residual is all that the logits see
    everything = Cell(("resid_pre.0",), asked.columns("clean", "all"))
    from layerwise.interventions.sweeps.maps import _Noise

    noise = _Noise(asked, settings, 3)
    whole = sweep(
        asked,
        [everything],
        "probability",
        writing(lambda chunk, plan: chunk.found),
        source="clean",
        writes=noise.writes(0),
    )
    np.testing.assert_allclose(whole.values[0], whole.source, rtol=1e-4)


def test_batches_of_any_size_give_the_same(asked) -> None:
    grid = patching_grid(asked, Patching(sites=["mlp_out.*", "resid_pre.*"]))
    whole = patch_map(grid, "denoising", "kl", controls=0).swept
    for budget in (1, 7, 30):
        split = patch_map(grid, "denoising", "kl", controls=0, token_budget=budget).swept
        np.testing.assert_allclose(split.values, whole.values, atol=1e-5)


def test_a_sweep_that_was_stopped_goes_on_at_its_next_cell(asked) -> None:
    grid = patching_grid(asked, Patching(sites=["mlp_out.*"]))
    whole = patch_map(grid, "noising", "logit_difference").swept
    seen: list[int] = []

    def stop(runs: int) -> None:
        seen.append(runs)
        if len(seen) == 2:
            raise KeyboardInterrupt

    key = "stopped"
    with pytest.raises(KeyboardInterrupt), Ledgers(key) as ledgers:
        patch_map(grid, "noising", "logit_difference", ledgers=ledgers, token_budget=16, done=stop)
    ledger = Ledger(len(grid.table), len(grid.asked), f"{key}-noising")
    known = int(np.isfinite(ledger.values).sum())
    assert known == sum(seen)
    again: list[int] = []
    settings = {"token_budget": 16, "done": again.append}
    with Ledgers(key) as ledgers:
        found = patch_map(grid, "noising", "logit_difference", controls=0, ledgers=ledgers, **settings).swept
    assert sum(again) == found.values.size
    assert again[0] == known  # told of at once: nothing of it ran
    np.testing.assert_allclose(found.values, whole.values, atol=1e-5)
    assert ledger.path is not None
    assert not ledger.path.exists()  # recorded elsewhere by now


def test_a_ledger_that_cannot_be_read_is_begun_anew() -> None:
    ledger = Ledger(2, 3, "broken")
    ledger.put([0], np.array([0, 2]), torch.tensor([[1.0, float("nan")]]))
    ledger.save()
    assert Ledger(2, 3, "broken").missing(np.array([0, 2])) == [1]
    assert Ledger(3, 3, "broken").missing(np.array([0])) == [0, 1, 2]  # another sweep's shape
    assert ledger.path is not None
    ledger.path.write_bytes(b"half")
    assert np.isnan(Ledger(2, 3, "broken").values).all()


def test_the_cost_is_told_before(asked) -> None:
    grid = patching_grid(asked, Patching(sites=["resid_pre.*"]))
    cells = grid.cells("clean", "corrupted")
    early, late = passes(asked, cells[:1]), passes(asked, cells[-1:])
    assert 0 < late < early <= 1
    assert f"{len(cells)} cells on 4 pairs" in cost_line(asked, cells)


def test_pairs_that_do_not_fit_are_left_out_with_a_note(speaking) -> None:
    pairs = make_pairs(4)
    uneven = type(pairs)(
        "uneven", (*pairs.clean[:3], "the city of paris is in"), (*pairs.corrupted[:3], "the very good city of rome is in"),
        (*pairs.answers[:3], " france"), (*pairs.corrupted_answers[:3], " italy"),
    )  # fmt: skip
    asked = fitting(ask(speaking, uneven), ["tokens"])
    assert len(asked) == 3
    assert "1 of 4 pairs are left out" in asked.notes[0]
    assert len(fitting(ask(speaking, uneven), ["last"])) == 4
    with pytest.raises(UserError, match="no pair of uneven is left"):
        fitting(ask(speaking, uneven).select([3]), ["tokens"])
    with pytest.raises(UserError, match="one length"):
        places(fitting(ask(speaking, uneven), ["tokens"]), ["tokens"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positions": ["12"]}, "position 12 is beyond text 0"),
        ({"positions": ["part:object"]}, "no part 'object'"),
        ({"positions": ["middle"]}, "cannot read the positions"),
        ({"sites": ["z.0.9"]}, "head 9"),
        ({"sites": ["resid_pre.5"]}, "layer 5"),
        ({"sites": ["final_norm"]}, "no place in a map"),
        ({"sites": []}, "name at least one"),
        ({"window": 0}, "at least 1 layer"),
        ({"controls": -1}, "0 or more"),
    ],
)
def test_maps_that_cannot_be(asked, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        patching_grid(asked, Patching(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"noise": 0}, "noise"), ({"draws": 0}, "draws"), ({"part": "object"}, "no part 'object'")],
)
def test_traces_that_cannot_be(asked, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tracing_grid(asked, Tracing(**settings))


def test_answers_that_begin_alike_tell_nothing(speaking) -> None:
    pairs = make_pairs(4)
    alike = type(pairs)("alike", pairs.clean, pairs.corrupted, (" in france",) * 4, (" in italy",) * 4)
    with pytest.raises(UserError, match="begin with one token"):
        ask(speaking, alike)
