"""Runs of trials: children of a study's run, each written in one batch, and none left RUNNING."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from layerwise.config import flatten, to_yaml
from layerwise.tracking.commands import PARENT, begin, running
from layerwise.tracking.fingerprint import fingerprint
from layerwise.tracking.run import Tracker
from layerwise.tracking.secrets import redacted
from layerwise.tracking.server import Server
from layerwise.tracking.unfinished import Unfinished

WINNER = "winner"  # the alias of a registered winner
_VALUE_LIMIT = 6000


class TrialTracker(Tracker):
    """The run of one trial: a child of its study's run, made at the first write and ended by the worker that tried it.

    A job that runs as a trial writes to it like to any run, except that work done before is not looked for.

    Args:
        tags: ``layerwise.*`` tags it has from the beginning.

    Attributes:
        values: the last value of every metric recorded.
        heard: called with every metric that is recorded (name, value, step); what it raises reaches the job.
    """

    alone = False

    def __init__(
        self,
        server: Server,
        job: str,
        config: Any,
        study_run: str,
        tags: Mapping[str, Any],
    ) -> None:
        self._study_run, self._given = study_run, dict(tags)
        self.values: dict[str, float] = {}
        self.heard: Callable[[str, float, int], None] | None = None
        super().__init__(server, job, config, force=True, attach=False)

    def repeated(self, config: Any, repeat: int) -> TrialTracker:
        """The run of a repeat with another seed: a child of this one."""
        return TrialTracker(self.server, self.job, config, self.run_id, {**self._given, "repeat": repeat})

    @property
    def run_id(self) -> str:
        if self._run_id is None:
            self._make({}, {}, {})
        assert self._run_id is not None
        return self._run_id

    def begin(self, **identity: str) -> str:
        """A trial is no finished job that others could reuse: only its digests are kept."""
        self.tags({"data_digest": identity.get("data", "")} if "data" in identity else {})
        return fingerprint(self.job, self.config, **identity)

    def record(
        self, metrics: Mapping[str, float], curves: Mapping[str, Mapping[int, float]], tags: Mapping[str, Any]
    ) -> None:
        """Everything about a trial in one write: metrics, curves (by step), tags, its config."""
        self._make(metrics, curves, tags)

    def summary(self, text: str) -> None:
        """Kept with the run; hundreds of trials are not printed."""
        self.text(text, "summary.txt")

    def _keep(self, metrics: Any) -> None:
        metrics = list(metrics)
        for metric in metrics:
            self.values[metric.key] = metric.value
        super()._keep(metrics)
        if self.heard is not None:
            for metric in metrics:
                self.heard(metric.key, metric.value, metric.step)

    def _make(
        self, metrics: Mapping[str, float], curves: Mapping[str, Mapping[int, float]], tags: Mapping[str, Any]
    ) -> None:
        now = int(time.time() * 1000)
        named = {"job": self.job, **self._given, **tags}
        own = {f"layerwise.{name}": redacted(str(value)) for name, value in named.items()}
        run = self.client.create_run(
            self.server.experiment_id, tags={PARENT: self._study_run, **own}, run_name=f"trial {self._given['trial']}"
        )
        self._run_id = run.info.run_id
        points = [Metric(name, float(value), now, 0) for name, value in metrics.items()]
        points += [
            Metric(name, float(value), now, step) for name, curve in curves.items() for step, value in curve.items()
        ]
        params = [Param(name, redacted(value)[:_VALUE_LIMIT]) for name, value in flatten(self.config).items()]
        self.client.log_batch(self._run_id, metrics=points[:900], params=params[:100])
        for start in range(100, len(params), 100):
            self.client.log_batch(self._run_id, params=params[start : start + 100])
        for start in range(900, len(points), 1000):
            self.client.log_batch(self._run_id, metrics=points[start : start + 1000])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.yaml"
            path.write_text(redacted(to_yaml(self.config)), encoding="utf-8")
            get_artifact_repository(run.info.artifact_uri).log_artifact(
                str(path)
            )  # the client would ask for the run again


def end_orphans(server: Server, study_run: str, ending: Callable[[int], tuple[str, str | None] | None]) -> int:
    """End the runs of a study's trials that are RUNNING though their trial is over; returns how many.

    ``ending``: trial number → (status, error), or None for a trial that is still being tried. Runs of repeats end with their trial.
    """
    ended = 0
    for run in running(server, study_run, f"tags.`layerwise.study_run` = '{study_run}'"):
        found = ending(int(run.data.tags["layerwise.trial"]))
        if found is not None:
            status, error = found
            if error is not None:
                server.client.set_tag(run.info.run_id, "layerwise.error", redacted(error)[:5000])
            server.client.set_terminated(run.info.run_id, status)
            ended += 1
    return ended


def unreachable(error: Exception) -> bool:
    """Whether an error says that the tracking server does not work, and nothing about the one who asked."""
    return isinstance(error, MlflowException) and error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")


def parent_of(server: Server, run_id: str) -> str | None:
    """The run that a run is a child of."""
    parent: str | None = server.client.get_run(run_id).data.tags.get(PARENT)
    return parent


@contextmanager
def adopted(tracker: Tracker, run_id: str | None) -> Iterator[Tracker]:
    """The tracker of a run that an earlier command began, or ``tracker`` itself where there is none.

    A run that ``mlflow run`` made for this command only points to the other, and gets its results in the end.
    """
    if run_id is None or not tracker.exists(run_id) or (tracker.started and tracker.run_id == run_id):
        begin(tracker, tracker.above if isinstance(tracker, StudyTracker) else {})
        yield tracker
    elif not tracker.started:
        tracker.resume(run_id)
        yield tracker
    else:
        begin(tracker, {"layerwise.continues": run_id})
        other = Tracker(tracker.server, tracker.job, tracker.config, force=tracker.force, attach=False)
        other.resume(run_id)
        with ending(other):
            yield other
        tracker.copy(run_id)


@contextmanager
def ending(tracker: Tracker) -> Iterator[None]:
    """End a run as what happens within ends; one that has not begun by then is not made for it."""
    try:
        yield
    except Exception as error:
        if tracker.started:
            tracker.end("FAILED", str(error))
        raise
    except BaseException:
        if tracker.started:
            tracker.end("KILLED")
        raise
    tracker.end("FINISHED")


class ConclusionTracker(Tracker):
    """The winner's job, run on the study's own run: it records there what it finds, but is no work of its own.

    Args:
        tracker: of the study's run.
        register: name in the model registry for the model it logs, which gets the alias ``winner`` and ``links`` as tags.

    Attributes:
        values: the last value of every metric recorded.
        text_of_job: the job's summary, which is not printed.
    """

    def __init__(self, tracker: Tracker, register: str | None, links: Mapping[str, str]) -> None:
        super().__init__(tracker.server, tracker.job, tracker.config, force=True, attach=False)
        self._run_id, self._register, self._links = tracker.run_id, register, dict(links)
        self._unfinished = Unfinished.of(tracker)
        self.values: dict[str, float] = {}
        self.text_of_job = ""

    def begin(self, **identity: str) -> str:
        """The study has begun long ago."""
        return fingerprint(self.job, self.config, **identity)

    def name(self, name: str) -> None:
        """The study has its name."""

    def tags(self, values: Mapping[str, Any]) -> None:
        """The study's own metric stays: the job names its without the split."""
        super().tags({name: value for name, value in values.items() if name != "metric"})

    def summary(self, text: str) -> None:
        """Kept for the study's own summary."""
        self.text_of_job = text

    def probe(self, bundle: Path, name: str = "probe", **options: Any) -> str:
        """Log the winner's probe, and register it where a name was given."""
        known = self._unfinished.model(self._register)
        uri = known or super().probe(bundle, name, **{**options, "register": self._register})
        if self._register is not None:
            [version] = self.client.search_model_versions(
                f"name = '{self._register}' and run_id = '{self.run_id}'",
                max_results=1,
                order_by=["version_number DESC"],
            )
            self.client.set_registered_model_alias(self._register, WINNER, version.version)
            for key, value in self._links.items():
                self.client.set_model_version_tag(self._register, version.version, f"layerwise.{key}", redacted(value))
        return uri

    def _keep(self, metrics: Any) -> None:
        metrics = list(metrics)
        self.values |= {metric.key: metric.value for metric in metrics}
        super()._keep(self._unfinished.fresh(metrics))


class StudyTracker(Tracker):
    """The run of one study among several of one command: a child of the command's run."""

    def __init__(self, parent: Tracker) -> None:
        super().__init__(parent.server, parent.job, parent.config, force=parent.force, attach=False)
        self._parent = parent

    def look(self, **identity: str) -> str:
        """A study among several is not looked up by itself: the command is."""
        return ""

    @property
    def run_id(self) -> str:
        if self._run_id is None:
            begin(self, self.above)
        assert self._run_id is not None
        return self._run_id

    @property
    def above(self) -> dict[str, str]:
        """The tag that makes its run a child."""
        return {PARENT: self._parent.run_id}
