"""``intervene`` with ``steering`` and ``iti``: directions from texts, pairs, a probe and a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from layerwise.__main__ import main

TENSE = ("--texts.name", "grammar", "--texts.config", "tense", "--texts.limit", "60")  # of words that it does not
NUMBERS = ("--texts", "numbers", "--texts.limit", "60")  # of words that the tiny tokenizer knows
QUICK = ("--intervention.random", "3", "--intervention.neutral.limit", "4")
STEER = ("intervene", "--intervention", "steering", *QUICK)


def table(client: Any, run: Any, name: str, folder: Path) -> pd.DataFrame:
    return pd.read_parquet(client.download_artifacts(run.info.run_id, f"tables/{name}.parquet", str(folder)))


def test_class_means_are_added_everywhere_and_priced(run_job: Callable[..., Any], client: Any, tmp_path: Path) -> None:
    run = run_job(
        *STEER, *NUMBERS, "--intervention.samples.prompts", '["the dog", "a"]', "--intervention.samples.max_new_tokens", "4",
        "--intervention.strengths", "-3,3",
    )  # fmt: skip
    doses = table(client, run, "doses", tmp_path)
    own = doses[doses["kind"] == "own"]
    assert own.groupby("place").size().to_dict() == {"resid_post.0": 2, "resid_post.1": 2}
    assert (own["low"] <= own["effect"]).all()
    assert (doses["perplexity"] > 1).all()
    best = run.data.tags["layerwise.site"]
    random = doses[doses["kind"] == "random"]
    assert set(random["place"]) == {best}
    assert len(random) == 6
    there = own[own["place"] == best].set_index("strength")["effect"]
    np.testing.assert_allclose(run.data.metrics["slope/effect"], (3 * there[3] - 3 * there[-3]) / 18, atol=1e-6)
    samples = table(client, run, "samples", tmp_path)
    assert sorted(set(samples["strength"])) == [-3, 0, 3]
    assert len(samples) == 6
    figures = {item.path for item in client.list_artifacts(run.info.run_id, "figures")}
    assert {"figures/strengths.html", "figures/strength_by_site_effect.png", "figures/perplexity.png"} <= figures


def test_the_model_that_is_logged_writes_what_was_sampled(
    run_job: Callable[..., Any], client: Any, tmp_path: Path
) -> None:
    from layerwise.tracking.servable_steered import load_steered

    prompts = ["the dog", "a cat sleeps", "she runs and he", "the teacher"]
    strengths = ("--intervention.strengths", "-300,300")
    run = run_job(*STEER, *NUMBERS, "--intervention.samples.prompts", str(prompts), *strengths)
    samples = table(client, run, "samples", tmp_path)
    own = samples[samples["strength"] == 300]["continuation"].tolist()
    assert load_steered(run.data.tags["layerwise.logged_model"]).generate(prompts, max_new_tokens=24) == own
    assert own != samples[samples["strength"] == 0]["continuation"].tolist()


@pytest.mark.parametrize("direction", ["means", "pca"])
def test_pairs_give_the_direction_and_are_asked(run_job: Callable[..., Any], client: Any, direction: str) -> None:
    run = run_job(*STEER, "--pairs", "arithmetic", "--pairs.limit", "20", "--intervention.direction", direction)
    assert run.data.tags["layerwise.dataset"] == "arithmetic"
    roles = [source.tags[0].value for source in client.get_run(run.info.run_id).inputs.dataset_inputs]
    assert sorted(roles) == ["asked", "fitted"]


def test_contrast_pairs_of_texts(run_job: Callable[..., Any]) -> None:
    run = run_job(
        *STEER,
        "--texts",
        "cities",
        "--texts.limit",
        "40",
        "--intervention.direction",
        "pca",
        "--intervention.read",
        "mean",
    )
    assert run.data.tags["layerwise.dataset"] == "cities"


def test_a_probe_and_a_file_give_directions_too(run_job: Callable[..., Any], client: Any, tmp_path: Path) -> None:
    from layerwise.tracking.servable_steered import load_steered

    few = ("--dataset.limit", "120", "--controls.shuffles", "0", "--controls.control_tasks", "0")
    probe = run_job("probe", "--dataset", "cities", *few).info.run_id
    flags = ("--intervention.positions", "part:text", "--intervention.sites", "resid_post.*")
    run = run_job(*STEER, "--intervention.direction", probe, *flags)
    assert run.data.tags["layerwise.probe_run"] == probe
    assert {"curve/slope", "best/curve/slope"} <= set(run.data.metrics)
    width = load_steered(run.data.tags["layerwise.logged_model"]).intervened.model.sites.width
    save_file({"away": torch.randn(width, generator=torch.Generator().manual_seed(0))}, tmp_path / "d.safetensors")
    file = f"{tmp_path / 'd.safetensors'}#away"
    found = run_job(*STEER, *NUMBERS, "--intervention.direction", file, "--intervention.sites", "resid_post.0")
    assert found.data.tags["layerwise.site"] == "resid_post.0"


def test_inference_time_intervention_shifts_the_best_heads(
    run_job: Callable[..., Any], client: Any, tmp_path: Path
) -> None:
    from layerwise.tracking.servable_steered import load_steered

    run = run_job(
        "intervene",
        "--intervention",
        "iti",
        *QUICK,
        *NUMBERS,
        "--intervention.heads",
        "2",
        "--intervention.direction",
        "weights",
    )
    heads = table(client, run, "heads", tmp_path)
    assert heads["chosen"].sum() == 2
    assert heads[heads["chosen"]]["accuracy"].min() >= heads[~heads["chosen"]]["accuracy"].max()
    plan = str(load_steered(run.data.tags["layerwise.logged_model"]).intervened.plan)
    for row in heads[heads["chosen"]].itertuples():
        assert f"z.{row.layer}.{row.head}" in plan
    assert run.data.metrics["slope/p"] in (0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("steering", "--texts", "topics"), "has 8 classes"),
        (("steering", *TENSE), "the same at resid_post.0"),
        (("steering", *TENSE, "--intervention.direction", "pca"), "no contrast pairs"),
        (("steering", *NUMBERS, "--intervention.direction", "gone.safetensors", "--intervention.sites", "resid_post.0"), "no file gone"),
        (("steering", *NUMBERS, "--intervention.direction", "gone.safetensors"), "intervention.sites"),
        (("steering", *NUMBERS, "--intervention.direction", "meens"), "no probe 'meens'"),
        (("steering", *NUMBERS, "--intervention.question.answers", "[' yes', ' yes']"), "two different answers"),
        (("iti",), "labelled texts"),
        (("iti", *NUMBERS, "--intervention.heads", "0"), "at least 1"),
    ],
)  # fmt: skip
def test_mistakes_are_told(
    run_job: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    tiny_model_folder: Path,
    flags: tuple[str, ...],
    message: str,
) -> None:
    assert main(["intervene", "--model", str(tiny_model_folder), "--intervention", *flags]) == 2
    assert message in capsys.readouterr().err
