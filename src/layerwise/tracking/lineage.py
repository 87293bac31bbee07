"""Which run and which LoggedModel an input is, so that a run is joined to what it was made from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mlflow.entities import LoggedModelInput
from mlflow.exceptions import MlflowException

from layerwise.tracking.models import logged_model_id
from layerwise.tracking.query import latest_probe
from layerwise.tracking.server import Server

if TYPE_CHECKING:
    from layerwise.tracking.run import Tracker

_RUN_ID = re.compile(r"[0-9a-f]{32}")


def probe_uri(server: Server, name: str) -> str:
    """What a person calls a probe, as ``load_probe`` takes it: ``latest``, a run's bare id, or anything that it takes already."""
    if name == "latest":
        return latest_probe(server)
    return f"runs:/{name}" if _RUN_ID.fullmatch(name) else name


def probe_run(server: Server, uri: str) -> str | None:
    """The id of the run that logged a probe, or None for a folder."""
    model_id = logged_model_id(server.client, uri)
    if model_id is None:
        return None
    found = server.client.get_logged_model(model_id).source_run_id
    return None if found is None else str(found)


def record_probe(tracker: Tracker, uri: str) -> None:
    """A probe as an input of the tracker's run: its address and its run as tags, and the lineage between the two."""
    tracker.tags({"probe": uri})
    model_id = logged_model_id(tracker.client, uri)
    if model_id is None:
        return
    try:
        tracker.client.log_inputs(tracker.run_id, models=[LoggedModelInput(model_id)])
    except MlflowException:  # a server older than LoggedModels keeps the tags alone
        return
    run_id = probe_run(tracker.server, uri)
    if run_id is not None:
        tracker.tags({"probe_run": run_id})
