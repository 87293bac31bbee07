"""``search``: the best layer, pooler, classifier, or whatever else a job's config can say, found honestly.

The recipe, for every model and dataset: resolve the space, fill the store in one pass, let workers try points until the budget
is spent, choose the winner, judge it once on data that no trial has seen, record it all as one study.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from layerwise.data.config import DatasetConfig
from layerwise.errors import UserError, check_seed, unknown
from layerwise.models.config import ModelConfig
from layerwise.search.config import BudgetConfig, PrunerConfig, SamplerConfig, SelectionConfig, StudyConfig

if TYPE_CHECKING:
    from layerwise.search.conduct import Plan
    from layerwise.search.storage import Studies
    from layerwise.search.summary import Result
    from layerwise.search.trials import Trials
    from layerwise.tracking.run import Tracker

NOT_SEARCHED = ("search", "report", "dashboard", "store", "apply")


@dataclass(frozen=True)
class SearchConfig:
    """A search over any fields of any job.

    job: what is tried.
    base: the job's config, apart from what varies; ``base.config`` names a YAML file to begin with.
    models: one study for each; none: the base's own.
    datasets: likewise.
    space: what varies: field → choices, ``{low, high, log, step}``, or sub-configs with ranges inside.
    study: its name, and where it is kept.
    budget: trials, repeats, seconds, patience.
    sampler: how points are chosen.
    pruner: whether bad trials end early.
    objectives: metrics to raise or lower: ``cv/accuracy``, ``min cv/log_loss``; none: the job's own. The first chooses the winner.
    constraints: what a winner must keep: ``cv/ece <= 0.1``.
    selection: which trial wins, and its name in the model registry.
    executor: ``serial``, ``process`` (several on this machine) or ``ray``.
    workers: how many, for process and ray.
    seed: of the sampler.
    """

    job: str = "probe"
    base: dict[str, Any] = field(default_factory=dict)
    models: list[ModelConfig] = field(default_factory=list)
    datasets: list[DatasetConfig] = field(default_factory=list)
    space: dict[str, Any] = field(default_factory=dict)
    study: StudyConfig = field(default_factory=StudyConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    pruner: PrunerConfig = field(default_factory=PrunerConfig)
    objectives: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    executor: Literal["serial", "process", "ray"] = "serial"
    workers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.workers < 1:
            raise UserError(f"workers must be at least 1, got {self.workers}.")


def run(config: SearchConfig, tracker: Tracker) -> None:
    """Search every model and dataset asked for. Raises UserError for what the person can mend."""
    from layerwise.search.storage import address, open_storage

    pairs = _pairs(config)
    plans = [_plan(config, pair, _trials(config, pair), tracker) for pair in pairs]
    studies = open_storage(address(config.study.storage))
    if len(plans) == 1:
        _search(plans[0], studies, tracker)
    else:
        _search_all(pairs, plans, studies, tracker)


@dataclass(frozen=True)
class _Pair:
    """One study's outer axes: what the base config is changed by, and what the study's name gets."""

    fields: Mapping[str, Any]
    label: str


def _pairs(config: SearchConfig) -> list[_Pair]:
    """Every model with every dataset, as in nested loops."""
    from layerwise.config import plain

    models: list[ModelConfig | None] = [*config.models] or [None]
    datasets: list[DatasetConfig | None] = [*config.datasets] or [None]
    pairs = []
    for model in models:
        for dataset in datasets:
            named = {"model": model, "dataset": dataset}
            fields = {name: plain(value) for name, value in named.items() if value is not None}
            label = " on ".join(value.name for value in named.values() if value is not None)
            pairs.append(_Pair(fields, label))
    labels = [pair.label for pair in pairs]
    return [
        _Pair(
            pair.fields,
            f"{pair.label} {labels[: index + 1].count(pair.label)}" if labels.count(pair.label) > 1 else pair.label,
        )
        for index, pair in enumerate(pairs)
    ]


def _search(plan: Plan, studies: Studies, tracker: Tracker) -> Result | None:
    """One study. Returns its result, or None where another process conducts it."""
    from layerwise.search.conduct import conduct

    result = conduct(plan, studies, tracker)
    if result is not None:
        tracker.summary(str(result))
    return result


def _search_all(pairs: list[_Pair], plans: list[Plan], studies: Studies, tracker: Tracker) -> None:
    """One study after another, and a table over all."""
    import pandas as pd

    from layerwise.search.conduct import earlier_run
    from layerwise.tracking.trials import StudyTracker, adopted, ending, parent_of

    digests = {
        f"{name}_{index}": value
        for index, plan in enumerate(plans)
        for name, value in plan.assignment.trials.identity.items()
    }
    mark = tracker.look(**digests)
    begun = next((run for plan in plans if (run := earlier_run(plan, studies)) is not None), None)
    with adopted(tracker, parent_of(tracker.server, begun) if begun else None) as top:
        top.name(f"search: {len(plans)} studies")
        top.tags({"studies": len(plans), "fingerprint": mark})
        rows = []
        for pair, plan in zip(pairs, plans, strict=True):
            child = StudyTracker(top)
            with ending(child):
                result = _search(plan, studies, child)
            if result is not None:
                fields = {name: _name(value) for name, value in pair.fields.items()}
                rows.append({**fields, **result.row(), "run_id": child.run_id})
        table = pd.DataFrame(rows)
        top.table(table, "winners")
        shown = table.drop(columns=["run_id", "study"]).to_string(
            index=False, float_format=lambda value: f"{value:.3f}"
        )
        top.summary(shown)


def _name(value: Any) -> str:
    return str(value["name"]) if isinstance(value, Mapping) else str(value)


def _trials(config: SearchConfig, pair: _Pair) -> Trials:
    """How the job is tried: ``probe`` in its own way, any other by running it."""
    from layerwise.config import Layer, configure, read_mapping
    from layerwise.jobs import JOBS
    from layerwise.search.executors import execute
    from layerwise.search.space_reading import read_space
    from layerwise.search.trials import JobTrials

    if config.job not in JOBS or config.job in NOT_SEARCHED:
        raise unknown("job to search", config.job, set(JOBS) - set(NOT_SEARCHED))
    config_class = JOBS[config.job].config_class(config.job)
    values = dict(config.base)
    path = values.pop("config", None)
    layers = [Layer(read_mapping(Path(path).expanduser()), path)] if path is not None else []
    given = (*layers, Layer(values, "base"), Layer(dict(pair.fields), "models and datasets"))
    try:
        base: Any = configure(config_class, *given)
    except UserError as error:
        raise UserError(
            f"{error}\n(The base is a whole config of {config.job}, some of whose fields the space replaces.)"
        ) from None
    if config.job == "probe":
        from layerwise.jobs.probe_reach import prepare

        return prepare(
            base, config.space, lambda fill, reach: execute(config.executor, config.workers, fill, reach, _nothing)
        )
    space = read_space(config.space, lambda pattern: _sites(config.job, base, pattern))
    if not config.objectives:
        raise UserError(
            f"objectives: what should a search of {config.job} raise or lower? Name metrics of its runs: max test/accuracy."
        )
    metric = config.objectives[0].split()[-1]
    return JobTrials(config.job, base, space, JOBS[config.job].run(), partial(_configured, config_class, base), metric)


def _sites(job: str, base: Any, pattern: str) -> list[str]:
    """The sites of the job's model that a wildcard means."""
    from layerwise.models.loading import load_model

    if not hasattr(base, "model"):
        raise UserError(f"{pattern}: {job} has no field model whose sites it could mean. List them.")
    return list(load_model(base.model).sites.expand([pattern]))


def _configured(config_class: type, base: Any, values: Mapping[str, Any]) -> Any:
    from layerwise.config import Layer, configure

    return configure(config_class, Layer(values, "the search's space"), base=base)


def _nothing() -> None:
    """Called while extraction is under way; its own bar shows how far it is."""


def _plan(config: SearchConfig, pair: _Pair, trials: Trials, tracker: Tracker) -> Plan:
    from layerwise.config import flatten, plain
    from layerwise.files import digest
    from layerwise.search.conduct import Plan
    from layerwise.search.objectives import read_constraints, read_objectives
    from layerwise.search.points import planned
    from layerwise.search.samplers import build_pruner, build_sampler
    from layerwise.search.storage import address
    from layerwise.search.worker import Assignment

    objectives = read_objectives(config.objectives or [trials.objective], trials.direction)
    build_sampler(config.sampler.name, config.sampler.arguments, trials.space, config.seed)
    build_pruner(config.pruner.name, config.pruner.arguments)
    points = planned(trials.space, config.sampler.name, config.budget.trials, config.seed)
    about = {
        "job": config.job, **{f"base.{name}": value for name, value in flatten(trials.base).items()}, "space": trials.space.describe(),
        "objectives": [f"{one.direction} {one.metric}" for one in objectives], "constraints": list(config.constraints),
        "sampler": plain(config.sampler), "pruner": plain(config.pruner), "repeats": config.budget.repeats,
        "exhaustive": trials.space.size is not None and trials.space.size <= config.budget.trials,
        "seed": config.seed, **trials.identity,
    }  # fmt: skip
    name = config.study.name or f"search-{digest(about)[:8]}"
    name = f"{name}: {pair.label}" if pair.label else name
    assignment = Assignment(
        name, address(config.study.storage), tracker.server.shared_uri, tracker.server.experiment_id, "", trials, objectives,
        read_constraints(config.constraints), len(points) if points is not None else config.budget.trials, points,
        config.sampler.name, config.sampler.arguments, config.pruner.name, config.pruner.arguments, config.seed,
        config.budget.repeats, time.time() + config.budget.seconds if config.budget.seconds is not None else None, config.budget.patience,
    )  # fmt: skip
    named = [trials.tags[key] for key in ("model", "dataset") if key in trials.tags]
    title = f"search: {' on '.join(named) or name}"
    selection = config.selection
    return Plan(
        title,
        assignment,
        about,
        trials.tags,
        selection.rule,
        selection.prefer,
        selection.register,
        config.executor,
        config.workers,
    )
