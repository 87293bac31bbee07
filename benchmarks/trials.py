"""What recording a trial costs, Optuna and MLflow together, on sqlite: ``python benchmarks/trials.py --trials 1000``.

The objective is one line of arithmetic, the config a whole ``probe`` config, so everything else is recording: claiming the slot,
writing the trial to both databases, ending both. Time is from the end of one objective to the beginning of the next. Beside it the plain calls that
no recording can do without: a trial of ``study.optimize`` on the same kind of storage, and a run made, filled in one call and ended.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from mlflow.entities import Metric, Param

from layerwise.config import flatten
from layerwise.jobs.probe import ProbeConfig
from layerwise.search.objectives import Objective
from layerwise.search.points import planned
from layerwise.search.slots import open_study
from layerwise.search.space import Point, Range, Space
from layerwise.search.storage import open_storage
from layerwise.search.trials import Outcome, Report
from layerwise.search.worker import Assignment, work
from layerwise.tracking.run import Tracker
from layerwise.tracking.server import connect
from layerwise.tracking.trials import TrialTracker

SPACE = Space({"x": Range(0.0, 1.0), "seed": Range(0, 99, step=1, integer=True)})


@dataclass
class Parabola:
    """``(x - 1/3)²`` and what a cross-validated probe leaves beside its score; remembers when each trial began."""

    job: str = "probe"
    space: Space = SPACE
    objective: str = "cv/loss"
    identity: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=lambda: {"model": "none", "dataset": "none"})
    began: list[tuple[float, float]] = field(default_factory=list)

    def direction(self, metric: str) -> str:
        return "minimize"

    def config(self, point: Point) -> ProbeConfig:
        return replace(ProbeConfig(), seed=point["seed"], sites=[f"resid_post.{point['x']}"])

    def cell(self, point: Point) -> str:
        return ""

    def upcoming(self, points: list[Point]) -> None:
        """Nothing to prepare."""

    def attempt(self, config: ProbeConfig, repeat: int, tracker: TrialTracker, report: Report | None) -> Outcome:
        self.began.append((time.perf_counter(), time.process_time()))
        loss = (float(config.sites[0].removeprefix("resid_post.")) - 1 / 3) ** 2
        metrics = {f"cv/{name}": loss for name in ("loss", "loss_low", "loss_high", "accuracy", "f1", "mcc", "ece")}
        return Outcome(metrics, {"fold/loss": dict.fromkeys(range(5), loss)}, {"site": "resid_post.0"}, 0.1)

    def conclude(
        self, config: Any, tracker: Tracker, register: str | None, links: Mapping[str, str]
    ) -> tuple[Mapping[str, float], str]:
        return {}, ""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sampler", default="random")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        before = plain_calls(Path(folder) / "plain.db")
        began = recorded(options.trials, options.sampler, f"sqlite:///{Path(folder) / 'studies.db'}")
        plain = np.median([*before, *plain_calls(Path(folder) / "plain.db")], axis=0) * 1000
        os.chdir("/")
    seconds = np.diff(np.array(began), axis=0) * 1000
    print("| trials | wall, ms a trial: median | mean | processor, ms a trial: median |\n| --- | --- | --- | --- |")
    size = min(100, len(seconds))
    for start in sorted({0, (len(seconds) - size) // 2, len(seconds) - size}):
        part = seconds[start : start + size]
        wall, processor = np.median(part, axis=0)
        print(f"| {start + 1}–{start + size} | {wall:.1f} | {part[:, 0].mean():.1f} | {processor:.1f} |")
    print(f"| the plain calls | {plain[0]:.1f} | | {plain[1]:.1f} |")


def plain_calls(path: Path, trials: int = 50) -> list[tuple[float, float]]:
    """(wall, processor) seconds of each trial that does nothing but call Optuna and MLflow."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    server, config = connect(), flatten(ProbeConfig())
    study = optuna.create_study(storage=f"sqlite:///{path}", sampler=optuna.samplers.RandomSampler())

    def objective(trial: optuna.Trial) -> float:
        return (trial.suggest_float("x", 0, 1) - 1 / 3) ** 2 + 0 * trial.suggest_int("seed", 0, 99)

    found = []
    for _ in range(trials):
        began = time.perf_counter(), time.process_time()
        study.optimize(objective, n_trials=1)
        run = server.client.create_run(server.experiment_id, tags={f"layerwise.{number}": "tag" for number in range(8)})
        metrics = [Metric(f"cv/{number}", 1.0, 0, 0) for number in range(13)]
        server.client.log_batch(run.info.run_id, metrics, [Param(name, value) for name, value in config.items()])
        server.client.set_terminated(run.info.run_id)
        found.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    return found


def recorded(trials: int, sampler: str, storage: str) -> list[tuple[float, float]]:
    """(wall, processor) clock at the beginning of every trial."""
    server = connect()
    run = server.client.create_run(server.experiment_id)
    work_of = Parabola()
    points = planned(SPACE, sampler, trials, 0)
    open_study("parabola", open_storage(storage), ["minimize"], {})
    work(
        Assignment(
            "parabola", storage, server.uri, server.experiment_id, run.info.run_id, work_of,
            (Objective("cv/loss", "minimize"),), (), trials, points, sampler,
        )
    )  # fmt: skip
    return work_of.began


if __name__ == "__main__":
    main()
