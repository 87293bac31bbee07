"""Runs of commands: made together with the process that answers for them, so that none stays RUNNING when that dies."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from mlflow.tracking.context.registry import resolve_tags

from layerwise.process import is_alive, myself
from layerwise.tracking.server import Server

if TYPE_CHECKING:
    from layerwise.tracking.run import Tracker

PARENT = "mlflow.parentRunId"
_PROCESS = "layerwise.process"


def begin(tracker: Tracker, tags: Mapping[str, str] | None = None) -> None:
    """Make the tracker's run, if it has none, with ``tags`` and the process that answers for it: all at once or not at all."""
    if tracker.started:
        for name, value in (tags or {}).items():
            tracker.client.set_tag(tracker.run_id, name, value)
        return
    own = {"layerwise.job": tracker.job, _PROCESS: json.dumps(myself()), **(tags or {})}
    run = tracker.client.create_run(tracker.server.experiment_id, tags={**resolve_tags(), **own})
    tracker.resume(run.info.run_id)


def end_dead(server: Server, near: str, silent: Collection[str]) -> int:
    """End the runs of searches whose process died; returns how many.

    Args:
        near: a run of the experiment to look in, beside the server's own.
        silent: runs of processes of other machines that have shown no sign of life for long.
    """
    ended = 0
    for run in running(server, near, "tags.`layerwise.job` = 'search'"):
        alive = is_alive(json.loads(run.data.tags.get(_PROCESS, "{}")))
        if alive is False or (alive is None and run.info.run_id in silent):
            server.client.set_terminated(run.info.run_id, "KILLED")
            ended += 1
    return ended


def end_killed(server: Server, fingerprint: str, by: str) -> int:
    """End the runs whose process was killed at the work that the run ``by`` now does; returns how many.

    Only those of this machine: of others nobody here can tell whether they live.
    """
    ended = 0
    for run in running(server, by, f"tags.`layerwise.fingerprint` = '{fingerprint}'"):
        if run.info.run_id != by and is_alive(json.loads(run.data.tags.get(_PROCESS, "{}"))) is False:
            server.client.set_tag(run.info.run_id, "layerwise.error", f"its process was killed; run {by} does its work")
            server.client.set_terminated(run.info.run_id, "KILLED")
            ended += 1
    return ended


def running(server: Server, near: str, query: str) -> list[Any]:
    """All RUNNING runs that a query finds, in the server's experiment and in that of the run ``near``."""
    experiments = {server.experiment_id, server.client.get_run(near).info.experiment_id}
    found: list[Any] = []
    token: str | None = None
    while token != "":
        page = server.client.search_runs(
            list(experiments), f"{query} and attributes.status = 'RUNNING'", max_results=1000, page_token=token
        )
        found += page
        token = page.token or ""
    return found
