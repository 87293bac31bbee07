"""``search`` from the command line to the tracking server: the study, its trials, its winner, and what happens the second time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from layerwise.__main__ import main

BASE = (
    "--base.dataset", '{"name": "grammar", "config": "tense", "limit": 120}', "--base.evaluation.folds", "3",
    "--base.controls.shuffles", "2", "--base.controls.control_tasks", "2",
)  # fmt: skip
SPACE = ("--space.sites", "resid_post.*", "--space.poolers", "last,mean", "--space.probe", "ridge,lda,mass_mean")


@pytest.fixture
def search(run_job: Callable[..., Any], client: Any, tiny_model_folder: Path) -> Callable[..., Any]:
    """``search(*flags)`` runs a search on the tiny model and returns the study's run."""

    def run(*flags: str, model: bool = True) -> Any:
        named = ("--base.model", str(tiny_model_folder)) if model else ()
        run_job("search", *named, *flags, model=False)
        found = client.search_runs(
            ["0"], "tags.`layerwise.job` = 'search'", order_by=["attributes.end_time DESC"], max_results=1
        )
        return found[0]

    return run


def children(client: Any, run: Any) -> list[Any]:
    return list(client.search_runs(["0"], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'", max_results=1000))


def table(client: Any, run: Any, name: str, tmp_path: Path) -> pd.DataFrame:
    return pd.read_parquet(client.download_artifacts(run.info.run_id, f"tables/{name}.parquet", str(tmp_path)))


def test_a_study_with_its_trials_its_winner_and_its_pictures(
    search: Callable[..., Any], client: Any, tmp_path: Path
) -> None:
    run = search(*BASE, *SPACE, "--study", "first", "--selection.register", "tense-probe")
    metrics, tags = run.data.metrics, run.data.tags
    assert run.info.status == "FINISHED"
    assert metrics["trials/complete"] == 12
    trials = children(client, run)
    assert len(trials) == 12
    assert {trial.info.status for trial in trials} == {"FINISHED"}
    scores = {trial.info.run_id: trial.data.metrics["cv/accuracy"] for trial in trials}
    assert metrics["best/cv/accuracy"] == max(scores.values()) == scores[tags["layerwise.winner_run"]]
    assert metrics["search/optimism"] == pytest.approx(metrics["best/cv/accuracy"] - metrics["test/accuracy"])
    assert {"test/accuracy_low", "control/selectivity", "control/shuffled", "baseline/bag_of_words"} <= metrics.keys()
    assert tags["layerwise.study"] == "first"
    assert tags["layerwise.searched"] == "probe"
    one = trials[0]
    assert one.data.tags["layerwise.study_run"] == run.info.run_id
    assert {
        "layerwise.site",
        "layerwise.pooler",
        "layerwise.classifier",
        "layerwise.data_digest",
    } <= one.data.tags.keys()
    assert len(client.get_metric_history(one.info.run_id, "fold/accuracy")) == 3
    assert {"cv/accuracy_low", "cv/accuracy_high", "layer", "cv/log_loss"} <= one.data.metrics.keys()
    assert one.data.params["evaluation.folds"] == "3"
    found = table(client, run, "trials", tmp_path)
    assert found["slot"].tolist() == list(range(12))
    assert found.set_index("run_id")["value"].to_dict() == scores
    figures = {Path(item.path).name for item in client.list_artifacts(run.info.run_id, "figures")}
    assert {
        "history.html", "slices.html", "parallel_coordinates.html", "timeline.html", "importance_all.html",
        "layer_by_pooler.html", "layer_by_classifier.html",
    } <= figures  # fmt: skip
    version = client.get_model_version_by_alias("tense-probe", "winner")
    assert version.run_id == run.info.run_id
    assert {
        "layerwise.study",
        "layerwise.trial",
        "layerwise.data_digest",
        "layerwise.model_fingerprint",
        "layerwise.store",
    } <= version.tags.keys()


def test_a_trial_runs_again_alone_with_the_same_numbers(search: Callable[..., Any], client: Any) -> None:
    run = search(*BASE, *SPACE, "--study", "again")
    for trial in children(client, run)[:4]:
        assert main(["probe", "--from_run", trial.info.run_id]) == 0
        alone = client.search_runs(["0"], order_by=["attributes.start_time DESC"], max_results=1)[0]
        assert alone.data.tags["layerwise.job"] == "probe"
        same = {name for name in trial.data.metrics if name.startswith("cv/") and not name.endswith(("_low", "_high"))}
        assert len(same) > 5
        for name in same:
            assert alone.data.metrics[name] == pytest.approx(trial.data.metrics[name], abs=1e-7), name


def test_the_same_command_reuses_and_the_same_name_resumes(
    search: Callable[..., Any], client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (*BASE, *SPACE, "--study", "resumed", "--sampler", "random")
    first = search(*command, "--budget", "5")
    assert len(children(client, first)) == 5
    assert search(*command, "--budget", "5").info.run_id == first.info.run_id
    assert "already done" in capsys.readouterr().out
    longer = search(*command, "--budget", "9")
    assert longer.info.run_id == first.info.run_id
    trials = children(client, longer)
    assert len(trials) == 9
    assert len({(t.data.params["sites"], t.data.params["poolers"], t.data.params["probe.kind"]) for t in trials}) == 9
    assert longer.data.metrics["trials/complete"] == 9


def test_another_space_under_an_old_name_is_refused(
    search: Callable[..., Any], tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(*BASE, *SPACE, "--study", "taken")
    other = ("--space.sites", "resid_post.0", "--space.probe", "ridge,lda")
    assert main(["search", "--base.model", str(tiny_model_folder), *BASE, *other, "--study", "taken"]) == 2
    error = capsys.readouterr().err
    assert "the study 'taken' exists and was about something else: space was" in error
    changed = [*BASE, "--base.dataset.limit", "100"]
    assert main(["search", "--base.model", str(tiny_model_folder), *changed, *SPACE, "--study", "taken"]) == 2
    assert "data was" in capsys.readouterr().err


def test_models_and_datasets_are_studies_of_their_own(
    run_job: Callable[..., Any], client: Any, tiny_model_folder: Path, tmp_path: Path
) -> None:
    datasets = (
        '[{"name": "grammar", "config": "tense", "limit": 80}, {"name": "grammar", "config": "number", "limit": 80}]'
    )
    run_job(
        "search", "--models", str(tiny_model_folder), "--datasets", datasets, *BASE[2:], "--space.sites", "resid_post.*",
        "--space.probe", "ridge,lda", "--study", "pairs", model=False,
    )  # fmt: skip
    [top] = client.search_runs(["0"], "tags.`layerwise.studies` = '2'")
    studies = children(client, top)
    assert len(studies) == 2
    assert {study.info.status for study in studies} == {"FINISHED"}
    assert all(len(children(client, study)) == 4 for study in studies)
    winners = table(client, top, "winners", tmp_path)
    assert set(winners["run_id"]) == {study.info.run_id for study in studies}
    assert {"model", "dataset", "site", "classifier", "value", "test", "test_low", "optimism"} <= set(winners.columns)


def test_bad_folds_are_pruned_and_their_runs_are_killed(search: Callable[..., Any], client: Any) -> None:
    run = search(
        *BASE, "--space.sites", "resid_post.*", "--space.poolers", "last,mean,max,first", "--space.probe", "ridge,mass_mean,knn,lda",
        "--pruner.name", "threshold", "--pruner.arguments.lower", "0.46", "--study", "pruned",
    )  # fmt: skip
    trials = children(client, run)
    states = {trial.info.status for trial in trials}
    assert len(trials) == 32
    assert states == {"FINISHED", "KILLED"}
    killed = [trial for trial in trials if trial.info.status == "KILLED"]
    assert run.data.metrics["trials/pruned"] == len(killed)
    assert all(
        len(client.get_metric_history(trial.info.run_id, "fold/accuracy")) < 3
        or trial.data.metrics.get("cv/accuracy") is None
        for trial in killed
    )


def test_adaptive_samplers_try_no_point_twice(search: Callable[..., Any], client: Any) -> None:
    run = search(*BASE, *SPACE, "--study", "adaptive", "--budget", "11")
    trials = children(client, run)
    assert len({(t.data.params["sites"], t.data.params["poolers"], t.data.params["probe.kind"]) for t in trials}) == 11


def test_several_objectives_constraints_and_repeats(search: Callable[..., Any], client: Any) -> None:
    run = search(
        *BASE, *SPACE, "--objectives", "cv/accuracy,layer", "--constraints", "layer >= 1", "--budget.repeats", "2", "--study", "several",
    )  # fmt: skip
    assert run.data.tags["layerwise.site"] == "resid_post.1"
    trial = children(client, run)[0]
    assert len(client.get_metric_history(trial.info.run_id, "repeat/accuracy")) == 2
    figures = {Path(item.path).name for item in client.list_artifacts(run.info.run_id, "figures")}
    assert "pareto_front.html" in figures


def test_the_one_standard_error_rule_takes_the_earlier_layer(
    search: Callable[..., Any], client: Any, tmp_path: Path
) -> None:
    run = search(*BASE, *SPACE, "--study", "simpler", "--selection", "one_standard_error")
    found = table(client, run, "trials", tmp_path)
    winner = found[found["run_id"] == run.data.tags["layerwise.winner_run"]].iloc[0]
    best = found.loc[found["value"].idxmax()]
    folds = [point.value for point in client.get_metric_history(best["run_id"], "fold/accuracy")]
    error = pd.Series(folds).std() / len(folds) ** 0.5
    alike = found[found["value"] >= best["value"] - error - 1e-12]
    assert winner["layer"] == alike["layer"].min()
    assert winner["run_id"] in set(alike["run_id"])


def test_a_quantile_of_any_share_is_pooled_from_tokens_and_the_model_runs_once(
    search: Callable[..., Any], client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = search(
        *BASE, "--space.sites", "resid_post.*", "--space.poolers", '["last", {"kind": "quantile", "q": {"low": 0.0, "high": 1.0}}]',
        "--space.probe", "ridge", "--budget", "6", "--study", "quantiles", "--sampler", "random",
    )  # fmt: skip
    trials = children(client, run)
    assert any(trial.data.tags["layerwise.pooler"].startswith("quantile:") for trial in trials)
    capsys.readouterr()
    for trial in trials[:3]:
        assert main(["probe", "--from_run", trial.info.run_id]) == 0
        alone = client.search_runs(["0"], order_by=["attributes.start_time DESC"], max_results=1)[0]
        assert alone.data.metrics["cv/accuracy"] == pytest.approx(trial.data.metrics["cv/accuracy"])


def test_any_job_is_searched_by_running_it(search: Callable[..., Any], client: Any) -> None:
    run = search(
        "--job", "online", "--base.dataset", '{"name": "grammar", "config": "tense", "limit": 80}', "--space.sites", "resid_post.0,resid_post.1",
        "--objectives", "max test/accuracy", "--study", "online",
    )  # fmt: skip
    trials = children(client, run)
    assert len(trials) == 2
    assert all(trial.data.tags["layerwise.job"] == "online" for trial in trials)
    assert run.data.metrics["best/test/accuracy"] == max(trial.data.metrics["test/accuracy"] for trial in trials)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--space.model.name", "a,b"), "models and datasets are compared in studies of their own"),
        (("--space.evaluation.folds", "3,5"), "all trials of a study share it"),
        (("--space.probe", "rigde,lda"), "unknown probe 'rigde'. Did you mean 'ridge'?"),
        (("--space.sites", "resid_post.7"), "resid_post.7"),
        (("--job", "serach"), "unknown job to search 'serach'"),
        (("--sampler", "tpee"), "unknown sampler 'tpee'. Did you mean 'tpe'?"),
        (("--pruner", "medain"), "unknown pruner 'medain'. Did you mean 'median'?"),
        (("--sampler.arguments.n_startup", "3", "--sampler", "tpe"), "unknown argument of the sampler tpe 'n_startup'"),
        (("--objectives", "cv/acuracy"), "is more or less of cv/acuracy better?"),
        (("--constraints", "layer=3"), "constraints: cannot read 'layer=3'"),
        (("--budget", "0"), "budget.trials must be above 0"),
        (("--study.storage", "mysql://localhost/x"), "studies live in sqlite or PostgreSQL"),
        (("--study.storage", "/no/such/folder/studies.db"), "there is no folder"),
        (("--sampler", "grid", "--budget", "3"), "the grid has 12 points, the budget 3 trials"),
    ],
)
def test_mistakes_are_told_before_the_first_trial(
    flags: tuple[str, ...],
    message: str,
    run_job: Any,
    tiny_model_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Any,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {name for name in flags if name.startswith("--")}
    rest = [item for pair in zip(SPACE[::2], SPACE[1::2], strict=True) if pair[0] not in given for item in pair]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert main(["search", "--base.model", str(tiny_model_folder), *BASE, *rest, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) <= 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--space.score", "option,statement"), "The base is a whole config of compare"),
        (
            ("--base.models", "a,b", "--space.score", "option,statement", "--space.probe", "resid_post.*"),
            "compare has no field model whose sites it could mean",
        ),
    ],
)
def test_what_a_search_of_another_job_lacks(
    flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    objective = ("--objectives", "min pair/agreement")
    assert main(["search", "--job", "compare", "--base.items", "topics", *objective, *flags]) == 2
    assert message in capsys.readouterr().err
