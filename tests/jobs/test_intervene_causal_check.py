"""``intervene`` with ``causal_check`` on a probe that ``probe`` made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from layerwise.__main__ import main

QUICK = ("--controls.shuffles", "0", "--controls.control_tasks", "0", "--dataset.limit", "120")
CHECK = ("--intervention", "causal_check", "--intervention.limit", "12", "--intervention.random", "3")


def made(run_job: Callable[..., Any], client: Any, *flags: str) -> str:
    """The run id of a probe of cities; made once a module, and found again after that."""
    run_job("probe", "--dataset", "cities", *QUICK, *flags)
    wanted = f"tags.`layerwise.job` = 'probe' and tags.`layerwise.classifier` = '{flags[1]}'"
    return str(client.search_runs(["0"], wanted)[0].info.run_id)


@pytest.fixture
def probe(run_job: Callable[..., Any], client: Any) -> str:
    return made(run_job, client, "--probe", "mass_mean")


def table(client: Any, run: Any, name: str, folder: Path) -> pd.DataFrame:
    return pd.read_parquet(client.download_artifacts(run.info.run_id, f"tables/{name}.parquet", str(folder)))


def test_the_check_is_joined_to_its_probe_and_says_what_random_directions_do(
    probe: str, run_job: Callable[..., Any], client: Any, tmp_path: Path
) -> None:
    run = run_job("intervene", *CHECK, "--intervention.probe", probe)
    assert run.data.tags["layerwise.probe_run"] == probe
    [logged] = [output.model_id for output in client.get_run(probe).outputs.model_outputs]
    assert logged in [source.model_id for source in client.get_run(run.info.run_id).inputs.model_inputs]
    doses = table(client, run, "doses", tmp_path)
    assert doses["kind"].value_counts().to_dict() == {"own": 5, "sphere": 15, "activations": 15}
    texts = table(client, run, "prompts", tmp_path)
    own = doses[(doses["kind"] == "own") & (doses["strength"] == 4)]["effect"].item()
    np.testing.assert_allclose((texts["strength_4"] - texts["clean"]).mean(), own, atol=1e-5)
    assert all(text.endswith(". This statement is") for text in texts["text"])
    fitted = set(table(client, client.get_run(probe), "test_predictions", tmp_path)["text"])
    assert {text.removesuffix(" This statement is") for text in texts["text"]} <= fitted  # all held out
    for name in ("added", "removed"):
        low, middle, high = (run.data.metrics[f"{name}/{end}"] for end in ("effect_low", "effect", "effect_high"))
        assert low <= middle <= high
        assert run.data.metrics[f"{name}/p_sphere"] in (0.25, 0.5, 0.75, 1.0)
    means = texts.groupby("label")[["clean", "removed"]].mean()
    closer = (means.loc[1] - means.loc[0]) @ [1, -1]
    np.testing.assert_allclose(run.data.metrics["closed/effect"], closer, atol=1e-5)
    figures = {item.path for item in client.list_artifacts(run.info.run_id, "figures")}
    assert {"figures/dose_response.html", "figures/projected_out.png", "figures/classes.html"} <= figures


def test_it_acts_on_the_words_that_a_probe_of_spans_reads(
    run_job: Callable[..., Any], client: Any, tmp_path: Path
) -> None:
    reads = made(run_job, client, "--probe", "ridge", "--poolers", "span")
    flags = ("--intervention.probe", reads, "--intervention.question.prompt", "He says: {text} Yes or no?")
    run = run_job("intervene", *CHECK, *flags)
    summary = Path(client.download_artifacts(run.info.run_id, "summary.txt", str(tmp_path))).read_text()
    assert "acted on at part:span" in summary
    assert "false: " in summary
    assert "the classes come closer by" in summary


def test_pairs_take_the_place_of_the_question(probe: str, run_job: Callable[..., Any], client: Any) -> None:
    run = run_job(
        "intervene", *CHECK[:2], "--intervention.random", "2", "--intervention.question", "null", "--pairs", "agreement", "--pairs.limit", "6",
        "--intervention.positions", "part:subject", "--intervention.vector", "means", "--metric", "kl", "--intervention.control", "sphere",
    )  # fmt: skip
    assert run.data.metrics["clean/kl"] == pytest.approx(0, abs=1e-5)
    assert run.data.metrics["removed/effect"] > 0
    assert run.data.tags["layerwise.dataset"] == "agreement"


def test_a_probe_of_a_search_is_checked_on_what_the_search_held_out(
    run_job: Callable[..., Any], client: Any, tmp_path: Path, tiny_model_folder: Path
) -> None:
    study = run_job(
        "search", "--base.model", str(tiny_model_folder), "--base.dataset.name", "cities", "--base.dataset.limit", "100",
        "--base.controls.shuffles", "0", "--base.controls.control_tasks", "0", "--space.probe", "[ridge]", "--space.sites", "[resid_post.1]",
        "--budget.trials", "1", model=False,
    )  # fmt: skip
    # What is written behind the last block at one token is read by no other.
    parent = client.search_runs(["0"], "tags.`layerwise.job` = 'search' and tags.`layerwise.logged_probe` LIKE '%'")[0]
    run = run_job(
        "intervene",
        *CHECK,
        "--intervention.probe",
        "latest",
        "--intervention.vector",
        "pattern",
        "--model",
        "null",
        model=False,
    )
    assert study is not None
    assert run.data.tags["layerwise.probe_run"] == parent.info.run_id
    assert run.data.tags["layerwise.vector"] == "pattern"
    assert run.data.metrics["added/effect"] == 0
    assert (
        "no later token sees"
        in Path(client.download_artifacts(run.info.run_id, "summary.txt", str(tmp_path))).read_text()
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--intervention.probe", "nothing"), "no probe 'nothing'"),
        (("--intervention.strengths", "0,1"), "none of them 0"),
        (("--intervention.question.prompt", "Is it?"), "holds {text} once"),
        (("--intervention.positions", "part:country"), "country"),
        (("--intervention.question", "null"), "say which of their tokens"),
        (("--metric", "logit_diference"), "logit_difference"),
    ],
)
def test_mistakes_are_told(
    probe: str, run_job: Callable[..., Any], capsys: pytest.CaptureFixture[str], tiny_model_folder: Path,
    flags: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    named = () if flags[0].endswith(".probe") else ("--intervention.probe", probe)
    assert main(["intervene", "--model", str(tiny_model_folder), *CHECK, *named, *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_probe_without_a_direction_is_refused(
    run_job: Callable[..., Any], client: Any, capsys: pytest.CaptureFixture[str], tiny_model_folder: Path
) -> None:
    forest = made(run_job, client, "--probe", "random_forest", "--poolers", "max")
    assert main(["intervene", "--model", str(tiny_model_folder), *CHECK, "--intervention.probe", forest]) == 2
    assert "no weights that are a direction" in capsys.readouterr().err
