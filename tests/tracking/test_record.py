"""What a run holds: parameters, tags, metrics, curves, inputs and artifacts, as the tracking contract says."""

from __future__ import annotations

import json
import math

import mlflow
import numpy as np
import pandas as pd
import pytest

from layerwise.config import Layer, configure, parse_mapping
from layerwise.data.dataset import TextDataset
from layerwise.tracking import run as run_module
from layerwise.tracking.run import Tracker
from layerwise.tracking.secrets import redacted
from layerwise.tracking.server import connect
from tracking.tiny_job import TinyConfig


@pytest.fixture
def tracker(client) -> Tracker:
    return Tracker(connect(), "tiny", TinyConfig())


def artifacts(client, run_id, folder=None):
    return [item.path for item in client.list_artifacts(run_id, folder)]


def cities(**changes) -> TextDataset:
    fields = {"name": "cities", "texts": ("a", "b", "c"), "labels": np.array([0, 1, 1]), "task": "classification"}
    return TextDataset(**{**fields, "label_names": ("false", "true"), **changes})


def test_parameters_are_the_flat_config(client, tiny):
    tiny("--options.depth", "3", "--value", "1e-1")
    (run,) = client.search_runs(["0"])
    assert run.data.params == {
        "action": "finish", "value": "0.1", "names": "mean,last", "options.depth": "3", "text": "null",
    }  # fmt: skip


def test_config_yaml_reads_back_as_the_config(client, tiny):
    tiny("--text", "a: b # 'c'", "--value", "0.25")
    (run,) = client.search_runs(["0"])
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config.yaml")
    assert configure(TinyConfig, Layer(parse_mapping(text, "x"), "x")) == TinyConfig(text="a: b # 'c'", value=0.25)


def test_tags_are_canonical(client, tiny):
    tiny("--names", "[last, mean]")
    (run,) = client.search_runs(["0"], filter_string="tags.`layerwise.pooler` = 'last,mean'")
    assert run.data.tags["layerwise.job"] == "tiny"
    assert len(run.data.tags["layerwise.fingerprint"]) == 64


def test_a_parameter_that_mlflow_run_wrote_is_left_alone(client, tiny, monkeypatch):
    run_id = client.create_run("0").info.run_id
    client.log_param(run_id, "text", "'a b'")
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    assert tiny("--text", "a b").code == 0
    (run,) = client.search_runs(["0"])
    assert run.info.run_id == run_id
    assert run.data.params["text"] == "'a b'"
    assert run.data.params["value"] == "0.5"


def test_many_parameters_and_metrics_are_written_in_pieces(client, tracker):
    tracker.params({f"p{index}": index for index in range(250)})
    tracker.metrics({f"test/m{index}": float(index) for index in range(2300)})
    tracker.end("FINISHED")
    data = client.get_run(tracker.run_id).data
    assert len([name for name in data.params if name.startswith("p")]) == 250
    assert data.metrics["test/m2299"] == 2299.0
    assert len(data.metrics) == 2300


def test_a_curve_is_one_metric_with_a_step_per_layer(client, tracker):
    tracker.curve("test/accuracy", {2: 0.7, 0: 0.5, 1: 0.9, 3: math.nan})
    tracker.curve("test/loss", {0: 3.0, 1: 1.0}, best="min")
    tracker.end("FINISHED")
    history = client.get_metric_history(tracker.run_id, "test/accuracy")
    metrics = client.get_run(tracker.run_id).data.metrics
    assert [(item.step, item.value) for item in history[:3]] == [(0, 0.5), (1, 0.9), (2, 0.7)]
    assert (metrics["best/test/accuracy"], metrics["best/test/accuracy_layer"]) == (0.9, 1)
    assert (metrics["best/test/loss"], metrics["best/test/loss_layer"]) == (1.0, 1)


def test_a_stream_is_written_every_few_seconds(client, tracker, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(run_module.time, "monotonic", lambda: clock[0])

    def written() -> int:
        return len(client.get_metric_history(tracker.run_id, "train/loss"))

    for step, (seconds, expected) in enumerate([(100.0, 1), (100.1, 1), (101.0, 1), (104.0, 4), (104.1, 4)]):
        clock[0] = seconds
        tracker.metrics({"train/loss": 1.0}, step=step)
        assert written() == expected
    tracker.end("FINISHED")
    assert written() == 5


def test_a_dataset_is_an_input_with_digest_and_role(client, tracker):
    tracker.dataset(cities(), "train")
    tracker.dataset(cities(texts=("x", "y", "z")), "test")
    (run,) = client.search_runs(["0"], filter_string="datasets.name = 'cities' and datasets.context = 'test'")
    inputs = {item.tags[0].value: item.dataset for item in run.inputs.dataset_inputs}
    assert set(inputs) == {"train", "test"}
    assert cities().digest().startswith(inputs["train"].digest)
    assert inputs["train"].digest != inputs["test"].digest
    assert json.loads(inputs["train"].profile) == {
        "texts": 3,
        "task": "classification",
        "classes": {"false": 1, "true": 2},
    }


def test_artifacts(client, tracker, tmp_path):
    import plotly.graph_objects as go
    from matplotlib.figure import Figure

    picture = Figure()
    picture.add_subplot().plot([1, 2])
    tracker.table(pd.DataFrame({"layer": [0, 1], "accuracy": [0.5, 0.9]}), "layers")
    tracker.figure(go.Figure(go.Scatter(y=[1, 2])), "curve")
    tracker.figure(picture, "curve")
    tracker.json({"a": [1]}, "confusion")
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "README.md").write_text("a card")
    tracker.file(tmp_path / "card", "data")
    run_id = tracker.run_id
    assert artifacts(client, run_id) == ["config.yaml", "confusion.json", "data", "figures", "tables"]
    assert artifacts(client, run_id, "figures") == ["figures/curve.html", "figures/curve.png"]
    assert artifacts(client, run_id, "data/card") == ["data/card/README.md"]
    table = pd.read_parquet(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="tables/layers.parquet"))
    assert list(table["accuracy"]) == [0.5, 0.9]
    html = mlflow.artifacts.load_text(f"runs:/{run_id}/figures/curve.html")
    assert "plotly.js v" in html
    assert 'src="http' not in html


def test_a_chart_is_drawn_both_ways(client, tracker):
    from layerwise.reports.charts import LineChart, Series

    tracker.figure(LineChart("t", "layer", "accuracy", [Series("probe", [0, 1], [0.5, 0.9])]), "layers")
    assert artifacts(client, tracker.run_id, "figures") == ["figures/layers.html", "figures/layers.png"]


def test_the_language_model_is_recorded_with_its_size(client, tracker, tiny_model_folder):
    from layerwise.models.loading import load_model

    model = load_model(str(tiny_model_folder))
    tracker.language_model(model)
    tracker.end("FINISHED")
    data = client.get_run(tracker.run_id).data
    assert data.tags["layerwise.model"] == str(tiny_model_folder)
    assert data.tags["layerwise.model_fingerprint"] == model.fingerprint
    assert data.metrics["model/parameters"] == sum(weight.numel() for weight in model.module.parameters())


def test_a_model_made_here_is_loaded_by_its_run_and_is_an_input(client, tracker, tiny_model_folder):
    from layerwise.models.loading import load_model
    from layerwise.tracking.models import register

    register()
    logged = client.create_logged_model("0", name="checkpoint", source_run_id=tracker.run_id)
    client.log_model_artifacts(logged.model_id, str(tiny_model_folder))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(tracker.run_id, [mlflow.entities.LoggedModelOutput(logged.model_id, step=0)])
    here = load_model(str(tiny_model_folder))
    for name in (f"models:/{logged.model_id}", f"runs:/{tracker.run_id}/checkpoint"):
        model = load_model(name)
        assert model.fingerprint == here.fingerprint
        later = Tracker(connect(), "tiny", TinyConfig())
        later.language_model(model)
        inputs = client.get_run(later.run_id).inputs.model_inputs
        assert [item.model_id for item in inputs] == [logged.model_id]


@pytest.mark.parametrize(
    "name", ["runs:/0123456789abcdef/none", "models:/none/1", "models:/m-0123", "models:/none@champion"]
)
def test_a_tracked_model_that_is_not_there_is_told(client, tiny_model_folder, name):
    from layerwise.errors import UserError
    from layerwise.models.loading import load_model
    from layerwise.tracking.models import register

    register()
    with pytest.raises(UserError, match="cannot be read from"):
        load_model(name)


def test_secrets_reach_no_parameter_tag_or_artifact(client, tiny):
    token = "hf_" + "A1b2" * 9
    tiny("--text", f"postgresql://ada:hunter2@db/x {token}")
    (run,) = client.search_runs(["0"])
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config.yaml")
    assert run.data.params["text"] == "postgresql://***@db/x hf_***"
    assert "hunter2" not in text
    assert token not in text


def test_redacted_leaves_ordinary_text_alone():
    text = "see https://a.b/c?d=e@f, hf_hub and sk-learn"
    assert redacted(text) == text


def test_system_metrics_are_recorded_when_mlflow_is_told_to(client, tiny, monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    assert tiny().code == 0
    (run,) = client.search_runs(["0"])
    assert run.info.status == "FINISHED"
