"""The jobs train and ablate as a person runs them: what they record, that it can be gone on with, and what they refuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from layerwise.__main__ import main
from layerwise.comparison.loading import load_items
from layerwise.comparison.scoring import behave
from layerwise.jobs.train import TrainConfig
from layerwise.jobs.train_record import scores
from layerwise.jobs.train_samples import WrittenSamples
from layerwise.models.loading import load_model
from layerwise.models.sites import SiteMap
from layerwise.tracking.models import register
from layerwise.tracking.run import Tracker
from layerwise.tracking.server import connect
from layerwise.training.writing import Written

SMALL = (
    "--data.options.max_length", "3", "--data.options.letters", "12", "--data.train", "200", "--data.validation", "20", "--data.test", "10",
    "--context", "10", "--model.n_layers", "1", "--model.n_heads", "2", "--model.width", "16", "--training.batch_size", "16",
)  # fmt: skip


@pytest.fixture
def train(run_job: Callable[..., Any]) -> Callable[..., Any]:
    """Runs the job, on the small task and model unless told otherwise; returns its MLflow run."""
    return lambda *flags, small=True: run_job("train", *(SMALL if small else ()), *flags, model=False)


def artifacts(client: Any, run: Any, folder: str | None = None) -> set[str]:
    return {item.path for item in client.list_artifacts(run.info.run_id, folder)}


def history(client: Any, run: Any, metric: str) -> dict[int, float]:
    return {item.step: item.value for item in client.get_metric_history(run.info.run_id, metric)}


def table(client: Any, run: Any, name: str) -> pd.DataFrame:
    return pd.read_parquet(client.download_artifacts(run.info.run_id, f"tables/{name}.parquet"))


def test_everything_about_a_training_is_recorded(
    train: Callable[..., Any], client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "from layerwise.models.transformer.norms import build_norm\n"
        "import torch\n"
        "class Halved(torch.nn.Module):\n"
        "    def __init__(self, config, layer=None):\n"
        "        super().__init__()\n"
        "    def forward(self, hidden):\n"
        "        return hidden / 2\n"
    )
    run = train(
        "--training.steps",
        "40",
        "--evaluation.every",
        "20",
        "--model.norm",
        "mine.py:Halved",
        "--evaluation.log_every",
        "5",
    )
    assert run.info.status == "FINISHED"
    metrics = run.data.metrics
    for split in ("train", "val", "test"):
        assert {f"{split}/loss", f"{split}/accuracy"} <= set(metrics)
    assert {"val/exact_match", "test/exact_match", "batch/gradient_norm", "progress/tokens_per_second"} <= set(metrics)
    assert {"progress/seconds", "parameters/total", "parameters/trained", "parameters/active"} <= set(metrics)
    assert list(history(client, run, "val/loss")) == [0, 20, 40]
    assert list(history(client, run, "batch/loss")) == [1, 5, 10, 15, 20, 25, 30, 35, 40]
    assert metrics["progress/samples"] == 40 * 16
    samples = table(client, run, "samples")
    assert samples["step"].unique().tolist() == [0, 20, 40]
    assert {"prompt", "text", "expected", "right"} <= set(samples)
    assert "samples.html" in artifacts(client, run)
    assert artifacts(client, run, "code") == {"code/mine.py"}
    assert {"figures/curve_loss.html", "figures/curve_accuracy.png"} <= artifacts(client, run, "figures")
    [given] = run.inputs.dataset_inputs
    assert json.loads(given.dataset.profile)["train"]["rows"] > 0
    logged = {
        one.name: one for one in (client.get_logged_model(output.model_id) for output in run.outputs.model_outputs)
    }
    assert set(logged) == {"checkpoint-20", "checkpoint-40", "model"}
    assert {output.step for output in run.outputs.model_outputs} == {20, 40}
    own = {metric.key: metric.value for metric in logged["checkpoint-20"].metrics}
    assert own["val/loss"] == history(client, run, "val/loss")[20]
    held = {Path(item.path).name for item in _files(client, logged["checkpoint-20"].model_id)}
    assert {"config.json", "model.safetensors", "tokenizer.json", "mine.py"} <= held
    assert not {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "training_args.bin"} & held
    said = capsys.readouterr().out
    assert f"the model: runs:/{run.info.run_id}" in said


def _files(client: Any, model_id: str) -> list[Any]:
    found, folders = [], [""]
    while folders:
        for item in client.list_logged_model_artifacts(model_id, folders.pop()):
            (folders.append(item.path) if item.is_dir else found.append(item))
    return found


def test_a_run_s_id_is_a_model_everywhere(train: Callable[..., Any], run_job: Callable[..., Any], client: Any) -> None:
    run = train("--training.steps", "20", "--evaluation.every", "10")
    register()
    model = load_model(f"runs:/{run.info.run_id}")
    assert isinstance(model.sites, SiteMap)
    before = load_model(f"runs:/{run.info.run_id}/checkpoint-10")
    assert before.fingerprint != model.fingerprint
    assert load_model(f"runs:/{run.info.run_id}/checkpoint-20").fingerprint == model.fingerprint
    (Path.cwd() / "letters.csv").write_text(
        "text,label\n" + "".join(f"{'ab' if row % 2 else 'cd'}{'abcd'[row % 4]},{row % 2}\n" for row in range(60))
    )
    probed = run_job(
        "probe", "--model", f"runs:/{run.info.run_id}", "--dataset", "letters.csv", "--sites", "resid_post.*", "--poolers", "mean", "--probe", "ridge",
        model=False,
    )  # fmt: skip
    [used] = client.get_run(probed.info.run_id).inputs.model_inputs
    assert client.get_logged_model(used.model_id).source_run_id == run.info.run_id
    compared = run_job(
        "compare",
        "--models",
        f"runs:/{run.info.run_id},runs:/{run.info.run_id}/checkpoint-10",
        "--texts",
        "letters.csv",
        model=False,
    )
    assert compared.info.status == "FINISHED"


def test_the_same_training_is_not_made_twice(train: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--training.steps", "5", "--seed", "11")
    run = train(*flags)
    train(*flags)
    assert f"already done: run {run.info.run_id}" in capsys.readouterr().out


def test_a_diverged_training_keeps_its_last_good_checkpoint(
    train: Callable[..., Any],
    client: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "broken.py").write_text(
        "from layerwise.training.losses import cross_entropy\n"
        "calls = []\n"
        "def loss(outputs, labels, num_items_in_batch=None):\n"
        "    calls.append(1)\n"
        "    return cross_entropy(outputs, labels, num_items_in_batch) * (float('nan') if len(calls) > 12 else 1)\n"
    )
    train("--training.steps", "1")  # makes tmp_path the working folder and the database the server
    flags = (
        "--training.steps",
        "20",
        "--checkpoints.every",
        "10",
        "--changes.loss",
        "broken.py:loss",
        "--evaluation.log_every",
        "1",
    )
    assert main(["train", *SMALL, *flags]) == 2
    said = capsys.readouterr().err
    assert "training diverged: the loss became nan at step 13" in said
    assert "checkpoint-10" in said
    [run] = client.search_runs(["0"], order_by=["attributes.start_time DESC"], max_results=1)
    assert run.info.status == "FAILED"
    assert "diverged" in run.data.tags["layerwise.error"]
    register()
    kept, last = load_model(f"runs:/{run.info.run_id}"), load_model(f"runs:/{run.info.run_id}/checkpoint-10")
    assert kept.fingerprint == last.fingerprint


def test_questions_are_scored_at_each_evaluation(
    train: Callable[..., Any], client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "exam.jsonl").write_text(
        "".join(
            json.dumps({"prompt": f"{one}>", "options": [one, other], "truth": 0}) + "\n"
            for one, other in ("ab", "ba", "cd", "dc")
        )
    )
    run = train("--training.steps", "20", "--evaluation.every", "10", "--questions", "exam.jsonl")
    assert "the tokenizer does not know" not in capsys.readouterr().out
    found = {name: history(client, run, f"exam/{name}") for name in ("accuracy", "exact_match", "loss")}
    assert all(list(values) == [0, 10, 20] for values in found.values())
    register()
    items = load_items("exam.jsonl")
    again = scores(items, behave(load_model(f"runs:/{run.info.run_id}"), items, progress=False))
    assert again == pytest.approx({name: values[20] for name, values in found.items()}, rel=1e-5)
    assert {given.dataset.name for given in run.inputs.dataset_inputs} == {"copy", "exam"}
    (tmp_path / "greek.jsonl").write_text(json.dumps({"prompt": "Ω>", "options": ["a", "b"], "truth": 0}))
    train("--training.steps", "1", "--questions", "greek.jsonl")
    assert "1 of 3 prompts and options of greek hold what the tokenizer does not know" in capsys.readouterr().out


def test_a_search_of_trainings_prunes_by_their_curves(
    train: Callable[..., Any], client: Any, run_job: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "search.yaml").write_text(
        """
job: train
base:
  data: {options: {max_length: 3, letters: 12}, train: 200, validation: 20, test: 10}
  context: 10
  model: {n_layers: 1, n_heads: 2, width: 16}
  training: {steps: 12, batch_size: 16}
  evaluation: {every: 3, answers: 0, texts: 0}
  checkpoints: {every: 0}
space:
  optimizer.learning_rate: [0.01, 0.005, 0.000001, 0.000002]
objectives: [min val/loss]
pruner: {name: median, arguments: {n_startup_trials: 1, n_warmup_steps: 2}}
budget: {trials: 4}
"""
    )
    study = run_job("search", "--config", "search.yaml", model=False)
    children = client.search_runs(["0"], f"tags.`mlflow.parentRunId` = '{_study(client, study)}'")
    assert len(children) == 4
    curves = {child.info.run_id: history(client, child, "val/loss") for child in children}
    pruned = [child for child in children if child.info.status == "KILLED"]
    assert pruned
    assert all(len(curves[child.info.run_id]) < 5 for child in pruned)
    done = [child for child in children if child.info.status == "FINISHED"]
    assert all(len(curves[child.info.run_id]) == 5 for child in done)
    best = min(done, key=lambda child: child.data.metrics["val/loss"])
    assert float(best.data.params["optimizer.learning_rate"]) > 0.001


def _study(client: Any, newest: Any) -> str:
    """The study's run: the newest run's parent, or itself."""
    return str(newest.data.tags.get("mlflow.parentRunId", newest.info.run_id))


def test_ablations_are_compared_seed_by_seed(
    run_job: Callable[..., Any], client: Any, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "ablation.yaml").write_text(
        """
base:
  data: {options: {max_length: 3, letters: 12}, train: 200, validation: 20, test: 0}
  context: 10
  model: {n_layers: 1, n_heads: 2, width: 16}
  optimizer: {learning_rate: 0.01}
  training: {steps: 40, batch_size: 16}
  evaluation: {every: 40, answers: 0, texts: 0}
  checkpoints: {every: 0}
changes:
  no_learning: {optimizer.learning_rate: 1.0e-9}
  wider: {model: {width: 20}}
seeds: 2
"""
    )
    run_job("ablate", "--config", "ablation.yaml", model=False)
    [run] = client.search_runs(["0"], "tags.`layerwise.job` = 'ablate'")
    children = client.search_runs(["0"], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    assert len(children) == 6
    by_name = {
        (child.data.tags["layerwise.ablation"], child.data.params["seed"]): child.data.metrics["val/loss"]
        for child in children
    }
    apart = [by_name["no_learning", seed] - by_name["base", seed] for seed in ("0", "1")]
    assert run.data.metrics["no_learning/difference"] == pytest.approx(sum(apart) / 2)
    assert run.data.metrics["no_learning/difference"] > 0.05
    changes = table(client, run, "changes").set_index("change")
    assert changes.loc["wider", "pairs"] == 2
    assert changes.loc["wider", "low"] < changes.loc["wider", "difference"] < changes.loc["wider", "high"]
    assert "no_learning" in capsys.readouterr().out
    # Given again with one change more, what is trained already is not trained again.
    text = (tmp_path / "ablation.yaml").read_text()
    (tmp_path / "more.yaml").write_text(text.replace("seeds: 2", "  deeper: {model.n_layers: 2}\nseeds: 2"))
    run_job("ablate", "--config", "more.yaml", model=False)
    runs = client.search_runs(["0"], "tags.`layerwise.ablation` LIKE '%'")
    assert len(runs) == 6 + 2


def test_a_change_that_diverges_is_left_out_and_one_that_cannot_be_made_ends_the_ablation(
    database: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its run says so; of a training that never began there is none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    (tmp_path / "broken.py").write_text(
        "def loss(outputs, labels, **_):\n    return outputs.logits.sum() * float('nan')\n"
    )
    base = {
        "data": {"options": {"max_length": 3, "letters": 12}, "train": 100, "validation": 20, "test": 0},
        "context": 10, "model": {"n_layers": 1, "n_heads": 2, "width": 16}, "training": {"steps": 4, "batch_size": 16},
        "evaluation": {"every": 4, "answers": 0, "texts": 0}, "checkpoints": {"every": 0},
    }  # fmt: skip

    def ablate(name: str, change: dict[str, Any]) -> tuple[int, Any, list[str]]:
        (tmp_path / "ablation.yaml").write_text(json.dumps({"base": base, "changes": {name: change}, "seeds": 2}))
        code = main(["ablate", "--config", "ablation.yaml"])
        [run] = client.search_runs(["0"], f"tags.`mlflow.runName` = 'ablate: {name}'")
        children = client.search_runs(["0"], f"tags.`layerwise.ablation` = '{name}'")
        return code, run, [child.info.status for child in children]

    code, run, children = ablate("broken", {"changes.loss": "broken.py:loss"})
    assert (code, run.info.status, children) == (0, "FINISHED", ["FAILED", "FAILED"])
    assert "broken, seed 1: diverged, left out" in capsys.readouterr().out
    code, run, children = ablate("uneven", {"model.width": 15})
    assert (code, run.info.status, children) == (2, "FAILED", [])
    assert "do not divide" in run.data.tags["layerwise.error"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--context", "1"], "context must be at least 2"),
        (["--model.widht", "8"], "Did you mean 'model.width'"),
        (["--model.width", "15"], "do not divide"),
        (["--model.norm", "lay_norm"], "unknown norm 'lay_norm'"),
        (["--context", "5"], "Set context to at least 9"),
        (["--training.precision", "fp16", "--training.device", "cpu"], "fp16 needs a GPU"),
        (["--changes.loss", "nowhere.py:loss"], "no file nowhere.py"),
        (["--changes.corrupt_inputs", "1"], "changes.corrupt_inputs must be"),
        (["--changes.freeze_layers", "2"], "changes.freeze_layers 2: the model has 1"),
        (["--schedule.warmup_steps", "50", "--training.steps", "10"], "schedule.warmup_steps: 50 of only 10 steps"),
        (["--checkpoints.best", "--checkpoints.every", "3", "--training.steps", "40"], "no multiple of 4 steps"),
        (["--checkpoints.best", "--checkpoints.every", "0"], "checkpoints.best needs a checkpoint at evaluations"),
        (["--data", "files", "--data.path", "empty.txt"], "empty"),
        (["--questions", "nothing.jsonl"], "nothing.jsonl"),
        (
            ["--model.score_scale", "2", "--model.score_scale_token", "999"],
            "score_scale_token must be a token id, 0 to",
        ),
        (["--stopping.exact_match", "0.9", "--evaluation.answers", "0"], "never be reached: evaluation.answers is 0"),
        (["--stopping.exact_match", "99"], "a share of answers, at most 1: got 99"),
        (["--evaluation.prompts", "Ω"], "Ω"),
    ],
)
def test_mistakes_are_explained(
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    (tmp_path / "empty.txt").write_text("")
    given = dict(zip(SMALL[::2], SMALL[1::2], strict=True))
    if "--data" in flags:
        given = {name: value for name, value in given.items() if not name.startswith("--data")}
    given = {name: value for name, value in given.items() if name not in flags}
    assert main(["train", *(word for flag in given.items() for word in flag), *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"changes": {}}, "name at least one"),
        ({"changes": {"base": {"seed": 1}}}, "cannot be called 'base'"),
        ({"changes": {"nothing": {"model.n_layers": 4}}}, "changes nothing"),
        ({"changes": {"deeper": {"model.n_layer": 4}}}, "Did you mean 'model.n_layers'"),
        ({"changes": {"deeper": 3}}, "must be a mapping"),
        ({"changes": {"deeper": {"model.n_layers": 5}}, "seeds": 1}, "seeds must be at least 2"),
    ],
)
def test_mistakes_in_ablations_are_explained(
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fields: Any,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    (tmp_path / "ablation.yaml").write_text(json.dumps(fields))
    assert main(["ablate", "--config", "ablation.yaml"]) == 2
    assert message in capsys.readouterr().err


def test_samples_of_a_run_that_was_killed_are_gone_on_with(
    database: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there is read once, and nothing of it is written twice."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    tracker = Tracker(connect(), "train", TrainConfig())
    tracker.begin(data="drawn")
    first = WrittenSamples(tracker, "a model", begun=False)
    for step in (0, 10):
        first.add([Written(f"{step}?", "a", "b", False), Written("say", "a")], step)
    later = WrittenSamples(tracker, "a model", begun=True)
    later.add([Written("another", "a")], 10)
    later.add([Written("20?", "b", "b", True)], 20)
    tracker.end("FINISHED")
    kept = table(client, client.get_run(tracker.run_id), "samples")
    assert kept["step"].tolist() == [0, 0, 10, 10, 20]
    assert kept["prompt"].tolist() == ["0?", "say", "10?", "say", "20?"]
    assert [row if isinstance(row, bool) else None for row in kept["right"]] == [False, None, False, None, True]
    page = Path(client.download_artifacts(tracker.run_id, "samples.html", str(tmp_path))).read_text(encoding="utf-8")
    assert (page.count("✓ right"), page.count("✗ wrong"), page.count("<h2>")) == (1, 2, 3)


LONG = (
    *SMALL,
    "--training.steps",
    "60",
    "--evaluation.every",
    "10",
    "--evaluation.log_every",
    "1",
    "--model.dropout",
    "0.1",
)


def command(database: str, *flags: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    environment = os.environ | {"MLFLOW_TRACKING_URI": database, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*(before or (sys.executable, "-m")), "layerwise", "train", *flags],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_killed_training_goes_on_where_it_was(
    database: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 in the middle, the same command again: one run, and its curve is that of a training nobody killed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slowly.py").write_text(
        "import time\nfrom transformers import TrainerCallback\n"
        "class Slowly(TrainerCallback):\n"
        "    def on_step_end(self, args, state, control, **_):\n"
        "        time.sleep(0.1 if state.global_step > 25 else 0)\n"
    )
    flags = (*LONG, "--changes.callbacks", "slowly.py:Slowly")
    process = command(database, *flags)
    run = None
    while run is None or max(history(client, run, "val/loss"), default=0) < 30:
        assert process.poll() is None
        time.sleep(0.2)
        found = client.search_runs(["0"], "attributes.status = 'RUNNING' and tags.`layerwise.job` = 'train'")
        run = found[0] if found else None
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = command(database, *flags)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert f"going on with run {run.info.run_id}" in said
    whole = command(database, *LONG)
    said, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, said
    runs = client.search_runs(["0"], "attributes.status = 'FINISHED' and params.`model.dropout` = '0.1'")
    assert len(runs) == 2
    resumed = client.get_run(run.info.run_id)
    [other] = [one for one in runs if one.info.run_id != run.info.run_id]
    for name in (
        "batch/loss",
        "batch/gradient_norm",
        "val/loss",
        "train/accuracy",
        "val/exact_match",
        "progress/tokens",
    ):
        points = client.get_metric_history(resumed.info.run_id, name)
        assert len({item.step for item in points}) == len(points), f"{name} is recorded twice"
        assert history(client, resumed, name) == history(client, other, name)
    names = [client.get_logged_model(output.model_id).name for output in resumed.outputs.model_outputs]
    assert sorted(names) == sorted({*names})
    assert table(client, resumed, "samples")["step"].tolist() == table(client, other, "samples")["step"].tolist()


@pytest.mark.slow
def test_two_processes_train_as_one(
    database: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes of `accelerate launch`: one run, and the curve of one with a batch twice as large."""
    monkeypatch.chdir(tmp_path)
    launch = (
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        "-m",
    )
    base = [*SMALL, "--training.steps", "12", "--evaluation.every", "6", "--evaluation.log_every", "1", "--seed", "5"]
    base[base.index("--training.batch_size") + 1] = "8"
    process = command(database, *base, before=launch)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    two = client.search_runs(["0"], "tags.`layerwise.job` = 'train' and params.seed = '5'")
    assert len(two) == 1
    assert two[0].info.status == "FINISHED"
    base[base.index("--training.batch_size") + 1] = "16"
    process = command(database, *base)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    [one] = [run for run in client.search_runs(["0"], "params.seed = '5'") if run.info.run_id != two[0].info.run_id]
    for name in ("batch/loss", "val/loss", "val/accuracy", "progress/samples"):
        assert history(client, two[0], name) == pytest.approx(history(client, one, name), rel=1e-4), name


def test_streamed_texts_are_trained_on_for_so_many_steps(
    train: Callable[..., Any], client: Any, tmp_path: Path
) -> None:
    (tmp_path / "lines.txt").write_text("".join(f"{'ab' * (row % 5 + 2)}c\n" for row in range(400)))
    flags = (
        "--data", "files", "--data.path", "lines.txt", "--data.streaming", "true", "--data.validation", "20", "--data.test", "0",
        "--tokenizer", "characters", "--context", "10", "--model.n_layers", "1", "--model.n_heads", "2", "--model.width", "16",
        "--training.batch_size", "8", "--optimizer.learning_rate", "0.01",
    )  # fmt: skip
    run = train("--training.steps", "30", *flags, small=False)
    found = history(client, run, "val/loss")
    assert found[30] < 0.8 * found[0]
    assert run.data.metrics["progress/samples"] == 240
    assert main(["train", *flags]) == 2  # how long a stream is, nobody knows
