"""What an alignment records: its pairs, its table, maps and curves, and the best plan."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from layerwise.measures.statistics import wilson_interval

if TYPE_CHECKING:
    from layerwise.interventions.alignment.align import Aligned
    from layerwise.interventions.alignment.causal_model import Setting
    from layerwise.interventions.alignment.config import Alignment as Settings
    from layerwise.interventions.alignment.known import Drawn
    from layerwise.interventions.alignment.tasks import AlignmentTask
    from layerwise.tracking.run import Tracker

EXAMPLES = 200  # counterfactuals kept as a table


def table_of(found: list[Aligned], before: list[Aligned]) -> pd.DataFrame:
    """A row for each hypothesis, and for each of several places alone. ``before``: the same of a model that was trained since, or none."""
    rows = []
    for number, one in enumerate(found):
        first = {
            "variables": ", ".join(one.hypothesis.variables),
            "place": " + ".join(f"{site} {positions}" for site, positions in one.hypothesis.places),
        }
        rows.append(
            {
                **first, **_where(one), **_accuracy(one.right),
                "control": None if one.control is None else one.control.mean(), "whole": None if one.whole is None else one.whole.mean(),
                "before": before[number].accuracy if before else None,
                "last_loss": one.losses[-1] if len(one.losses) else None, "share": one.shares[0].sum() if one.shares else None,
            }
        )  # fmt: skip
        for (site, positions), right in zip(one.hypothesis.places, one.alone, strict=False):
            rows.append({**first, "place": f"{site} {positions} alone", "layer": -1, **_accuracy(right)})
    return pd.DataFrame(rows)


def _where(one: Aligned) -> dict[str, Any]:
    sites = one.plan.model.sites
    site, positions = one.hypothesis.places[0]
    single = len(one.hypothesis.places) == 1
    layer = sites.layer_of(str(sites.one(site))) if sites.stacks and single else None
    return {"site": site, "layer": -1 if layer is None else layer, "positions": positions}


def _accuracy(right: Any) -> dict[str, float]:
    interval = wilson_interval(int(right.sum()), len(right))
    return {"accuracy": interval.estimate, "low": interval.low, "high": interval.high}


def record_pairs(
    task: AlignmentTask, train: Drawn, held_out: Drawn, variables: tuple[str, ...], tracker: Tracker
) -> None:
    """The bases as datasets of the run, and the first counterfactuals as a table."""
    from layerwise.data.dataset import TextDataset
    from layerwise.interventions.alignment.tasks import TextTask

    name = "_".join(variables)
    rows = []
    for role, drawn in (("train", train), ("test", held_out)):
        pairs = drawn.pairs
        if isinstance(task, TextTask):
            texts = tuple(task.text(setting)[0] for setting in pairs.base)
            tracker.dataset(TextDataset(f"{task.name}, bases for {name}", texts), role)
        for number in range(min(EXAMPLES, len(pairs))):
            base = {f"base {name}": str(pairs.base[number][name]) for name in task.causal.inputs}
            sources = {
                f"{variable} of the source": str(pairs.sources[variable][number][variable]) for variable in variables
            }
            swapped = ", ".join(pairs.swapped[number])
            answers = {"answer": str(pairs.base[number][pairs.output]), "exchanged": str(pairs.answers[number])}
            rows.append({"role": role, **base, **sources, "swapped": swapped, **answers})
    tracker.table(
        pd.DataFrame(rows), f"counterfactuals_{''.join(c if c.isalnum() else '_' for c in '_'.join(variables))}"
    )


def record(
    settings: Settings, task: AlignmentTask, model: Any, example: Setting, found: list[Aligned], table: pd.DataFrame, tracker: Tracker
) -> None:  # fmt: skip
    """Tables, curves, figures, of them those of one text with an example, and the best plan."""
    from layerwise.interventions.saving import save
    from layerwise.reports.interventions.alignment import alignment_charts, basis_charts
    from layerwise.reports.interventions.causal_graph import CausalGraph

    tracker.table(table, "alignment")
    rows = table[table["layer"] >= 0] if "layer" in table else table[:0]
    for (variables, site, positions), part in rows.assign(name=rows["site"].str.split(".").str[0]).groupby(
        ["variables", "name", "positions"], sort=False
    ):
        name = f"held_out/accuracy_{_file(f'{variables}_{site}_{positions}')}"
        tracker.curve(name, dict(zip(part["layer"], part["accuracy"], strict=True)))
    best = max(range(len(found)), key=lambda number: found[number].accuracy)
    tracker.metrics({"best/interchange_intervention_accuracy": found[best].accuracy})
    losses = {
        str(one.hypothesis): one.losses for one in sorted(found, key=lambda one: -one.accuracy)[:6] if len(one.losses)
    }
    graph = {name: variable.parents for name, variable in task.causal.variables.items()}, task.causal.steps
    chosen = tuple(name for one in found for name in one.hypothesis.variables)
    live = task.causal.live_edges(example)
    tokens = _blocks(found[best], settings.size, task, example)
    charts = {
        "causal_model": CausalGraph(task.name, *graph, chosen),
        "causal_model_example": CausalGraph(f"What matters to one input of {task.name}", *graph, chosen, live),
        **alignment_charts(table, losses, task.name, model.name),
        **basis_charts(str(found[best].hypothesis), tokens, found[best].shares),
    }  # fmt: skip
    for name, chart in charts.items():
        tracker.figure(chart, name)
    with tempfile.TemporaryDirectory() as folder:
        save(found[best].plan, Path(folder) / "best_plan")
        tracker.file(Path(folder) / "best_plan")


def _blocks(one: Aligned, size: int, task: AlignmentTask, example: Setting) -> dict[str, pd.DataFrame]:
    """By place whose tokens are joined, the share of each variable's directions that lies in each token, as of an example."""
    from layerwise.interventions.alignment.heat import token_shares

    if not one.hypothesis.joined:
        return {}
    units = {unit.key: unit for unit in one.plan.units}
    width = {key: one.plan.model.sites.width_of(unit.place.site) for key, unit in units.items()}
    variables, found = list(one.hypothesis.variables), {}
    for (key, unit), basis in zip(units.items(), one.bases, strict=True):
        shares = token_shares(basis, basis.shape[0] // width[key], len(variables), size)
        names = _token_names(one.plan.model, task, example, str(unit.step.positions))
        found[str(unit.place)] = pd.DataFrame(shares, names, variables)
    return found


def _token_names(model: Any, task: AlignmentTask, example: Setting, positions: str) -> list[str]:
    """The tokens of one text that positions mean, each with its number."""
    from layerwise.interventions.positions import Positions
    from layerwise.models.model import LanguageModel

    prompts = task.encode(model, [example])
    columns = Positions(positions).of(0, int(prompts.batch.mask.sum()), prompts)
    if not isinstance(model, LanguageModel):
        return [str(column) for column in columns]
    ids = prompts.batch.inputs["input_ids"][0].tolist()
    return [f"{column}: {model.tokenizer.decode([ids[column]]).strip()}" for column in columns]


def _file(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name)
