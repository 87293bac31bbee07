"""``intervene`` with ``intervention: alignment``, on the tiny model and a task of a person's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from layerwise.__main__ import main

TASK = """
from layerwise.interventions.alignment.causal_model import CausalModel, Variable
from layerwise.interventions.alignment.tasks import TextTask

NUMBERS = ("one", "two", "three", "four", "five")


def larger():
    causal = CausalModel([
        Variable("a", values=range(5)), Variable("b", values=range(5)),
        Variable("larger", ("a", "b"), lambda a, b: a > b),
        Variable("answer", ("larger",), lambda larger: larger),
    ])

    def text(setting):
        return f"{NUMBERS[setting['a']]} is larger than {NUMBERS[setting['b']]}", {}

    return TextTask("larger", causal, (True, False), text, {True: " true", False: " false"})
"""
ONCE = ("--intervention.training.epochs", "1")
SMALL = (
    "--intervention.pairs", "8", "--intervention.held_out", "10", "--intervention.known_only", "false",
    "--intervention.training.batch_size", "4",
)  # fmt: skip


@pytest.fixture
def task(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(TASK)
    return f"{path}:larger"


def artifact(run: Any, name: str, database: str) -> str:
    return mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/{name}", tracking_uri=database)


def test_a_grid_leaves_map_curves_graph_and_the_best_plan(
    run_job: Callable[..., Any], task: str, database: str, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_job(
        "intervene", "--intervention", "alignment", "--intervention.task", task, *SMALL, *ONCE, "--intervention.positions", "last,-3",
    )  # fmt: skip
    table = pd.read_parquet(artifact(run, "tables/alignment.parquet", database))
    assert len(table) == 4
    assert set(table["layer"]) == {0, 1}
    assert table["control"].notna().all()
    figures = {item.path for item in client.list_artifacts(run.info.run_id, "figures")}
    for name in (
        "causal_model",
        "alignment_map_larger_resid_post",
        "alignment_curve_larger_resid_post",
        "alignment_training",
    ):
        assert {f"figures/{name}.html", f"figures/{name}.png"} <= figures
    assert run.data.metrics["best/interchange_intervention_accuracy"] == pytest.approx(table["accuracy"].max())
    assert "held_out/accuracy_larger_resid_post_last" in run.data.metrics
    assert {item.path for item in client.list_artifacts(run.info.run_id, "best_plan")} == {
        "best_plan/plan.json", "best_plan/tensors.safetensors",
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "interchange intervention accuracy, held out:" in said
    assert "with nothing exchanged 50.0% would be right" in said


def test_joined_tokens_and_voting_places(run_job: Callable[..., Any], task: str, database: str, client: Any) -> None:
    settings = (
        "--intervention", "alignment", "--intervention.task", task, *SMALL, *ONCE, "--intervention.sites", "resid_post.0"
    )  # fmt: skip
    joined = run_job("intervene", *settings, "--intervention.joint", "tokens", "--intervention.positions", "2-4")
    figures = {item.path for item in client.list_artifacts(joined.info.run_id, "figures")}
    assert "figures/basis_tokens_resid_post.0.png" in figures
    assert "2: is" in Path(artifact(joined, "figures/basis_tokens_resid_post.0.html", database)).read_text()
    voting = run_job("intervene", *settings, "--intervention.joint", "places", "--intervention.positions", "last,-3")
    table = pd.read_parquet(artifact(voting, "tables/alignment.parquet", database))
    assert table["place"].str.endswith("alone").tolist() == [False, True, True]


@pytest.mark.parametrize("method", ["interchange", "low_rank"])
def test_the_model_itself_is_trained_if_asked_and_set_beside_what_it_was(
    method: str, run_job: Callable[..., Any], task: str, database: str
) -> None:
    run = run_job(
        "intervene", "--intervention", "alignment", "--intervention.task", task, *SMALL, "--intervention.sites", "resid_post.0",
        "--intervention.method", method, "--intervention.size", "8", "--intervention.train_model", "true",
        "--intervention.training.epochs", "30", "--intervention.training.learning_rate", "0.003",
    )  # fmt: skip
    row = pd.read_parquet(artifact(run, "tables/alignment.parquet", database)).iloc[0]
    # Nothing of what is looked for is in random weights; a model that learned the pairs answers half of them, or more.
    assert run.data.metrics["held_out/task_accuracy_trained"] > run.data.metrics["held_out/task_accuracy"]
    assert row["accuracy"] > row["before"]


@pytest.mark.parametrize(
    ("name", "variables", "positions"),
    [("price_tagging", ["above", "below"], "part:amount"), ("arithmetic", ["a+b"], "part:plus")],
)
def test_a_task_in_words_trains_a_network_of_its_own(
    run_job: Callable[..., Any],
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    variables: list[str],
    positions: str,
) -> None:
    from layerwise.interventions.alignment import networks

    monkeypatch.setattr(networks, "WORD_EXAMPLES", 200)
    monkeypatch.setattr(networks, "WORD_STEPS", 10)
    run = run_job(
        "intervene", "--model", "null", "--intervention", "alignment", "--intervention.task", name, *SMALL, *ONCE,
        "--intervention.sites", "resid_post.0-1", "--intervention.positions", positions, model=False,
    )  # fmt: skip
    table = pd.read_parquet(artifact(run, "tables/alignment.parquet", database))
    assert table["variables"].unique().tolist() == variables
    assert table["layer"].tolist() == [0, 1] * len(variables)
    drawn = pd.read_parquet(
        artifact(run, f"tables/counterfactuals_{'a_b' if name == 'arithmetic' else 'below'}.parquet", database)
    )
    assert set(drawn["role"]) == {"train", "test"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--intervention.task", "agreemnt"), "agreement"),
        (("--intervention.task", "hierarchical_equality"), "model: null"),
        (("--intervention.variables", "numbers"), "number"),
        (("--intervention.sites", "resid_post.7"), "resid_post"),
        (("--intervention.method", "mask", "--intervention.together", "true"), "share a basis only"),
        (("--intervention.task", "price_tagging", "--intervention.train_model", "true"), "together: true"),
    ],
)
def test_what_cannot_be_aligned(
    flags: tuple[str, ...],
    message: str,
    tiny_model_folder: Path,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    code = main(["intervene", "--model", str(tiny_model_folder), "--intervention", "alignment", *SMALL, *flags])
    said = capsys.readouterr().err
    assert code == 2
    assert message in said
    assert "Traceback" not in said
