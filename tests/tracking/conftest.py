"""A tracking database of its own for each test, and a command that runs the tiny job against it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest

from layerwise.__main__ import main
from tracking.tiny_job import TINY


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sqlite database with MLflow's tables and nothing else; making one takes seconds, copying it nothing."""
    folder = tmp_path_factory.mktemp("template")
    with contextlib.chdir(folder):  # artifacts go below the folder where the database was made
        mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def client(fresh_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    """The tracking server of this test, which is also the current folder's default."""
    shutil.copy(fresh_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return mlflow.MlflowClient(uri)


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def tiny(client: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the tiny job with these flags."""

    def command(*flags: str) -> Outcome:
        capsys.readouterr()
        code = main(["tiny", *flags], jobs=TINY)
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err)

    return command
