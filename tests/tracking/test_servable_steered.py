"""Steered models in the tracking server: prompts in, texts out, nothing pickled, and only over the model they belong to."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch

from layerwise.errors import UserError
from layerwise.interventions.intervened import Intervened
from layerwise.interventions.plan import Plan
from layerwise.models.config import ModelConfig
from layerwise.models.generation import continue_texts
from layerwise.models.loading import load_model
from layerwise.models.model import LanguageModel
from layerwise.tracking.models import local_folder
from layerwise.tracking.run import Tracker
from layerwise.tracking.servable_steered import load_steered, log_steered
from layerwise.tracking.server import connect
from tracking.tiny_job import TinyConfig

PROMPTS = ["the city of", "a dog", "the movie was very"]
NEW = 6


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> LanguageModel:
    return load_model(str(tiny_model_folder))


@pytest.fixture
def tracker(client: mlflow.MlflowClient) -> Tracker:
    return Tracker(connect(), "tiny", TinyConfig())


def steered(
    model: LanguageModel,
    step: str = "operation: {kind: add, vector: given, strength: 6}, sites: resid_post.0, when: every",
) -> Intervened:
    plan = Plan.read(f"steps: [{{{step}, name: push}}]")
    given = {"push": torch.linspace(-1, 1, model.sites.width)} if "given" in step else {}
    return Intervened(model, plan, given=given)


@pytest.fixture
def expected(model: LanguageModel) -> list[str]:
    intervened = steered(model)
    found = continue_texts(model, PROMPTS, max_new_tokens=NEW, around=intervened.generating)
    assert found != continue_texts(model, PROMPTS, max_new_tokens=NEW)
    return found


def test_a_logged_plan_answers_prompts_with_texts(tracker: Tracker, model: LanguageModel, expected: list[str]) -> None:
    uri = log_steered(tracker, steered(model), metrics={"test/accuracy": 0.5}, register="pushed")
    loaded = mlflow.pyfunc.load_model(uri)
    answer = loaded.predict(pd.DataFrame({"prompt": PROMPTS}), params={"max_new_tokens": NEW})
    assert answer["text"].tolist() == expected
    assert (
        loaded.predict(pd.DataFrame({"prompt": PROMPTS}), params={"max_new_tokens": NEW})["text"].tolist() == expected
    )
    drawn = [
        loaded.predict(
            pd.DataFrame({"prompt": PROMPTS}), params={"max_new_tokens": NEW, "temperature": 2.0, "seed": seed}
        )["text"].tolist()
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    run = tracker.client.get_run(tracker.run_id)
    logged = tracker.client.get_logged_model(uri.removeprefix("models:/"))
    assert [output.model_id for output in run.outputs.model_outputs] == [logged.model_id]
    assert logged.params["operations"] == "add"
    assert {metric.key: metric.value for metric in logged.metrics} == {"test/accuracy": 0.5}
    for name in (uri, "models:/pushed/1", f"runs:/{tracker.run_id}/steered"):
        assert load_steered(name, model).generate(PROMPTS, max_new_tokens=NEW) == expected


def test_nothing_is_pickled_and_little_is_written(tracker: Tracker, model: LanguageModel) -> None:
    folder = local_folder(log_steered(tracker, steered(model)))
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert not [name for name in files if name.endswith((".pkl", ".bin", ".pt", ".cloudpickle"))]
    assert {"data/data/plan/plan.json", "data/data/plan/tensors.safetensors", "data/data/model.json"} <= {
        name if name.startswith("data/data") else f"data/{name}" for name in files
    }
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 20_000
    assert "cloudpickle" not in (folder / "requirements.txt").read_text()


def test_another_language_model_is_refused(tracker: Tracker, model: LanguageModel, tiny_model_folder: Path) -> None:
    uri = log_steered(tracker, steered(model))
    other = load_model(ModelConfig(name=str(tiny_model_folder), random_init=True, random_seed=5))
    with pytest.raises(UserError, match=r"made for .* \(fingerprint [0-9a-f]{12}…\), but .* has the fingerprint"):
        load_steered(uri, other)


def test_a_copied_language_model_needs_the_original_no_more(tracker: Tracker, tiny_model_folder: Path) -> None:
    original = load_model(ModelConfig(name=str(tiny_model_folder), random_init=True, random_seed=3))
    intervened = steered(original)
    uri = log_steered(tracker, intervened, copy_model=True)
    expected = continue_texts(original, PROMPTS, max_new_tokens=NEW, around=intervened.generating)
    assert load_steered(uri).generate(PROMPTS, max_new_tokens=NEW) == expected


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            "operation: interchange, sites: resid_post.0",
            "reads from the run 'source', and whoever calls a steered model gives a prompt",
        ),
        (
            "operation: zero, sites: resid_post.0, positions: each",
            "acts at positions each, which a prompt alone does not tell",
        ),
        ("operation: zero, sites: resid_post.0, positions: 'part:subject'", "acts at positions part:subject"),
    ],
)
def test_plans_that_cannot_be_served(tracker: Tracker, model: LanguageModel, step: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        log_steered(tracker, steered(model, step))
    assert not tracker.started


def test_what_is_no_steered_model_is_told(tracker: Tracker, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model that MLflow saved"):
        load_steered(str(tmp_path))
    (tmp_path / "plan").mkdir()
    with pytest.raises(UserError, match="holds no steered model"):
        load_steered(str(tmp_path))
    with pytest.raises(UserError, match="cannot be read from"):
        load_steered("models:/absent/1")


@pytest.mark.slow
def test_mlflow_predicts_and_serves(
    client: mlflow.MlflowClient, tracker: Tracker, model: LanguageModel, expected: list[str], tmp_path: Path
) -> None:
    uri = log_steered(tracker, steered(model))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    mlflow_models = [sys.executable, "-m", "mlflow", "models"]
    asked = {
        "dataframe_split": {"columns": ["prompt"], "data": [[prompt] for prompt in PROMPTS]},
        "params": {"max_new_tokens": NEW},
    }
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    subprocess.run(
        [*mlflow_models, "predict", "-m", uri, "--env-manager", "local", "-i", str(tmp_path / "asked.json"), "-o", str(tmp_path / "answer.json")],
        env=environment, check=True, capture_output=True,
    )  # fmt: skip
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert [row["text"] for row in answer["predictions"]] == expected
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [*mlflow_models, "serve", "-m", uri, "--env-manager", "local", "--port", str(port)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        for _ in range(120):
            assert server.poll() is None
            try:
                answer = json.loads(urllib.request.urlopen(request, timeout=10).read())
                break
            except OSError:
                time.sleep(0.5)
    finally:
        os.killpg(server.pid, 15)
        server.wait()
    assert [row["text"] for row in answer["predictions"]] == expected
