"""Pictures of a study: Optuna's own, and where in the model the good trials are. All are plotly figures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import optuna
import pandas as pd
import plotly.graph_objects as go
from optuna import visualization
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from layerwise.reports.charts import PALETTE, LineChart, Series
from layerwise.reports.heat_map import HeatMap
from layerwise.search.objectives import Objective
from layerwise.search.space import Choice, Space
from layerwise.search.summary import best_per

FEWEST_FOR_IMPORTANCE = 4  # completed trials; with fewer, importances say nothing


def figures(study: optuna.Study, objectives: Sequence[Objective], table: pd.DataFrame, space: Space) -> dict[str, Any]:
    """Every picture that the study has enough trials for, by name."""
    made: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, draw in _optunas(study, objectives):
            figure = _drawn(draw)
            if figure is not None:
                made[name] = figure
        made |= {
            f"importance_{name}": bars(values, name)
            for name, values in importances(study, objectives[0], space).items()
        }
    if (heat := heat_map(table, objectives[0])) is not None:
        made["layer_by_pooler"] = heat
    if (curves := classifier_curves(table, objectives[0])) is not None:
        made["layer_by_classifier"] = curves
    return made


def importances(study: optuna.Study, objective: Objective, space: Space) -> dict[str, dict[str, float]]:
    """PED-ANOVA importances (Watanabe et al. 2023): ``all`` of what every trial has, and of each branch what it alone has.

    A branch is an option of a choice that brings parameters of its own; only trials that took it tell of these.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    found = {}
    shared = [name for name in space.nodes if len({repr(trial.params.get(name)) for trial in trials}) > 1]
    if (values := _importance(trials, objective, shared)) is not None:
        found["all"] = values
    for name, node in space.parameters():
        for option in node.options if isinstance(node, Choice) else ():
            inner = [f"{name}.{option.label}.{path}" for path in option.inner]
            taken = [trial for trial in trials if trial.params.get(name) == option.label]
            varied = [one for one in inner if len({repr(trial.params.get(one)) for trial in taken}) > 1]
            also = [one for one in shared if one != name and len({repr(trial.params.get(one)) for trial in taken}) > 1]
            if varied and (values := _importance(taken, objective, [*varied, *also])) is not None:
                found[option.label] = values
    return found


def _importance(trials: Sequence[Any], objective: Objective, params: list[str]) -> dict[str, float] | None:
    if len(trials) < FEWEST_FOR_IMPORTANCE or len(params) < 2:
        return None
    alone = optuna.create_study(direction=objective.direction)
    alone.add_trials([_first_value_only(trial) for trial in trials])
    try:
        return get_param_importances(alone, evaluator=PedAnovaImportanceEvaluator(), params=params)
    except (RuntimeError, ValueError):  # all trials equally good
        return None


def _first_value_only(trial: Any) -> Any:
    return optuna.trial.create_trial(
        state=trial.state, value=trial.values[0], params=trial.params, distributions=trial.distributions
    )


def bars(values: dict[str, float], title: str) -> go.Figure:
    """Importances as bars, the largest on top."""
    ranked = sorted(values.items(), key=lambda item: item[1])
    figure = go.Figure(
        go.Bar(
            x=[value for _, value in ranked],
            y=[f"{name} " for name, _ in ranked],
            orientation="h",
            marker_color=PALETTE[0],
        )
    )
    what = "all trials" if title == "all" else f"trials with {title}"
    figure.update_layout(title=f"Parameter importance (PED-ANOVA), {what}", xaxis_title="share of the variance explained", template="plotly_white")  # fmt: skip
    return figure


def heat_map(table: pd.DataFrame, objective: Objective) -> HeatMap | None:
    """Layer × pooler, the best over everything else; None where trials have no layers or there is only one."""
    done = table[(table["state"] == "complete") & table["layer"].notna() & table["pooler"].notna()]
    if done["layer"].nunique() < 2:
        return None
    rows = done.assign(
        place=done["name"].astype(str) + " " + done["pooler"].astype(str)
        if done["name"].nunique() > 1
        else done["pooler"]
    )
    ranked = rows.assign(_score=objective.sign * rows["value"]).sort_values("_score", ascending=False)
    best = ranked.drop_duplicates(["place", "layer"])
    grid = best.pivot(index="place", columns="layer", values="value")
    return HeatMap(
        f"Best {objective.metric} over classifiers",
        "layer",
        "pooler",
        [str(layer) for layer in grid.columns],
        [str(place) for place in grid.index],
        grid.to_numpy(dtype=float),
        objective.metric,
    )


def classifier_curves(table: pd.DataFrame, objective: Objective) -> LineChart | None:
    """A line per classifier: its best over poolers at each layer, with that trial's interval."""
    done = table[(table["state"] == "complete") & table["layer"].notna() & table["kind"].notna()]
    if done["layer"].nunique() < 2:
        return None
    lines = []
    for kind in best_per(done, "kind", objective)["kind"]:
        own = done[done["kind"] == kind]
        best = own.assign(_score=objective.sign * own["value"]).sort_values("_score", ascending=False)
        best = best.drop_duplicates("layer").sort_values("layer")
        lines.append(Series(str(kind), best["layer"].tolist(), best["value"].tolist(), text=best["pooler"].tolist()))
    return LineChart(f"{objective.metric} by layer, best over poolers", "layer", objective.metric, lines[:8])


def _optunas(study: optuna.Study, objectives: Sequence[Objective]) -> Iterator[tuple[str, Callable[[], Any]]]:
    several = len(objectives) > 1
    target: dict[str, Any] = {"target_name": objectives[0].metric}
    if several:
        target["target"] = lambda trial: trial.values[0]
        yield (
            "pareto_front",
            lambda: visualization.plot_pareto_front(study, target_names=[one.metric for one in objectives]),
        )
    yield "history", lambda: visualization.plot_optimization_history(study, **target)
    yield "parallel_coordinates", lambda: visualization.plot_parallel_coordinate(study, **target)
    yield "slices", lambda: visualization.plot_slice(study, **target)
    yield "timeline", lambda: visualization.plot_timeline(study)
    if any(trial.state == TrialState.PRUNED for trial in study.get_trials(deepcopy=False)):
        yield "intermediate_values", lambda: visualization.plot_intermediate_values(study)


def _drawn(draw: Callable[[], Any]) -> Any:
    """The figure, or None where Optuna finds too little to draw."""
    try:
        return draw().update_layout(template="plotly_white")
    except (ValueError, RuntimeError, KeyError):
        return None
