"""A model that is what it was passes; each thing that may have changed is found, and named."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import torch

from layerwise.models.loading import load_model
from layerwise.models.model import LanguageModel
from layerwise.training.inspection.perplexity import perplexity
from layerwise.training.inspection.stability import check_stability
from tests.models.families import build


def loss(model: LanguageModel) -> float:
    return perplexity(model, ["the city of paris is in france ."]).cross_entropy


def failed(stability) -> list[str]:  # type: ignore[no-untyped-def]
    return [check.name for check in stability.checks if not check.passed]


def test_a_model_that_loads_as_it_was(tiny_model_folder: Path) -> None:
    logged = loss(load_model(str(tiny_model_folder)))
    found = check_stability(lambda: load_model(str(tiny_model_folder)), loss, logged)
    assert found.passed, str(found)
    assert len(found.table()) == 7
    assert str(found).count("ok ") == 7


def test_another_loss_than_was_logged(tiny_model_folder: Path) -> None:
    logged = loss(load_model(str(tiny_model_folder)))
    load = lambda: load_model(str(tiny_model_folder))  # noqa: E731
    assert failed(check_stability(load, loss, logged + 1e-3)) == ["the loss is the one that was logged"]
    assert check_stability(load, loss, logged + 1e-3, tolerance=1e-2).passed


def test_weights_that_differ_from_load_to_load(tiny_model_folder: Path) -> None:
    count = itertools.count()

    def load() -> LanguageModel:
        model = load_model(str(tiny_model_folder))
        with torch.no_grad():
            model.module.lm_head.weight[5] += 0.1 * next(count)
        return model

    assert failed(check_stability(load)) == ["two loads have equal weights", "two loads give equal logits"]


def test_dropout_that_is_still_on() -> None:
    def load() -> LanguageModel:
        return LanguageModel(copy.deepcopy(build("gpt2")).train(), None, "gpt2")

    found = failed(check_stability(load))
    assert "in evaluation mode, before and after" in found
    assert "the same input gives equal logits again" in found
