"""What runs logged over time, and the models they kept on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd
from mlflow.entities import Metric

from layerwise.errors import UserError, unknown
from layerwise.tracking.models import logged_model_id
from layerwise.tracking.server import Server
from layerwise.tracking.tables import run_of


@dataclass(frozen=True)
class Checkpoint:
    """A model that a run logged: at which step, under which name, and its ``models:/…``."""

    step: int
    name: str
    uri: str


def checkpoints(server: Server, run: str) -> list[Checkpoint]:
    """The models a run logged, by step; of several at one step the last. Raises UserError for an unknown run."""
    outputs: Any = run_of(server, run).outputs
    found: dict[int, Checkpoint] = {}
    for output in outputs.model_outputs if outputs else []:
        model = server.client.get_logged_model(output.model_id)
        found[output.step] = Checkpoint(output.step, model.name, f"models:/{output.model_id}")
    return [found[step] for step in sorted(found)]


@dataclass(frozen=True)
class Origin:
    """Where a model comes from: the run that logged it, that run's job, and the metrics logged with the model itself."""

    run_id: str
    job: str
    metrics: dict[str, float]


def made_by(server: Server, name: str) -> Origin | None:
    """The run that made a model, by the model's name (``runs:/…``, ``models:/…``); None for a model that no run made."""
    model_id = logged_model_id(server.client, name)
    if model_id is None:
        return None
    model = server.client.get_logged_model(model_id)
    run = server.client.get_run(model.source_run_id)
    metrics = {metric.key: metric.value for metric in model.metrics or []}
    return Origin(run.info.run_id, run.data.tags.get("layerwise.job", ""), metrics)


def histories(server: Server, runs: Sequence[str], metrics: Sequence[str], x: str = "step") -> pd.DataFrame:
    """Every value of some metrics of some runs.

    Args:
        runs: ids. metrics: names; ``val/*`` are all that begin so.
        x: ``step``; ``time``, seconds since the run's first value of these metrics; or a metric logged at the same steps.

    Returns:
        A row a value: run_id, run (its name; with its id where two are called alike), metric, step, x, value. A run that lacks
        a metric has no rows of it.

    Raises:
        UserError: for unknown runs, metrics that none of them has, and an ``x`` that was logged at no common step.
    """
    entities = [run_of(server, run) for run in runs]
    names = [entity.info.run_name or entity.info.run_id for entity in entities]
    labels = [
        name if names.count(name) == 1 else f"{name} {entity.info.run_id[:6]}"
        for name, entity in zip(names, entities, strict=True)
    ]
    there = sorted({name for entity in entities for name in entity.data.metrics})
    wanted = {pattern: [name for name in there if fnmatchcase(name, pattern)] for pattern in metrics}
    if missing := next((pattern for pattern, found in wanted.items() if not found), None):
        raise unknown("metric of these runs", missing, there)
    chosen = list(dict.fromkeys(name for found in wanted.values() for name in found))
    rows = []
    for entity, label in zip(entities, labels, strict=True):
        run_id = entity.info.run_id
        points = {name: _history(server, run_id, name) for name in chosen if name in entity.data.metrics}
        begin = min((point.timestamp for found in points.values() for point in found), default=0)
        along: dict[int, float] = {}
        if x not in ("step", "time"):
            if x not in there:
                raise unknown("metric of these runs", x, there)
            along = {point.step: point.value for point in _history(server, run_id, x)}
        for name, found in points.items():
            for point in found:
                place = {"step": float(point.step), "time": (point.timestamp - begin) / 1000}.get(
                    x, along.get(point.step)
                )
                if place is not None:
                    rows.append((run_id, label, name, point.step, place, point.value))
    if not rows:
        raise UserError(f"{x} and {', '.join(chosen)} were logged at no common step: take step or time as x.")
    return pd.DataFrame(rows, columns=["run_id", "run", "metric", "step", "x", "value"])


def _history(server: Server, run_id: str, name: str) -> list[Metric]:
    """The run's own values; of one that was logged twice at a step, the last."""
    own = [point for point in server.client.get_metric_history(run_id, name) if point.model_id is None]
    return list({point.step: point for point in sorted(own, key=lambda point: (point.step, point.timestamp))}.values())
