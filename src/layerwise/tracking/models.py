"""Models kept by the tracking server: ``runs:/…`` and ``models:/…`` as local folders, and their place in the lineage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from layerwise.errors import UserError

TRACKED = ("runs:/", "models:/")
MODEL = "model"  # the name under which a training logs what it made
_BARE_RUN = re.compile(r"runs:/([0-9a-f]{32})/?")


def register() -> None:
    """Let ``load_model`` take ``runs:/…`` and ``models:/…``."""
    from layerwise.models.sources import register_resolver

    for prefix in TRACKED:
        register_resolver(prefix, local_folder)


def local_folder(uri: str) -> Path:
    """The files of a tracked model, downloaded where they are not on this machine; raises UserError where there are none.

    ``runs:/RUN_ID`` alone is the model that run made.
    """
    if match := _BARE_RUN.fullmatch(uri):
        uri = _model_of_bare_run(match[1])
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except (MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        if "Not a proper runs:/ URI" in reason:
            reason = f"{uri.removeprefix('runs:/')!r} is no run's id, which has 32 digits and letters a to f."
        raise UserError(
            f"{uri} cannot be read from {mlflow.get_tracking_uri()}: {reason}\n"
            "A run's model is runs:/RUN_ID/NAME; a registered one models:/NAME/VERSION or models:/NAME@ALIAS."
        ) from error


def _model_of_bare_run(run_id: str) -> str:
    """``models:/…`` of the model that a run made; raises UserError where there is no such run, or it made none."""
    client = mlflow.MlflowClient()
    try:
        found = model_of_run(client, run_id, MODEL) or model_of_run(client, run_id)
    except MlflowException:
        raise UserError(f"no run {run_id!r} at {mlflow.get_tracking_uri()}.") from None
    if found is None:
        raise UserError(
            f"run {run_id} logged no model: a run of the job train does, in its end and at its checkpoints."
        )
    return f"models:/{found}"


def logged_model_id(client: mlflow.MlflowClient, name: str) -> str | None:
    """The id of the LoggedModel that a ``runs:/…`` or ``models:/…`` name means, or None for any other name."""
    if match := re.fullmatch(r"models:/(m-[0-9a-f]+)(?:/.*)?", name):
        return match[1]
    try:
        if match := re.fullmatch(r"models:/([^/@]+)/(\d+)", name):
            return client.get_model_version(match[1], match[2]).model_id
        if match := re.fullmatch(r"models:/([^/@]+)@(.+)", name):
            return client.get_model_version_by_alias(match[1], match[2]).model_id
        if match := _BARE_RUN.fullmatch(name):
            return model_of_run(client, match[1], MODEL) or model_of_run(client, match[1])
        if match := re.fullmatch(r"runs:/([0-9a-f]+)/(.+)", name):
            return model_of_run(client, match[1], match[2])
    except MlflowException:
        return None
    return None


def model_of_run(client: mlflow.MlflowClient, run_id: str, name: str | None = None) -> str | None:
    """The id of the model of this name that a run logged; without a name, of its only or last one."""
    outputs: Any = client.get_run(run_id).outputs
    models = [client.get_logged_model(output.model_id) for output in (outputs.model_outputs if outputs else [])]
    ids = [model.model_id for model in models if name is None or model.name == name]
    return ids[-1] if ids else None
