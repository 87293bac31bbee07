"""A study in one table and one text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from layerwise.reports.probe_text import curve
from layerwise.search.objectives import Objective
from layerwise.search.slots import is_lost, slot_of
from layerwise.search.winner import Winner
from layerwise.search.worker import Assignment, is_feasible

_LONG_NUMBER = re.compile(r"\d+\.\d{4,}(?:e[-+]?\d+)?")
COLUMNS = ("number", "slot", "state", "run_id", "value", "low", "high", "feasible", "site", "name", "layer", "pooler", "classifier", "kind", "seconds", "error")  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What a study found.

    Attributes:
        table: a row per trial.
        final: metrics of the winner's one judgement, by name; empty for jobs whose trials are judged already.
        text: what the job said about the winner.
        seconds: that this command took for it.
    """

    assignment: Assignment
    winner: Winner
    table: pd.DataFrame
    final: Mapping[str, float]
    text: str
    seconds: float

    @property
    def value(self) -> float:
        """The winner's value of the first objective, by which it was chosen."""
        return float(self.winner.trial.values[0])

    @property
    def test(self) -> float | None:
        """The same metric on held-out data, where there is one."""
        return self.final.get(_held_out(self.assignment.objectives[0].metric))

    @property
    def optimism(self) -> float | None:
        """By how much the value that was searched for flatters the winner."""
        return None if self.test is None else self.assignment.objectives[0].sign * (self.value - self.test)

    def metrics(self) -> dict[str, float]:
        """``search/optimism``, ``search/as_good``, ``search/seconds``."""
        found = {"search/as_good": float(self.winner.as_good), "search/seconds": self.seconds}
        return found | ({} if self.optimism is None else {"search/optimism": self.optimism})

    def row(self) -> dict[str, object]:
        """The winner in a line of a table over studies."""
        row = self.table[self.table["number"] == self.winner.trial.number].iloc[0]
        bounds = {
            end: self.final.get(f"{_held_out(self.assignment.objectives[0].metric)}_{end}") for end in ("low", "high")
        }
        named = {name: row[name] for name in ("site", "pooler", "classifier") if pd.notna(row[name])}
        return {
            "study": self.assignment.study, "trials": len(self.table), **(named or dict(self.winner.trial.params)), "metric": self.assignment.objectives[0].metric,
            "value": self.value, "test": self.test, "test_low": bounds["low"], "test_high": bounds["high"], "optimism": self.optimism,
        }  # fmt: skip

    def __str__(self) -> str:
        one, metric = self.assignment, self.assignment.objectives[0].metric
        states = self.table["state"].value_counts()
        counts = ", ".join(f"{states[state]} {state}" for state in ("complete", "pruned", "failed") if state in states)
        row = self.table[self.table["number"] == self.winner.trial.number].iloc[0]
        lines = [
            f"search {one.study}: {len(self.table)} trials ({counts}) in {self.seconds:.0f} s",
            f"winner: trial {self.winner.trial.number}: {point_text(self.winner.trial)}",
            f"  {metric} {_number(self.value)}{_interval(row['low'], row['high'])}; {self.winner.as_good} trials within one standard error of the best",
        ]
        if self.test is not None:
            name = _held_out(metric)
            bounds = _interval(self.final.get(f"{name}_low"), self.final.get(f"{name}_high"))
            lines.append(f"  {name} {_number(self.test)}{bounds}, judged once; optimism {self.optimism:+.3f}")
        lines += self._curve()
        best = best_per(self.table, "kind", one.objectives[0])
        if len(best) > 1:
            width = max(len(str(name)) for name in best["kind"])
            lines.append("best of each classifier:")
            for item in best.to_dict("records"):
                score = f"{_number(item['value'])}{_interval(item['low'], item['high'])}"
                own = "" if item["classifier"] == item["kind"] else f" {rounded(item['classifier'])}"
                lines.append(f"  {str(item['kind']).ljust(width)}  {score}  {item['site']} {item['pooler']}{own}")
        return "\n".join([*lines, *([self.text] if self.text else [])])

    def _curve(self) -> list[str]:
        """A line per layer with the best over everything else, where the trials are of several layers of one kind of site."""
        best = best_per(self.table, "site", self.assignment.objectives[0])
        best = best[best["layer"].notna()].sort_values("layer")
        if len(best) < 3 or best["name"].nunique() > 1:
            return []
        shown = best.rename(columns={"value": "score"}).assign(
            site=best["site"] + "  " + best["pooler"] + ", " + best["classifier"].map(rounded), pooler=""
        )
        return ["best of each layer:", *curve(shown)]


def trials_table(study: optuna.Study, objectives: Sequence[Objective]) -> pd.DataFrame:
    """A row per trial in the order of slots: COLUMNS, then ``param:…``, ``metric:…``, and further objectives as ``value_1``…"""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished() and not is_lost(trial)]
    frame = pd.DataFrame([_row(trial, objectives) for trial in sorted(trials, key=slot_of)])
    return frame.reindex(columns=[*COLUMNS, *(name for name in frame if name not in COLUMNS)]).astype(
        {"layer": "Int64"}
    )


def best_per(table: pd.DataFrame, column: str, objective: Objective) -> pd.DataFrame:
    """The best row for every value of a column, best first."""
    done = table[(table["state"] == "complete") & table["feasible"] & table[column].notna()]
    ranked = done.assign(_score=objective.sign * done["value"]).sort_values("_score", ascending=False, kind="stable")
    return ranked.drop_duplicates(column).drop(columns="_score")


def point_text(trial: FrozenTrial) -> str:
    """``sites=19, poolers=last, probe=ridge`` with the job's own names where it gave them."""
    tags = trial.user_attrs["record"]["tags"]
    named = [rounded(tags[name]) for name in ("site", "pooler", "classifier") if name in tags]
    return ", ".join(named) if named else ", ".join(f"{name}={value}" for name, value in trial.params.items())


def rounded(label: str) -> str:
    """A label with its long numbers cut to three digits: ``logistic(C=0.013)`` for ``logistic(C=0.012965652453390854)``."""
    return _LONG_NUMBER.sub(lambda match: f"{float(match[0]):.3g}", label)


def _row(trial: FrozenTrial, objectives: Sequence[Objective]) -> dict[str, object]:
    record = trial.user_attrs.get("record", {"run_id": None, "metrics": {}, "tags": {}})
    metrics, tags = record["metrics"], record["tags"]
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}
    metric = objectives[0].metric
    values = trial.values if trial.state == TrialState.COMPLETE else [None] * len(objectives)
    return {
        "number": trial.number, "slot": slot_of(trial), "state": states.get(trial.state, "failed"), "run_id": record["run_id"],
        "value": values[0], "low": metrics.get(f"{metric}_low"), "high": metrics.get(f"{metric}_high"),
        "feasible": is_feasible(trial), "site": tags.get("site"), "name": tags.get("site_name"), "layer": metrics.get("layer"),
        "pooler": tags.get("pooler"), "classifier": tags.get("classifier"), "kind": tags.get("kind"), "seconds": metrics.get("seconds"),
        "error": trial.user_attrs.get("error"),
        **{f"value_{index}": value for index, value in enumerate(values) if index},
        **{f"param:{key}": value for key, value in trial.params.items()},
        **{f"metric:{key}": value for key, value in metrics.items()},
    }  # fmt: skip


def _held_out(metric: str) -> str:
    return f"test/{metric.partition('/')[2]}"


def _number(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1) if 0 <= value < 1 else f"{value:.3f}"


def _interval(low: float | None, high: float | None) -> str:
    if low is None or high is None or pd.isna(low) or pd.isna(high):
        return ""
    return f" [{_number(low)}, {_number(high)}]"
