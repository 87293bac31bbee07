"""Commands in processes of their own, what they leave in two databases, and what must be true of it in the end."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import optuna
import psutil

TOP = Path(__file__).parents[2]
SECONDS = 300.0  # that anything may take on a busy machine


class Command:
    """A command in a session of its own, with its output in a file."""

    def __init__(self, arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.output = folder / f"output-{time.monotonic_ns()}.txt"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                arguments,
                cwd=folder,
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_hear_interrupts,
            )

    def text(self) -> str:
        return self.output.read_text()

    def wait(self) -> int:
        return self.process.wait(SECONDS)

    def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is true; it is an error if the command ends before."""
        end = time.monotonic() + SECONDS
        while not true():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < end, self.text()
            time.sleep(0.01)

    def workers(self) -> list[psutil.Process]:
        found = []
        for one in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # a zombie is one too
                if any("spawn_main" in word for word in one.cmdline()):
                    found.append(one)
        return found

    def kill(self, whom: str) -> None:
        """SIGKILL to the ``group``, the ``parent`` alone, or a ``worker`` alone; returns when what must end has ended."""
        if whom == "worker":
            self.until(lambda: bool(self.workers()))
            self.workers()[0].kill()
            return
        below = [one for one in psutil.Process(self.process.pid).children(recursive=True) if _ends_with_us(one)]
        if whom == "group":
            os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()
        self.process.wait(SECONDS)
        _, alive = psutil.wait_procs(below, 30)
        assert not alive, f"{alive} outlived their parent"


def _ends_with_us(process: psutil.Process) -> bool:
    """Not so what Ray keeps beside its workers: its agents look for their master every half minute or so."""
    with suppress(psutil.NoSuchProcess):
        return not process.name().endswith("Agent") and "ray/dashboard" not in " ".join(process.cmdline())
    return False


def _hear_interrupts() -> None:
    """A test session in the background of a script ignores Ctrl-C, and what it starts would do the same."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Place:
    """A folder with a tracking database, a database of studies, and what they hold now."""

    def __init__(self, folder: Path, tracking: str, studies: str, environment: dict[str, str]) -> None:
        self.folder, self.tracking, self.studies = folder, tracking, studies
        self.environment = {**environment, "MLFLOW_TRACKING_URI": tracking, "LAYERWISE_STUDIES": studies}
        self.client = mlflow.MlflowClient(tracking)

    def start(self, config: Path, *flags: str) -> Command:
        arguments = [sys.executable, "-m", "layerwise", "search", "--config", str(config), *flags]
        return Command(arguments, self.folder, self.environment)

    def start_project(self, config: Path, *parameters: str) -> Command:
        """The same as an MLflow project."""
        given = [word for one in (f"config={config}", *parameters) for word in ("-P", one)]
        binaries = str(Path(sys.executable).parent)
        arguments = [f"{binaries}/mlflow", "run", str(TOP), "--env-manager", "local", "-e", "search", *given]
        path = {"PATH": f"{binaries}:{os.environ['PATH']}"}
        return Command(arguments, self.folder, {**self.environment, **path})

    def ask(self, query: str) -> int:
        """A number from the sqlite database of studies; 0 while it has no tables."""
        try:
            with sqlite3.connect(
                f"file:{self.studies.removeprefix('sqlite:///')}?mode=ro", uri=True, timeout=30
            ) as found:
                return int(found.execute(query).fetchone()[0])
        except sqlite3.OperationalError:
            return 0

    def done(self) -> int:
        return self.ask("SELECT count(*) FROM trials WHERE state = 'COMPLETE'")

    def study(self, name: str) -> optuna.Study:
        return optuna.load_study(study_name=name, storage=self.studies)

    def runs(self, query: str = "") -> list[Any]:
        found: list[Any] = []
        token: str | None = None
        while token != "":
            page = self.client.search_runs(["0"], query, max_results=1000, page_token=token)
            found += page
            token = page.token or ""
        return found

    def study_run(self, name: str) -> Any:
        found = self.runs(f"tags.`layerwise.study` = '{name}' and tags.`layerwise.job` = 'search'")
        [run] = [run for run in found if "layerwise.continues" not in run.data.tags and run.data.metrics]
        return run


def check_whole(place: Place, name: str, slots: int) -> None:
    """Every slot tried once with a result, nothing RUNNING anywhere, nothing logged twice."""
    trials = place.study(name).get_trials(deepcopy=False)
    states = [trial.state.name for trial in trials]
    assert set(states) <= {"COMPLETE", "FAIL"}
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert sorted(trial.user_attrs["claim"]["slot"] for trial in complete) == list(range(slots))
    assert len({str(sorted(trial.params.items())) for trial in complete}) == slots
    assert [run.info.run_id for run in place.runs("attributes.status = 'RUNNING'")] == []
    run = place.study_run(name)
    assert run.info.status == "FINISHED"
    children = place.runs(f"tags.`layerwise.study_run` = '{run.info.run_id}'")
    finished = [child for child in children if child.info.status == "FINISHED"]
    assert {int(child.data.tags["layerwise.trial"]) for child in finished} == {trial.number for trial in complete}
    assert len(finished) == slots
    by_number = {trial.number: trial for trial in complete}
    for child in finished:
        trial = by_number[int(child.data.tags["layerwise.trial"])]
        assert trial.user_attrs["record"]["run_id"] == child.info.run_id
        assert child.data.metrics["cv/accuracy"] == trial.values[0]
    [model] = place.client.search_logged_models(["0"], f"source_run_id = '{run.info.run_id}'")
    assert {metric.key for metric in model.metrics} <= set(run.data.metrics)  # the run's own points, not second ones
    for other in (run, *finished):
        for metric in other.data.metrics:
            steps = [point.step for point in place.client.get_metric_history(other.info.run_id, metric)]
            assert len(steps) == len(set(steps)), (other.info.run_name, metric, steps)
    assert len(run.inputs.dataset_inputs) == 2
