"""``inspect`` on the tiny model, and on one that ``train`` made: what it records is what the model does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from layerwise.__main__ import main
from layerwise.models.loading import load_model
from layerwise.training.inspection.perplexity import perplexity

PROMPT = "the city of paris is in"
SMALL = (
    "--model.n_layers", "2", "--model.width", "16", "--model.n_heads", "2", "--data.options", "{max_length: 3, letters: 4}",
    "--data.train", "200", "--data.validation", "40", "--data.test", "0", "--context", "12", "--training.steps", "20",
    "--training.batch_size", "16", "--evaluation.every", "10", "--checkpoints.every", "10", "--evaluation.answers", "4",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(database: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of a run of ``train`` with three models: two checkpoints and what came of it."""
    import mlflow

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("training"))
        patch.setenv("MLFLOW_TRACKING_URI", database)
        assert main(["train", *SMALL]) == 0
    [run] = mlflow.MlflowClient(database).search_runs(["0"], "tags.`layerwise.job` = 'train'")
    found: str = run.info.run_id
    return found


def table(client: Any, run: Any, name: str, folder: Path) -> pd.DataFrame:
    return pd.read_parquet(client.download_artifacts(run.info.run_id, f"tables/{name}.parquet", str(folder)))


def artifacts(client: Any, run: Any, folder: str | None = None) -> set[str]:
    return {Path(item.path).name for item in client.list_artifacts(run.info.run_id, folder)}


def test_prompts(run_job: Callable[..., Any], client: Any, tmp_path: Path) -> None:
    run = run_job(
        "inspect", "--prompts", f'["{PROMPT}", "a dog <b>"]', "--sampling", "{max_new_tokens: 5, samples: 3, top_k: 4}",
        "--next_tokens", "7", "--embeddings", "embed,resid_post.*", "--attention", "pattern.1",
    )  # fmt: skip
    samples = table(client, run, "samples", tmp_path)
    assert samples["prompt"].tolist() == [PROMPT] * 3 + ["a dog <b>"] * 3
    assert (samples["tokens"] <= 5).all()
    assert (samples["log_p"] < 0).all()
    expected = table(client, run, "next_tokens", tmp_path)
    assert expected.groupby("prompt").size().tolist() == [7, 7]
    assert table(client, run, "attention", tmp_path)["site"].tolist() == [f"pattern.1.{head}" for head in range(4)]
    lens = table(client, run, "logit_lens", tmp_path)
    assert set(lens["site"]) == {"resid_post.0", "resid_post.1"}
    last = lens[(lens["site"] == "resid_post.1") & (lens["position"] == lens["position"].max())].iloc[0]
    assert last["top"][0] == expected["token"].iloc[0]
    assert last["p"][0] == pytest.approx(expected["p"].iloc[0], rel=1e-4)
    vectors = load_file(client.download_artifacts(run.info.run_id, "embeddings.safetensors", str(tmp_path)))
    assert vectors["resid_post.1"].shape == (len(vectors["text"]), 16)
    assert {"attention.html", "attention.png", "logit_lens.html", "logit_lens_kl.png"} <= artifacts(
        client, run, "figures"
    )
    page = Path(client.download_artifacts(run.info.run_id, "prompts.html", str(tmp_path))).read_text()
    assert "<b>" not in page.replace("&lt;b&gt;", "").partition("<body>")[2]
    assert "http" not in page.replace("http-equiv", "")


def test_texts(run_job: Callable[..., Any], client: Any, tmp_path: Path, tiny_model_folder: Path) -> None:
    run = run_job("inspect", "--texts.name", "topics", "--texts.limit", "12", "--token_budget", "40")
    by_text, tokens = table(client, run, "texts", tmp_path), table(client, run, "tokens", tmp_path)
    found = perplexity(load_model(str(tiny_model_folder)), by_text["content"].tolist())
    metrics = run.data.metrics
    assert metrics["text/cross_entropy"] == pytest.approx(found.cross_entropy, abs=1e-6)
    assert metrics["text/perplexity"] == pytest.approx(np.exp(-tokens["log_p"].mean()), rel=1e-6)
    assert metrics["text/perplexity_max"] == pytest.approx(by_text["perplexity"].max(), rel=1e-6)
    assert run.inputs.dataset_inputs
    assert "tokens.html" in artifacts(client, run)
    assert "prompts.html" not in artifacts(client, run)


def test_heads(run_job: Callable[..., Any], client: Any, tmp_path: Path) -> None:
    run = run_job("inspect", "--heads", "{length: 6, sequences: 2}")
    scores = table(client, run, "heads", tmp_path)
    assert len(scores) == 8
    assert run.data.metrics["heads/induction"] == pytest.approx(scores["induction"].max())
    assert "heads_induction.html" in artifacts(client, run, "figures")


def test_a_model_of_a_run_and_its_checkpoints(
    trained: str, run_job: Callable[..., Any], client: Any, tmp_path: Path
) -> None:
    run = run_job(
        "inspect", "--model", f"runs:/{trained}", "--prompts", "abc>", "--follow", "pattern.1.0", "--heads",
        "{length: 4, sequences: 3}", "--sampling", "null", "--stability", "--plots", "[{metrics: ['val/*']}]",
        "--attention", "pattern.1.0", model=False,
    )  # fmt: skip
    steps = table(client, run, "head_by_checkpoint", tmp_path)
    assert steps["step"].tolist() == [10, 20]
    alone = run_job(
        "inspect", "--model", f"runs:/{trained}/checkpoint-10", "--heads", "{length: 4, sequences: 3}", model=False
    )  # fmt: skip
    heads = table(client, alone, "heads", tmp_path).set_index(["layer", "head"])
    assert steps["induction"][0] == pytest.approx(heads.loc[(1, 0), "induction"], abs=1e-6)
    checks = table(client, run, "stability", tmp_path)
    assert checks["passed"].all(), checks.to_string()
    assert "the loss is the one that was logged" in checks["check"].tolist()
    curves = table(client, run, "metrics", tmp_path)
    history = client.get_metric_history(trained, "val/loss")
    loss = curves[curves["metric"] == "val/loss"]
    assert dict(zip(loss["step"], loss["value"], strict=True)) == {
        one.step: one.value for one in history if not one.model_id
    }
    figures = artifacts(client, run, "figures")
    assert {"head_by_checkpoint.html", "head_scores_by_checkpoint.png", "metrics.html", "attention.html"} <= figures


def test_a_checkpoint_has_its_own_validation_loss(
    trained: str, run_job: Callable[..., Any], client: Any, tmp_path: Path
) -> None:
    run = run_job("inspect", "--model", f"runs:/{trained}/checkpoint-10", "--stability", model=False)
    checks = table(client, run, "stability", tmp_path).set_index("check")
    at_10 = next(one.value for one in client.get_metric_history(trained, "val/loss") if one.step == 10)
    assert checks.loc["the loss is the one that was logged", "found"].endswith(f"logged {at_10:.6f}")
    assert run.data.metrics["stability/passed"] == 1


def test_curves_of_runs_need_no_model(trained: str, run_job: Callable[..., Any], client: Any, tmp_path: Path) -> None:
    plots = f"[{{metrics: [val/loss, train/loss], runs: [{trained}], x: progress/samples, y_scale: log}}, {{metrics: [val/accuracy], filter: 'job=train', x: time}}]"
    run = run_job("inspect", "--plots", plots, model=False)
    by_samples = table(client, run, "metrics_1", tmp_path)
    assert set(by_samples["metric"]) == {"val/loss", "train/loss"}
    assert (by_samples["x"] == by_samples["step"] * 16).all()
    assert table(client, run, "metrics_2", tmp_path)["x"].iloc[0] >= 0
    assert {"metrics_1.png", "metrics_2.html"} <= artifacts(client, run, "figures")
    assert "layerwise.model" not in run.data.tags


def test_a_pretrained_model_has_no_validation_loss(
    run_job: Callable[..., Any], client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_job("inspect", "--stability")
    assert "no training made this model" in capsys.readouterr().err
    assert table(client, run, "stability", tmp_path)["passed"].all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "there is nothing to look at"),
        (["--prompts", "x", "--sampling", "{top_p: 2}"], "top_p must be more than 0"),
        (["--prompts", "x", "--sampling", "{tempature: 2}"], "temperature"),
        (["--follow", "pattern.0.0", "--stability"], "follow needs a prompt"),
        (["--plots", "[{metrics: [val/loss]}]"], "is not of one: name runs:/RUN_ID"),
        (["--plots", "[{metrics: []}]"], "a plot needs metrics"),
        (["--plots", "[{metrics: [val/loss], runs: [abc]}]"], "no run 'abc'"),
        (["--prompts", "a dog", "--follow", "pattern.0.0"], "checkpoints are of the model's run"),
        (["--prompts", "a dog", "--attention", "resid_post.0"], "attention is read at patterns"),
        (["--prompts", "a dog", "--attention", "pattern.7"], "layer"),
    ],
)
def test_mistakes(
    flags: list[str], message: str, tiny_model_folder: Path, database: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    assert main(["inspect", "--model", str(tiny_model_folder), *flags]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


def test_a_metric_that_no_run_has(
    trained: str, run_job: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", "--plots", f"[{{metrics: [val/los], runs: [{trained}]}}]"]) == 2
    assert "Did you mean 'val/loss'?" in capsys.readouterr().err
    assert main(["inspect", "--plots", f"[{{metrics: [val/loss], runs: [{trained}], x: sampels}}]"]) == 2
    assert "unknown metric of these runs 'sampels'" in capsys.readouterr().err


def test_questions_about_a_training(trained: str, run_job: Callable[..., Any]) -> None:
    from layerwise import query

    found = query.checkpoints(trained)
    assert found["step"].tolist() == [10, 20]
    load_model(found["uri"][0])
    curve = query.metrics([trained], ["val/loss"])
    assert curve["step"].tolist() == [0, 10, 20]
    assert (curve["x"] == curve["step"]).all()
