"""The job ``prepare`` as a person runs it, against a tracking database of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from layerwise.__main__ import main
from layerwise.data.load import load_dataset


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracking")
    mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def prepare(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """Run ``prepare`` with flags in a folder of its own; gives the exit code, what was printed, and the runs there are."""
    shutil.copy(database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)

    def run(*flags: str) -> tuple[int, str, list[Any]]:
        capsys.readouterr()
        code = main(["prepare", *flags])
        printed = capsys.readouterr()
        return code, printed.out + printed.err, mlflow.MlflowClient().search_runs(["0"])

    return run


def test_a_dataset_is_written_and_recorded(prepare, tmp_path):
    (tmp_path / "mine.csv").write_text(
        "text,label\n" + "".join(f" text {i} ,{i % 2}\n" for i in range(40)) + "text 1,1\n,0\n"
    )
    code, printed, runs = prepare("--dataset", "mine.csv", "--output", "out", "--format", "parquet")
    assert code == 0
    assert "note: 1 rows without a text or label were dropped." in printed
    assert "wrote 40 texts (train 28, validation 4, test 8) to out" in printed
    data = load_dataset("out")
    (run,) = runs
    assert run.info.status == "FINISHED"
    assert run.data.metrics["rows/train"] == 28
    assert run.data.metrics["cleaning/duplicates"] == 1
    inputs = {item.tags[0].value: item.dataset for item in run.inputs.dataset_inputs}
    assert data.digest().startswith(inputs["prepared"].digest)
    assert inputs["source"].digest != inputs["prepared"].digest
    card = json.loads(
        Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="card.json")).read_text()
    )
    assert card["digest"] == data.digest()


def test_the_same_command_does_nothing_more_until_the_folder_is_gone(prepare):
    assert prepare("--output", "out")[0] == 0
    code, printed, runs = prepare("--output", "out")
    assert (code, len(runs)) == (0, 1)
    assert "already done" in printed
    shutil.rmtree("out")
    code, _, runs = prepare("--output", "out")
    assert (code, len(runs)) == (0, 2)
    assert len(load_dataset("out")) == 740


def test_another_dataset_in_the_same_folder_needs_force(prepare):
    prepare("--output", "out")
    code, printed, runs = prepare("--output", "out", "--dataset", "numbers")
    assert code == 2
    assert "holds another prepared dataset" in printed
    assert runs[0].info.status == "FAILED"
    assert load_dataset("out").name == "cities"
    assert prepare("--output", "out", "--dataset", "numbers", "--force")[0] == 0
    assert load_dataset("out").name == "numbers"


def test_a_mistake_in_the_data_ends_with_code_2_and_writes_nothing(prepare, tmp_path):
    (tmp_path / "one.csv").write_text("text,label\na b,x\nc d,x\n")
    code, printed, runs = prepare("--dataset", "one.csv", "--output", "out")
    assert code == 2
    assert "only one class" in printed
    assert not Path("out").exists()
    assert "Traceback" not in printed
    assert all(run.info.status == "FAILED" for run in runs)
