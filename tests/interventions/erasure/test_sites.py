"""Erasers in a model: fitted in turn to what earlier ones leave, equal in forwards, kept passes and plans."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from contract import batch_of
from families import build
from torch import Tensor

from layerwise.interventions.erasure.eraser import fit_eraser, leace
from layerwise.interventions.erasure.sites import Labelled, as_changes, as_plan, erasing, fit_sites
from layerwise.interventions.patching import last_columns
from layerwise.interventions.prompts import Prompts
from layerwise.interventions.side_by_side import read_batch, run_changed
from layerwise.models.model import LanguageModel
from layerwise.models.taps import run

SITES = ["resid_post.0", "resid_post.1"]


@pytest.fixture(scope="module", params=["llama", "gpt2", "mamba"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return LanguageModel(build(request.param), None, request.param)


def texts(model: LanguageModel, last: bool) -> list[Labelled]:
    found = []
    for number in range(3):
        batch = batch_of(model, *(5 + number + (row % 3) for row in range(12)))
        columns = torch.arange(batch.mask.shape[1])
        where = columns == last_columns(batch)[:, None] if last else batch.mask
        found.append(Labelled(batch, torch.arange(12) % 2, where))
    return found


def rows(model: LanguageModel, given: list[Labelled], site: str, erasers: dict) -> tuple[Tensor, Tensor]:
    parts = [run(model, one.batch, {site: None}, erasing(erasers, one.where))[site][one.where] for one in given]
    labels = torch.cat([one.labels.repeat_interleave(one.where.sum(1)) for one in given])
    return torch.cat(parts).double(), labels


@pytest.mark.parametrize("last", [True, False])
def test_after_each_site_nothing_covaries_with_the_labels(model: LanguageModel, last: bool) -> None:
    given = texts(model, last)
    erasers = fit_sites(model, given, SITES[::-1], leace)
    assert list(erasers) == SITES
    for site in SITES:
        values, labels = rows(model, given, site, erasers)
        means = [values[labels == label].mean(0) for label in (0, 1)]
        spread = values.std(0).mean()
        assert (means[0] - means[1]).abs().max() < 1e-4 * spread


def test_each_is_fitted_to_what_the_earlier_ones_leave(model: LanguageModel) -> None:
    given = texts(model, last=False)
    erasers = fit_sites(model, given, SITES, leace)
    values, labels = rows(model, given, SITES[1], {SITES[0]: erasers[SITES[0]]})
    want = leace(values, labels)
    torch.testing.assert_close(erasers[SITES[1]](values), want(values), atol=1e-4, rtol=1e-3)


def test_sites_of_one_layer_come_in_turn() -> None:
    model = LanguageModel(build("llama"), None, "llama")
    given = texts(model, last=False)
    erasers = fit_sites(model, given, ["mlp_out.1", "z.1"], partial(fit_eraser, "mean_projection"))
    assert set(erasers) == {"mlp_out.1", "z.1"}
    for one in given[:1]:
        found = run(model, one.batch, {"z.1": None}, erasing(erasers, one.where))["z.1"]
        assert found.dim() == 4


@pytest.mark.parametrize("method", ["leace", "random"])
def test_a_kept_pass_and_a_plan_do_the_same(model: LanguageModel, method: str) -> None:
    given = texts(model, last=False)[0]
    erasers = fit_sites(model, [given], SITES, partial(fit_eraser, method))
    ends = last_columns(given.batch)
    logits = run(model, given.batch, writes=erasing(erasers, given.where), logits=True)["logits"]
    rows = torch.arange(len(ends))
    rerun = read_batch(model, given.batch, "log_probability", torch.full((12,), 3))
    want = logits[rows, ends].log_softmax(-1)[:, 3]
    np.testing.assert_allclose(run_changed(rerun, as_changes(erasers), 1)[0], want.numpy(), atol=1e-4)
    outcome = as_plan(model, erasers)(Prompts(given.batch))
    torch.testing.assert_close(outcome.logits[rows, ends], logits[rows, ends], atol=1e-4, rtol=1e-3)
