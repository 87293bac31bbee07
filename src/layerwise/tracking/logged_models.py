"""What every model logged here shares: a LoggedModel with its files, signature, metrics and place in the registry, nothing pickled."""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.entities import LoggedModelOutput, Metric
from mlflow.models import Model, ModelSignature

from layerwise.errors import UserError
from layerwise.tracking.datasets import DIGEST_LENGTH

if TYPE_CHECKING:
    from layerwise.tracking.run import Tracker


TRUST_VARIABLE = "LAYERWISE_TRUST_REMOTE_CODE"


@dataclass(frozen=True, eq=False)
class Servable:
    """A model about to be logged.

    kind: probe, steered model. loader: the module whose ``_load_pyfunc`` MLflow calls with the files' folder.
    write: puts the files into a folder. requires: packages whose versions here are recorded.
    metrics: its own, at ``step``, measured on ``data`` (name and digest). params, tags: what it is, for queries.
    """

    kind: str
    loader: str
    write: Callable[[Path], None]
    signature: ModelSignature
    requires: Sequence[str]
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    data: tuple[str, str] | None = None
    step: int = 0


def log_servable(tracker: Tracker, name: str, servable: Servable, register: str | None = None) -> str:
    """Record a model as the LoggedModel ``name`` of the tracker's run; returns its ``models:/…``.

    ``register`` is a name of the model registry; the first use of a name makes it. Raises UserError for a name it refuses.
    """
    client, run_id = tracker.client, tracker.run_id
    tracker.flush()
    logged = client.create_logged_model(
        client.get_run(run_id).info.experiment_id,
        name=name,
        source_run_id=run_id,
        model_type=servable.kind,
        params=dict(servable.params),
        tags=dict(servable.tags),
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            data, saved = Path(folder) / "data", Path(folder) / "model"
            data.mkdir()
            servable.write(data)
            with warnings.catch_warnings():
                # An example would be tried out at once, which loads the language model a second time.
                warnings.filterwarnings("ignore", message=".*input example was not provided")
                mlflow.pyfunc.save_model(
                    str(saved),
                    loader_module=servable.loader,
                    data_path=str(data),
                    signature=servable.signature,
                    pip_requirements=[f"{package}=={version(package)}" for package in servable.requires],
                    mlflow_model=Model(run_id=run_id, model_id=logged.model_id, model_uuid=logged.model_id),
                    metadata={"layerwise_version": version("layerwise")},
                )
            client.log_model_artifacts(logged.model_id, str(saved))
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=servable.step)])
    on = (
        {}
        if servable.data is None
        else {"dataset_name": servable.data[0], "dataset_digest": servable.data[1][:DIGEST_LENGTH]}
    )
    own = [
        Metric(
            key,
            float(value),
            *_recorded(tracker, key, value, servable.step),
            model_id=logged.model_id,
            run_id=run_id,
            **on,
        )
        for key, value in servable.metrics.items()
    ]
    if own:
        client.log_batch(run_id, metrics=own)
    if register is not None:
        _register(client, register, logged, servable.kind)
    return f"models:/{logged.model_id}"


def _recorded(tracker: Tracker, name: str, value: float, step: int) -> tuple[int, int]:
    """When and at which step the run recorded this value last, or now.

    A model's metric is its run's too: under the same time and step it is the same point and not a second one.
    """
    points = [item for item in tracker.client.get_metric_history(tracker.run_id, name) if item.value == value]
    return (points[-1].timestamp, points[-1].step) if points else (int(time.time() * 1000), step)


def _register(client: mlflow.MlflowClient, name: str, logged: Any, kind: str) -> None:
    """The next version of the registered model ``name``."""
    try:
        client.create_registered_model(name)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise UserError(f"the {kind} cannot be registered as {name!r}: {error.message}") from error
    client.create_model_version(name, logged.artifact_location, run_id=logged.source_run_id, model_id=logged.model_id)


def trusts(said: bool) -> bool:
    """Whether code that came with a model may run: where it is said, or where the environment says it."""
    return said or os.environ.get(TRUST_VARIABLE, "").lower() in ("1", "true")


def data_folder(folder: Path) -> Path:
    """Where a downloaded model's own files lie. Raises UserError where MLflow did not write the folder."""
    try:
        return Path(folder) / Model.load(str(folder)).flavors["python_function"]["data"]
    except (mlflow.exceptions.MlflowException, KeyError):
        raise UserError(f"{folder} holds no model that MLflow saved.") from None
