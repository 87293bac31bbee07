"""A worker: claims slots of a study until none is left, tries each point, and records it in both Optuna and MLflow.

The order of writing is what makes a kill harmless. A trial's run is made and filled while the trial is RUNNING and only its
worker may touch it; then Optuna learns the result; then the run ends. Whatever a kill leaves half done, ``settle`` ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from layerwise.errors import UserError
from layerwise.measures.statistics import corrected_t_interval
from layerwise.search.objectives import Constraint, Objective, value_of
from layerwise.search.samplers import build_pruner, build_sampler, distribution, suggest
from layerwise.search.slots import NoFreeSlot, SlotStudy, is_lost, slot_of
from layerwise.search.space import Point
from layerwise.search.stopping import heard
from layerwise.search.storage import open_storage
from layerwise.search.trials import Outcome, Trials
from layerwise.tracking.server import Server, reconnect
from layerwise.tracking.trials import TrialTracker, end_orphans, unreachable

SECONDS_BETWEEN_LOOKS = 0.5  # for a worker that waits whether another's slot comes back
LOST = "its worker died; the point is tried again"
PRUNED, FAILED, KILLED, FINISHED = "KILLED", "FAILED", "KILLED", "FINISHED"


@dataclass(frozen=True)
class Assignment:
    """All a worker needs to know; it may be a process on another machine.

    study, storage: the study's name and the address of its storage.
    uri, experiment_id, study_run: where runs are recorded, and the run that trials are children of.
    slots, points: as in ``SlotStudy``.
    repeats: seeds a point is tried with; the mean counts.
    deadline: the time (``time.time()``) after which no trial begins but a worker's first.
    patience: trials without a better one, after which none begins.
    command: the process that conducts or joined the search.
    """

    study: str
    storage: str
    uri: str
    experiment_id: str
    study_run: str
    trials: Trials
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    slots: int
    points: list[Point] | None
    sampler: str
    sampler_arguments: Mapping[str, Any] = field(default_factory=dict)
    pruner: str = "none"
    pruner_arguments: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    repeats: int = 1
    deadline: float | None = None
    patience: int | None = None
    command: Mapping[str, Any] | None = None


def open_slots(assignment: Assignment) -> SlotStudy:
    """The study as this process sees it."""
    one, space = assignment, assignment.trials.space
    # In a finite space two workers that chose at the same time could choose the same point.
    together = one.points is None and space.size is not None
    return SlotStudy(
        one.study,
        open_storage(one.storage),
        one.slots,
        one.points,
        {name: distribution(node) for name, node in space.parameters()},
        one.trials.cell,
        build_sampler(one.sampler, one.sampler_arguments, space, one.seed),
        build_pruner(one.pruner, one.pruner_arguments),
        (lambda trial: suggest(trial, space)) if together else None,
        one.command,
    )


def work(assignment: Assignment, tried: Callable[[], object] = lambda: None) -> None:
    """Try slots until none is left, the time is over, or nothing gets better; ``tried`` is called after each trial.

    Raises UserError where the tracking server or the studies' database stops answering: nothing is wrong with the point that was
    being tried, and its slot is free again.
    """
    study = open_slots(assignment)
    if assignment.points is not None:
        assignment.trials.upcoming(assignment.points)
    worker = _Worker(assignment, study, reconnect(assignment.uri, assignment.experiment_id))

    def after(_: optuna.Study, trial: FrozenTrial) -> None:
        worker.end(trial)
        tried()
        if no_better(study, assignment):
            study.stop()

    try:
        while not no_better(study, assignment):
            left = None if assignment.deadline is None else assignment.deadline - time.time()
            late = left is not None and left <= 0
            if late and worker.trial is not None:
                return
            # However short the time, one trial is tried: a command that came to nothing would be in vain.
            limits: dict[str, Any] = {"n_trials": 1} if late else {"timeout": left}
            try:
                study.optimize(worker.attempt, **limits, catch=(TrialFailed,), callbacks=[after])
            except NoFreeSlot:
                if not study.bury():
                    return
                time.sleep(SECONDS_BETWEEN_LOOKS)
            except (
                UpdateFinishedTrialError,
                ValueError,
                AssertionError,
            ):  # as Optuna refuses to be told of a finished trial
                if not worker.was_given_up():
                    raise
    except Exception as error:
        if _is_outage(error):
            raise UserError(
                f"the tracking server or the studies' database stopped answering: {' '.join(str(error).split())[:300]}\n"
                "What was finished is kept; start the same command again."
            ) from error
        raise
    finally:
        heard()
        for trial in study.own():
            study.give_up(trial._trial_id)


class TrialFailed(Exception):
    """A trial failed by an error of its own."""


class _Worker:
    """The objective of ``optimize``, and what follows a trial."""

    def __init__(self, assignment: Assignment, study: SlotStudy, server: Server) -> None:
        self.assignment, self.study, self.server = assignment, study, server
        self.tracker: TrialTracker | None = None
        self.trial: optuna.Trial | None = None

    def attempt(self, trial: optuna.Trial) -> list[float]:
        """One trial, from its point to its values."""
        self.tracker, self.trial = None, trial
        try:
            return self._attempt(trial, time.time())
        except BaseException as error:
            if not isinstance(error, Exception):
                heard()
                if self.tracker is not None and self.tracker.started:
                    self.tracker.end(KILLED)
            raise

    def _attempt(self, trial: optuna.Trial, began: float) -> list[float]:
        one = self.assignment
        failed: Exception | None = None
        try:
            config = one.trials.config(suggest(trial, one.trials.space))
            tags = {"study": one.study, "study_run": one.study_run, "trial": trial.number, **one.trials.tags}
            self.tracker = TrialTracker(self.server, one.trials.job, config, one.study_run, tags)
            outcomes = [
                one.trials.attempt(config, index, self.tracker, self._report(trial)) for index in range(one.repeats)
            ]
            outcome = merged(outcomes, one.objectives[0].metric)
            values = [value_of(objective.metric, outcome.metrics) for objective in one.objectives]
            excesses = {bound.text: bound.excess(value_of(bound.metric, outcome.metrics)) for bound in one.constraints}
        except optuna.TrialPruned as pruned:
            done = trial.storage.get_trial(trial._trial_id).intermediate_values
            curve = {one.objectives[0].metric.replace("cv/", "fold/"): done}
            outcome, failed = Outcome({}, curve, {"pruned": "true"}), pruned
        except Exception as error:
            if _is_outage(error):
                raise
            text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            outcome, failed = Outcome({}, tags={"error": text}), TrialFailed(text)
        self._record(trial, outcome, time.time() - began)
        if failed is not None:
            raise failed
        for name, excess in excesses.items():
            trial.set_constraint(name, excess)
        return values

    def _report(self, trial: optuna.Trial) -> Callable[[int, float], None] | None:
        if self.assignment.pruner == "none" or len(self.assignment.objectives) > 1:
            return None
        known: set[int] = set()

        def report(step: int, value: float) -> None:
            if step not in known:
                known.add(step)
                trial.report(value, step)
                if trial.should_prune():
                    raise optuna.TrialPruned(f"after step {step}")

        return report

    def _record(self, trial: optuna.Trial, outcome: Outcome, seconds: float) -> None:
        if "error" in outcome.tags:
            trial.set_user_attr("error", outcome.tags["error"])
        if self.tracker is None:
            return
        metrics = {**outcome.metrics, "seconds": seconds}
        if self.tracker.started:
            self.tracker.tags(outcome.tags)
            self.tracker.metrics({name: value for name, value in metrics.items() if name not in self.tracker.values})
            self.tracker.flush()
        else:
            self.tracker.record(metrics, outcome.curves, outcome.tags)
        record = {"run_id": self.tracker.run_id, "metrics": metrics, "tags": dict(outcome.tags), "error": outcome.error}
        trial.set_user_attr("record", record)

    def end(self, trial: FrozenTrial) -> None:
        """End the trial's run as its trial ended."""
        if self.tracker is not None and self.tracker.started:
            self.tracker.end({TrialState.COMPLETE: FINISHED, TrialState.PRUNED: PRUNED}.get(trial.state, FAILED))

    def was_given_up(self) -> bool:
        """Whether others took this worker for dead while it was at its trial; that ends the trial's run."""
        if self.trial is None or not is_lost(self.study.studies.storage.get_trial(self.trial._trial_id)):
            return False
        if self.tracker is not None and self.tracker.started:
            self.tracker.end(FAILED, LOST)
        return True


def _is_outage(error: Exception) -> bool:
    """Whether an error is about where trials are recorded, and nothing that the trial did."""
    return unreachable(error) or isinstance(error, StorageInternalError | UpdateFinishedTrialError | SQLAlchemyError)


def merged(outcomes: Sequence[Outcome], objective: str) -> Outcome:
    """Repeats as one: the mean of every metric, and of the objective also each repeat and an interval over them."""
    first = outcomes[0]
    if len(outcomes) == 1:
        return first
    shared = set.intersection(*(set(outcome.metrics) for outcome in outcomes))
    metrics = {name: float(np.mean([outcome.metrics[name] for outcome in outcomes])) for name in sorted(shared)}
    values = np.array([value_of(objective, outcome.metrics) for outcome in outcomes])
    interval = corrected_t_interval(values, 0.0)
    metrics |= {f"{objective}_low": interval.low, f"{objective}_high": interval.high}
    curves = {**first.curves, f"repeat/{objective.partition('/')[2] or objective}": dict(enumerate(values.tolist()))}
    return Outcome(metrics, curves, first.tags, float(values.std(ddof=1) / np.sqrt(len(values))))


def completed(study: optuna.Study) -> list[FrozenTrial]:
    """Trials with a result, in the order of their slots; those that break a constraint are not among them."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    return sorted((trial for trial in trials if is_feasible(trial)), key=slot_of)


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a trial keeps every constraint."""
    return all(value <= 0 for name, value in trial.system_attrs.items() if name.startswith("constraints:"))


def no_better(study: SlotStudy, assignment: Assignment) -> bool:
    """Whether the last ``patience`` trials brought nothing better than the ones before."""
    if assignment.patience is None:
        return False
    sign = assignment.objectives[0].sign
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    scores = [sign * trial.values[0] if trial.state == TrialState.COMPLETE else -np.inf for trial in done]
    return len(scores) > assignment.patience and int(np.argmax(scores)) < len(scores) - assignment.patience


def settle(study: optuna.Study, server: Server, study_run: str) -> int:
    """End the runs of trials that are over but whose worker died before it ended them; returns how many there were."""
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}

    def ending(number: int) -> tuple[str, str | None] | None:
        trial = trials.get(number)
        if trial is None or trial.state == TrialState.RUNNING:
            return None
        if trial.state == TrialState.COMPLETE:
            return FINISHED, None
        if trial.state == TrialState.PRUNED:
            return PRUNED, None
        return FAILED, LOST if is_lost(trial) else None

    return end_orphans(server, study_run, ending)
