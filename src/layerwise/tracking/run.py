"""The record of one job: the only thing a job sees of MLflow."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.entities import DatasetInput, InputTag, LoggedModelInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from layerwise.config import flatten, to_yaml
from layerwise.process import myself
from layerwise.tracking.commands import end_killed
from layerwise.tracking.datasets import dataset_entity
from layerwise.tracking.fingerprint import fingerprint
from layerwise.tracking.query import artifact_text, finished_run
from layerwise.tracking.secrets import redacted
from layerwise.tracking.server import Server

if TYPE_CHECKING:
    import pandas as pd

    from layerwise.comparison.items import Items
    from layerwise.data.dataset import TextDataset
    from layerwise.data.pairs.pairs import PromptPairs
    from layerwise.models.model import LanguageModel

METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100
SECONDS_BETWEEN_WRITES = 3.0
_TOOLBAR = {"plotlyServerURL": "", "modeBarButtonsToRemove": ["sendChartToCloud"]}  # nothing is sent anywhere
_VALUE_LIMIT = 6000
_NAME_LIMIT = 200
_TAG_LIMIT = 8000


class Reused(Exception):
    """Raised by ``Tracker.begin``: a finished run did this very work, nothing is left to do."""

    def __init__(self, run_id: str, summary: str | None) -> None:
        super().__init__(run_id)
        self.run_id, self.summary = run_id, summary


class Tracker:
    """What a job writes to its MLflow run.

    Under ``mlflow run`` that is the run it made. Otherwise the run is made by ``begin``, or by the first write: a job that
    finds its work already done leaves no empty run behind.

    Metrics are kept and written together, at once when some seconds have passed since the last time, and at the end.
    ``alone``: whether a command has no other run, so that what happens in this one is worth printing.
    """

    alone = True

    def __init__(self, server: Server, job: str, config: Any, *, force: bool = False, attach: bool = True) -> None:
        self.server, self.job, self.config, self.force = server, job, config, force
        self.client = server.client
        self.under_mlflow_run = os.environ.get("MLFLOW_RUN_ID") is not None
        self._run_id: str | None = None
        self._metrics: list[Metric] = []
        self._last_write = -math.inf
        self._lock = threading.RLock()
        self._system_metrics: Any = None
        if self.under_mlflow_run and attach:
            self._attach(os.environ["MLFLOW_RUN_ID"])

    # -- the run itself

    def begin(self, **identity: str) -> str:
        """Say what this run works on (``model=model.fingerprint, data=dataset.digest()``) before the work starts.

        Returns the fingerprint of this work. Raises Reused, which ends the job, where a finished run has the same job, config, code and
        identity, unless forced. A run that was killed at it, which could not say so itself, is ended.
        """
        mark = self.look(**identity)
        digests = {"data_digest": identity["data"]} if "data" in identity else {}
        self.tags({"fingerprint": mark, **digests})
        end_killed(self.server, mark, self.run_id)
        return mark

    def look(self, **identity: str) -> str:
        """The fingerprint of this work; raises Reused where a finished run has it. Nothing is written."""
        mark = fingerprint(self.job, self.config, **identity)
        found = None if self.force else finished_run(self.server, mark)
        if found is not None:
            self._repeat(found.info.run_id)
        return mark

    def exists(self, run_id: str) -> bool:
        """Whether a run is there and not deleted."""
        try:
            return self.client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException:
            return False

    def resume(self, run_id: str) -> None:
        """Go on with a run that an earlier process began; only before the first write."""
        self.client.update_run(run_id, status="RUNNING")
        if "layerwise.error" in self.client.get_run(run_id).data.tags:
            self.client.delete_tag(run_id, "layerwise.error")
        self._attach(run_id)

    @property
    def started(self) -> bool:
        return self._run_id is not None

    @property
    def run_id(self) -> str:
        if self._run_id is None:
            run = self.client.create_run(self.server.experiment_id, tags=resolve_tags())
            self._attach(run.info.run_id)
        assert self._run_id is not None
        return self._run_id

    def end(self, status: str, error: str | None = None) -> None:
        """Write what is kept and end the run as FINISHED, FAILED (with the reason as ``layerwise.error``) or KILLED."""
        if self._system_metrics is not None:
            self._system_metrics.finish()
        try:
            if error is not None:
                self.tags({"error": error})
            self.flush()
        finally:
            self.client.set_terminated(self.run_id, status)

    def _attach(self, run_id: str) -> None:
        self._run_id = run_id
        self.tags({"job": self.job, "process": json.dumps(myself())})  # who answers for it, should it stay RUNNING
        self.params(flatten(self.config))
        self.text(redacted(to_yaml(self.config)), "config.yaml")
        if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower() in ("true", "1"):
            self.watch_system()

    def watch_system(self) -> None:
        """Record what processor, memory, disk and GPU do, until the run ends."""
        if self._system_metrics is None:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
            self._system_metrics = SystemMetricsMonitor(self.run_id, resume_logging=True)
            self._system_metrics.start()

    def _repeat(self, run_id: str) -> None:
        if self.under_mlflow_run:
            self.copy(run_id)
            self.tags({"reused_from": run_id})
        raise Reused(run_id, artifact_text(self.client, run_id, "summary.txt"))

    def copy(self, run_id: str) -> None:
        """Take over the metrics and the summary of a run that did this run's work."""
        for name in self.client.get_run(run_id).data.metrics:
            history = self.client.get_metric_history(run_id, name)
            self._keep(Metric(name, item.value, item.timestamp, item.step) for item in history if item.model_id is None)
        summary = artifact_text(self.client, run_id, "summary.txt")
        if summary is not None:
            self.text(summary, "summary.txt")

    def name(self, name: str) -> None:
        """What lists of runs call this one, in place of the words that MLflow draws at random."""
        self.client.update_run(self.run_id, name=name[:_NAME_LIMIT])

    # -- what is recorded

    def params(self, values: Mapping[str, Any]) -> None:
        """Record parameters; a name the run already has (``mlflow run`` wrote its own quoted form) is left as it is."""
        there = self.client.get_run(self.run_id).data.params
        new = [Param(name, redacted(str(value))[:_VALUE_LIMIT]) for name, value in values.items() if name not in there]
        for start in range(0, len(new), PARAMS_PER_CALL):
            self.client.log_batch(self.run_id, params=new[start : start + PARAMS_PER_CALL])

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags in canonical form: ``model`` becomes ``layerwise.model``. These are what queries filter by."""
        tags = [RunTag(f"layerwise.{name}", redacted(str(value))[:_TAG_LIMIT]) for name, value in values.items()]
        for start in range(0, len(tags), PARAMS_PER_CALL):
            self.client.log_batch(self.run_id, tags=tags[start : start + PARAMS_PER_CALL])

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record metrics named ``split/metric``; a stream of steps is written every few seconds."""
        now = int(time.time() * 1000)
        self._keep(Metric(name, float(value), now, step or 0) for name, value in values.items())

    def curve(self, name: str, values: Mapping[int, float], best: str = "max", axis: str = "layer") -> None:
        """One metric with a value per step, and its best value as ``best/name`` with its place as ``best/name_layer``.

        ``best``: ``max`` or ``min``. Values that are not numbers are recorded but never the best.
        """
        now = int(time.time() * 1000)
        self._keep(Metric(name, float(value), now, int(step)) for step, value in sorted(values.items()))
        finite = {step: float(value) for step, value in sorted(values.items()) if not math.isnan(value)}
        if finite:
            step = (max if best == "max" else min)(finite, key=lambda step: finite[step])
            self.metrics({f"best/{name}": finite[step], f"best/{name}_{axis}": float(step)})

    def flush(self) -> None:
        """Write the metrics that are kept."""
        with self._lock:
            kept, self._metrics = self._metrics, []
            self._last_write = time.monotonic()
        for start in range(0, len(kept), METRICS_PER_CALL):
            self.client.log_batch(self.run_id, metrics=kept[start : start + METRICS_PER_CALL])

    def dataset(self, dataset: TextDataset | Items | PromptPairs, role: str) -> None:
        """Record a dataset, items or pairs of prompts as input of the run: name, digest, size, and its role (``train``, ``test``)."""
        tag = InputTag("mlflow.data.context", role)
        self.client.log_inputs(self.run_id, datasets=[DatasetInput(dataset_entity(dataset), [tag])])

    def language_model(self, model: LanguageModel, role: str = "model") -> None:
        """Record a language model: its name and fingerprint as tags, its parameter count, and, if made here, the lineage.

        ``role`` tells a second one from the first: its tags are called by it.
        """
        from layerwise.tracking.models import logged_model_id

        self.tags({role: model.name, f"{role}_fingerprint": model.fingerprint})
        self.metrics({f"{role}/parameters": float(model.num_parameters)})
        model_id = logged_model_id(self.client, model.config.name)
        if model_id is not None:
            self.client.log_inputs(self.run_id, models=[LoggedModelInput(model_id)])

    def table(self, frame: pd.DataFrame, name: str) -> None:
        """A table as ``tables/name.parquet``."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.parquet"
            frame.to_parquet(path, index=False)
            self.file(path, "tables")

    def item_table(self, frame: pd.DataFrame, name: str) -> None:
        """The table of a run's items: ``tables/name.parquet`` by MLflow's own ``log_table``, so that MLflow lists it as the run's table."""
        self.client.log_table(self.run_id, frame, f"tables/{name}.parquet")

    def figure(self, figure: Any, name: str) -> None:
        """A chart of ``reports`` drawn both ways; a plotly figure or a matplotlib figure in its own way.

        ``figures/name.html`` is interactive and needs no network, ``figures/name.png`` is a picture.
        """
        if hasattr(figure, "plotly") and hasattr(figure, "picture"):
            self.figure(figure.plotly(), name)
            self.figure(figure.picture(), name)
            return
        with tempfile.TemporaryDirectory() as folder:
            if hasattr(figure, "write_html"):
                path = Path(folder) / f"{name}.html"
                figure.write_html(path, include_plotlyjs=True, full_html=True, config=_TOOLBAR)
            else:
                path = Path(folder) / f"{name}.png"
                figure.savefig(path, dpi=150, bbox_inches="tight")
            self.file(path, "figures")

    def json(self, value: Any, name: str) -> None:
        """Plain data as ``name.json``."""
        self.text(json.dumps(value, indent=2, ensure_ascii=False), f"{name}.json")

    def text(self, text: str, name: str) -> None:
        """Text as the artifact ``name``, its ending included."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            path.write_text(text, encoding="utf-8")
            self.file(path, str(Path(name).parent) if "/" in name else None)

    def file(self, path: Path | str, folder: str | None = None) -> None:
        """A file or folder as an artifact, in ``folder`` of the run's artifacts where one is named."""
        source = Path(path)
        if source.is_dir():
            self.client.log_artifacts(
                self.run_id, str(source), "/".join(part for part in (folder, source.name) if part)
            )
        else:
            self.client.log_artifact(self.run_id, str(source), folder)

    def summary(self, text: str) -> None:
        """What a person should read at the end: printed, and kept so that a repeated command can print it again."""
        print(text, flush=True)
        self.text(text, "summary.txt")

    def probe(
        self,
        bundle: Path,
        name: str = "probe",
        *,
        metrics: Mapping[str, float] | None = None,
        dataset: TextDataset | None = None,
        copy_of: LanguageModel | None = None,
        register: str | None = None,
    ) -> str:
        """Log the bundle folder of a fitted probe as a servable model (text in, label and score out); returns ``models:/…``.

        ``metrics`` are the model's own, measured on ``dataset``. The language model is referenced by name and fingerprint;
        ``copy_of`` puts a copy of it beside the probe. ``register`` enters the probe in the model registry under that name.
        """
        from layerwise.tracking.servable import log_probe

        return log_probe(self, Path(bundle), name, metrics or {}, dataset, copy_of, register)

    def _keep(self, metrics: Iterable[Metric]) -> None:
        with self._lock:
            self._metrics += metrics
            due = time.monotonic() - self._last_write >= SECONDS_BETWEEN_WRITES
        if due:
            self.flush()
