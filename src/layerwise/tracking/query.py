"""Questions to the tracking server: which finished run did this work, and what was a run's config."""

from __future__ import annotations

from typing import Any

import mlflow
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

from layerwise.errors import UserError
from layerwise.tracking.server import Server

_PAGE = 1000


def finished_run(server: Server, fingerprint: str) -> Any | None:
    """The latest FINISHED run of any experiment with this fingerprint, or None. Runs that only repeat another are left out."""
    experiments = [
        item.experiment_id
        for item in server.client.search_experiments(view_type=ViewType.ACTIVE_ONLY, max_results=_PAGE)
    ]
    runs = server.client.search_runs(
        experiments,
        filter_string=f"tags.`layerwise.fingerprint` = '{fingerprint}' and attributes.status = 'FINISHED'",
        order_by=["attributes.end_time DESC"],
        max_results=1,
    )
    return runs[0] if runs else None


def latest_probe(server: Server) -> str:
    """``runs:/…`` of the last finished run of this experiment that logged a probe; raises UserError where there is none."""
    runs = server.client.search_runs(
        [server.experiment_id],
        filter_string="tags.`layerwise.logged_probe` LIKE '%' and attributes.status = 'FINISHED'",
        order_by=["attributes.end_time DESC"],
        max_results=1,
    )
    if not runs:
        raise UserError(
            f"no finished run of experiment {server.experiment!r} at {server.uri} has logged a probe.\n"
            "Make one with the job probe, or name one: runs:/RUN_ID, models:/NAME/1, or a folder."
        )
    return f"runs:/{runs[0].info.run_id}"


def config_of(server: Server, run_id: str) -> tuple[str, str]:
    """(job, config.yaml's text) of a run; raises UserError where there is no such run or it has no config."""
    try:
        run = server.client.get_run(run_id)
    except MlflowException:
        raise UserError(
            f"no run {run_id!r} at {server.uri}. Its id is in the UI's address and in the last lines of its job."
        ) from None
    text = artifact_text(server.client, run_id, "config.yaml")
    if text is None:
        raise UserError(
            f"run {run_id} has no config.yaml: it is not a run of layerwise, or it failed before it had a config."
        )
    return run.data.tags.get("layerwise.job", ""), text


def artifact_text(client: mlflow.MlflowClient, run_id: str, name: str) -> str | None:
    """The text of an artifact, or None where the run has none of that name."""
    if not any(item.path == name for item in client.list_artifacts(run_id)):
        return None
    uri = f"{client.get_run(run_id).info.artifact_uri}/{name}"
    return mlflow.artifacts.load_text(uri)
