"""Doses of directions: equal to writing them into the whole model; a direction that matters stands out from random ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contract import batch_of
from families import build
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.patching import Rerun, at_column, last_columns
from layerwise.interventions.steering.doses import Doses, against_random, give_doses, project_out, random_directions
from layerwise.models.batch import Batch
from layerwise.models.model import LanguageModel
from layerwise.models.readout import Readout
from layerwise.models.rest import keep_pass
from layerwise.models.taps import run

STRENGTHS = (-2.0, 0.5, 3.0)


def metric(logits: Tensor, texts: Tensor) -> Tensor:
    return logits[:, 3] - logits[:, 7]


def rerun(model: LanguageModel, batch: Batch, token_budget: int | None = None) -> Rerun:
    readout = Readout.of(model)
    return Rerun(model, keep_pass(model, batch, {readout.site: None}), at_column(metric, batch), readout, token_budget)


@pytest.fixture(scope="module", params=["llama", "gpt2", "mamba", "bert"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return LanguageModel(build(request.param), None, request.param)


def gradient(model: LanguageModel, site: str) -> Tensor:
    """(width,): where the metric of the first text grows fastest, at its last token."""
    batch = batch_of(model, 6, 4)
    found = run(model, batch, {site: None}, {site: lambda value: value.requires_grad_()}, logits=True, grad=True)
    ends = last_columns(batch)
    value = metric(found["logits"][torch.arange(2), ends], ends).sum()
    return torch.autograd.grad(value, found[site])[0][0, int(ends[0])].detach()


@pytest.mark.parametrize("everywhere", [True, False])
def test_every_dose_is_what_the_whole_model_gives(model: LanguageModel, everywhere: bool) -> None:
    batch = batch_of(model, 6, 4)
    directions = torch.randn(3, model.sites.width, generator=torch.Generator().manual_seed(1))
    where = None if everywhere else torch.arange(6)[None, :].expand(2, 6) >= 2
    doses = give_doses(rerun(model, batch, 30), {"resid_post.0": directions}, STRENGTHS, where=where)
    mask = batch.mask if where is None else where & batch.mask
    rows = torch.arange(2)
    for d, direction in enumerate(directions):
        for s, strength in enumerate(STRENGTHS):
            added = strength * direction * mask[:, :, None]
            logits = run(model, batch, writes={"resid_post.0": lambda value, a=added: value + a}, logits=True)["logits"]
            want = metric(logits[rows, last_columns(batch)], rows)
            np.testing.assert_allclose(doses.values[d, s], want.numpy(), atol=2e-5, rtol=1e-4)


def test_a_slope_is_that_of_a_line() -> None:
    clean, slope = np.array([1.0, -2.0]), np.array([[0.5, 2.0], [0.0, -1.0]])
    strengths = np.array([-1.0, 1.0, 4.0])
    doses = Doses(strengths, clean + slope[:, None] * strengths[None, :, None], clean)
    np.testing.assert_allclose(doses.slopes(), slope)


def test_a_direction_that_the_output_reads_stands_out_and_a_random_one_does_not() -> None:
    model = LanguageModel(build("llama"), None, "llama")
    batch = batch_of(model, 6, 6, 6, 6, 6, 6)
    own = gradient(model, "resid_post.-1")
    random = random_directions(own, 39)
    torch.testing.assert_close(random.norm(dim=1), own.norm().expand(39))
    small = 0.05 / float(own.norm())
    kept = rerun(model, batch)
    doses = give_doses(kept, {"resid_post.-1": torch.cat([own[None], random])}, (-small, small))
    check = against_random(doses.slopes())
    assert check.p == pytest.approx(1 / 40)
    assert check.own.low > 0
    assert check.times_random > 2
    doses = give_doses(kept, {"resid_post.-1": random[:20]}, (-small, small))
    assert against_random(doses.slopes()).p > 0.05


@pytest.mark.parametrize(
    ("width", "strengths", "message"), [(3, (1.0,), "16 wide"), (16, (0.0,), "not zero"), (16, (), "not zero")]
)
def test_what_is_no_dose_is_refused(width: int, strengths: tuple[float, ...], message: str) -> None:
    model = LanguageModel(build("llama"), None, "llama")
    with pytest.raises(UserError, match=message):
        give_doses(rerun(model, batch_of(model, 4)), {"resid_post.0": torch.ones(1, width)}, strengths)


def test_with_labels_it_is_the_distance_of_the_classes_that_counts() -> None:
    """What moves both classes towards each other has no mean over all texts; the value is worked out by hand."""
    values = np.array([[1.0, 3.0, -2.0, -2.0, -2.0], [1.0, 1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0, 0.0]])
    found = against_random(values, labels=np.array([0, 0, 1, 1, 1]))
    assert found.own.estimate == pytest.approx(4)
    np.testing.assert_allclose(found.random, [0, 0.5])
    assert found.own.low <= 4 <= found.own.high
    assert found.p == pytest.approx(1 / 3)


def test_without_a_random_direction_there_is_no_check() -> None:
    with pytest.raises(UserError, match="at least one"):
        against_random(np.ones((1, 3)))


@pytest.mark.parametrize("centred", [True, False])
def test_projecting_out_is_what_the_whole_model_gives(model: LanguageModel, centred: bool) -> None:
    batch, width = batch_of(model, 6, 4), model.sites.width
    draw = torch.Generator().manual_seed(1)
    directions, mean = torch.randn(3, width, generator=draw), torch.randn(width, generator=draw) * centred
    means = {"resid_post.0": mean} if centred else None
    effects = project_out(rerun(model, batch, 30), {"resid_post.0": directions}, means=means)
    rows = torch.arange(2)
    clean = metric(run(model, batch, logits=True)["logits"][rows, last_columns(batch)], rows)
    for d, direction in enumerate(directions):
        unit = direction / direction.norm()

        def projected(value: Tensor, unit: Tensor = unit) -> Tensor:
            new = value - ((value - mean) @ unit)[..., None] * unit
            return torch.where(batch.mask[:, :, None], new, value)

        logits = run(model, batch, writes={"resid_post.0": projected}, logits=True)["logits"]
        want = metric(logits[rows, last_columns(batch)], rows) - clean
        np.testing.assert_allclose(effects[d], want.numpy(), atol=2e-5, rtol=1e-3)


def test_directions_at_several_sites_are_added_together() -> None:
    model = LanguageModel(build("llama"), None, "llama")
    batch = batch_of(model, 6, 4)
    head = int(model.sites.width_of("z.1.1"))
    draw = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 16, generator=draw), torch.randn(2, head, generator=draw)
    doses = give_doses(rerun(model, batch), {"resid_post.0": first, "z.1.1": second}, [2.0])
    rows = torch.arange(2)
    for d in range(2):
        writes = {"resid_post.0": lambda v, d=d: v + 2 * first[d], "z.1.1": lambda v, d=d: v + 2 * second[d]}
        logits = run(model, batch, writes=writes, logits=True)["logits"]
        want = metric(logits[rows, last_columns(batch)], rows)
        np.testing.assert_allclose(doses.values[d, 0], want.numpy(), atol=2e-5, rtol=1e-4)


def test_directions_drawn_as_activations_spread_lie_where_those_vary() -> None:
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 5, 0, 0, 0, 0, 0, 0]) + 3
    drawn = random_directions(torch.ones(8) * 2, 30, rows=rows)
    assert drawn[:, 2:].abs().max() < 1e-4
    torch.testing.assert_close(drawn.norm(dim=1), torch.full((30,), float(torch.ones(8).norm() * 2)))


def test_doses_of_batches_join_in_the_order_of_the_texts() -> None:
    parts = [Doses(np.ones(1), np.full((1, 1, 2), float(k)), np.full(2, float(k))) for k in range(2)]
    joined = Doses.joined(parts).ordered(np.array([3, 0, 2, 1]))
    np.testing.assert_array_equal(joined.clean, [0, 1, 1, 0])
