"""``ablate``: what does each named change to a training change? The base and every change, trained from the same seeds.

The recipe: train base and changes with each seed as child runs, take one metric of each, and compare every change with the base
seed by seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from layerwise.errors import UserError, check_seed

if TYPE_CHECKING:
    import pandas as pd

    from layerwise.jobs.train import TrainConfig
    from layerwise.tracking.run import Tracker

BASE = "base"


@dataclass(frozen=True)
class AblateConfig:
    """Changes to a training, each by itself.

    base: the fields of the job train that all have in common; ``config`` among them names a file with more of them.
    changes: a name for each change, and the fields it sets: ``no_norm: {model.norm: none}``.
    metric: what is compared.
    seeds: how many seeds each is trained with, from ``seed``; the same ones for all.
    seed: the first.
    """

    base: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    metric: str = "val/loss"
    seeds: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not self.changes:
            raise UserError("changes: name at least one, such as `no_norm: {model.norm: none}`.")
        if BASE in self.changes:
            raise UserError(f"a change cannot be called {BASE!r}: that is what changes are compared with.")
        wrong = next((name for name, fields in self.changes.items() if not isinstance(fields, Mapping)), None)
        if wrong is not None:
            raise UserError(f"changes.{wrong} must be a mapping of fields of train, got {self.changes[wrong]!r}.")
        if self.seeds < 2:
            raise UserError(f"seeds must be at least 2, since one pair says nothing of chance: got {self.seeds}.")


def run(config: AblateConfig, tracker: Tracker) -> None:
    """Train all, compare, record. Raises UserError for what the person can mend."""
    import pandas as pd

    from layerwise.reports.training import ablation_chart

    trainings = _trainings(config)
    tracker.begin()
    tracker.name(f"ablate: {', '.join(config.changes)}")
    print(f"{len(trainings)} trainings of {config.seeds} seeds each, every one a child of this run", flush=True)
    rows = []
    for seed in range(config.seed, config.seed + config.seeds):
        for name, training in trainings.items():
            run_id, value = _train(name, replace(training, seed=seed), config.metric, tracker)
            rows.append({"training": name, "seed": seed, "value": value, "run_id": run_id})
            print(f"{name}, seed {seed}: {config.metric} {value:.4f}", flush=True)
    values = pd.DataFrame(rows)
    table = differences(values)
    tracker.table(values, "trainings")
    tracker.table(table, "changes")
    for row in table.to_dict("records"):
        found = {name: float(row[name]) for name in ("difference", "low", "high", "mean")} | {"p": float(row["p_holm"])}
        tracker.metrics({f"{row['change']}/{name}": value for name, value in found.items()})
    tracker.figure(ablation_chart(table, config.metric), "changes")
    tracker.summary(_text(table, values, config))


def _trainings(config: AblateConfig) -> dict[str, TrainConfig]:
    from pathlib import Path

    from layerwise.config import Layer, configure, read_mapping
    from layerwise.jobs.train import TrainConfig

    values = dict(config.base)
    path = values.pop("config", None)
    layers = [Layer(read_mapping(Path(path).expanduser()), path)] if path is not None else []
    base = configure(TrainConfig, *layers, Layer(_nested(values), "base"))
    changed = {
        name: configure(TrainConfig, Layer(_nested(fields), f"changes.{name}"), base=base)
        for name, fields in config.changes.items()
    }
    if same := [name for name, training in changed.items() if training == base]:
        raise UserError(f"changes.{same[0]} changes nothing: its fields have these values in the base.")
    return {BASE: base, **changed}


def _nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as mappings in mappings.

    >>> _nested({"model.norm": "none", "context": 8})
    {'model': {'norm': 'none'}, 'context': 8}
    """
    root: dict[str, Any] = {}
    for name, value in fields.items():
        *parents, last = str(name).split(".")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return root


def _train(name: str, training: TrainConfig, metric: str, tracker: Tracker) -> tuple[str, float]:
    """One training as a child run, or the finished one that did it already: its id and metric; NaN where it diverged."""
    from layerwise.errors import unknown
    from layerwise.jobs.train import run as train
    from layerwise.tracking.children import ChildTracker
    from layerwise.tracking.run import Reused
    from layerwise.tracking.trials import ending
    from layerwise.training.trainer import Diverged

    child = ChildTracker(tracker, "train", training, {"ablation": name})
    try:
        with ending(child):
            train(training, child)
        run_id = child.run_id
    except Reused as reused:
        run_id = reused.run_id
    except Diverged:
        return child.run_id, float("nan")
    found = tracker.client.get_run(run_id).data.metrics
    if metric not in found:
        raise unknown("metric of a training", metric, [key for key in found if not key.startswith("system/")])
    return run_id, float(found[metric])


def differences(values: pd.DataFrame) -> pd.DataFrame:
    """Each change less the base, seed by seed: mean, difference with its 95 % interval and p-value by the paired t-test, and p
    corrected for the number of changes (Holm).

    values: columns ``training``, ``seed``, ``value``. Seeds of which either diverged are left out; fewer than two left give NaN.
    """
    import numpy as np
    import pandas as pd

    from layerwise.measures.statistics import corrected_t_test, holm

    wide = values.pivot(index="seed", columns="training", values="value")
    rows = []
    for name in dict.fromkeys(values["training"]):
        if name == BASE:
            continue
        pairs = wide[[name, BASE]].dropna()
        apart = (pairs[name] - pairs[BASE]).to_numpy()
        low = high = p = np.nan
        if len(apart) > 1:
            found = corrected_t_test(apart, 0.0)  # no folds that share texts: the ordinary paired test
            low, high, p = found.low, found.high, found.p
        rows.append(
            {"change": name, "mean": pairs[name].mean(), "base": pairs[BASE].mean(), "difference": apart.mean() if len(apart) else np.nan,
             "low": low, "high": high, "p": p, "pairs": len(apart)}
        )  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"].to_numpy()))


def _text(table: pd.DataFrame, values: pd.DataFrame, config: AblateConfig) -> str:
    diverged = values[values["value"].isna()]
    lines = [f"{config.metric} of each change less the base's, {config.seeds} pairs of seeds"]
    width = max(map(len, table["change"]))
    for row in table.itertuples():
        lines.append(
            f"  {row.change:<{width}} {row.mean:.4f} against {row.base:.4f}: {row.difference:+.4f} [{row.low:+.4f}, {row.high:+.4f}], "
            f"p = {row.p_holm:.3g} corrected for {len(table)}"
        )
    lines += [f"  {row.training}, seed {row.seed}: diverged, left out" for row in diverged.itertuples()]
    return "\n".join(lines)
