"""Jobs run as a person runs them, on the tiny model, against a real tracking database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from layerwise.__main__ import main


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One tracking database for the jobs of a module: making its tables takes seconds."""
    import mlflow

    folder = tmp_path_factory.mktemp("tracking")
    uri = f"sqlite:///{folder}/mlflow.db"
    # The folder in which an experiment is made decides where its artifacts go.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        mlflow.MlflowClient(uri).search_experiments()
    return uri


@pytest.fixture
def client(database: str) -> Any:
    import mlflow

    return mlflow.MlflowClient(database)


@pytest.fixture
def run_job(
    database: str, client: Any, tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """``run_job("probe", "--dataset", "cities")`` runs a job on the tiny model and returns its MLflow run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)

    def run(job: str, *flags: str, model: bool = True) -> Any:
        arguments: Sequence[str] = [job, *(("--model", str(tiny_model_folder)) if model else ()), *flags]
        assert main(list(arguments)) == 0
        return client.search_runs(["0"], order_by=["attributes.start_time DESC"], max_results=1)[0]

    return run
