"""Which trial of a study wins: the best, or among those that are as good, the simplest or the earliest layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.trial import FrozenTrial

from layerwise.errors import UserError
from layerwise.search.objectives import Objective, value_of
from layerwise.search.slots import slot_of
from layerwise.search.worker import completed

Rule = Literal["best", "one_standard_error"]


@dataclass(frozen=True)
class Winner:
    """The chosen trial.

    ``best``: the one with the best value; another than ``trial`` where the rule preferred one of those as good.
    ``as_good``: how many are within one standard error of the best, itself included.
    """

    trial: FrozenTrial
    best: FrozenTrial
    as_good: int


def choose(study: optuna.Study, objective: Objective, rule: Rule, prefer: str) -> Winner:
    """The winner by the first objective; of equals the one of the lowest slot, whoever tried it first.

    Args:
        rule: ``best``; or ``one_standard_error``: of the trials within one standard error (over folds) of the best, the one
            that has least of the metric ``prefer`` (Breiman et al. 1984).

    Raises UserError where no trial completed within the constraints.
    """
    trials = completed(study)
    if not trials:
        raise UserError(_why_none(study))
    best = max(trials, key=lambda trial: objective.sign * trial.values[0])
    margin = best.user_attrs["record"]["error"] or 0.0
    alike = [trial for trial in trials if objective.sign * (best.values[0] - trial.values[0]) <= margin]
    if rule == "best":
        return Winner(best, best, len(alike))
    wanted = {trial.number: value_of(prefer, trial.user_attrs["record"]["metrics"]) for trial in alike}
    chosen = min(alike, key=lambda trial: (wanted[trial.number], -objective.sign * trial.values[0], slot_of(trial)))
    return Winner(chosen, best, len(alike))


def _why_none(study: optuna.Study) -> str:
    errors = [trial.user_attrs["error"] for trial in study.get_trials(deepcopy=False) if "error" in trial.user_attrs]
    if errors:
        return f"no trial came to a result; {len(errors)} failed, the first because: {errors[0]}"
    return "no trial came to a result: raise budget.trials or budget.seconds, or loosen the constraints."
