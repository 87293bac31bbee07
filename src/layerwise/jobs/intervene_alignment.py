"""``intervention: alignment``: where does the model hold a variable of an algorithm?

The recipe: draw counterfactuals, keep those the model knows, train a rotation at every place, judge it on held-out pairs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from layerwise.errors import UserError
from layerwise.measures.statistics import wilson_interval

if TYPE_CHECKING:
    from layerwise.interventions.alignment.align import Aligned
    from layerwise.interventions.alignment.causal_model import Setting
    from layerwise.interventions.alignment.config import Alignment as Settings
    from layerwise.interventions.alignment.hypotheses import Hypothesis
    from layerwise.interventions.alignment.known import Drawn
    from layerwise.interventions.alignment.tasks import AlignmentTask
    from layerwise.jobs.intervene import InterveneConfig
    from layerwise.models.model import LanguageModel
    from layerwise.tracking.run import Tracker

SHOWN = 12
EXAMPLES = 200  # counterfactuals kept as a table


def run(config: InterveneConfig, model: LanguageModel | None, tracker: Tracker) -> str:
    """Draw, train, judge, record maps and curves; returns the summary."""
    from layerwise.files import digest
    from layerwise.interventions.alignment.bundled import find_task
    from layerwise.interventions.alignment.known import draw_known
    from layerwise.models.model import LanguageModel

    settings: Any = config.intervention
    task = find_task(settings.task)
    variables = _variables(task, settings)
    subject: Any = _need_model(task, model, config.seed)
    tracker.begin(model=subject.fingerprint, data=digest([settings.task, str(task.causal)]))
    tracker.name(f"alignment: {task.name} in {subject.name}")
    tracker.tags({"intervention": "alignment", "task": task.name, "variables": ",".join(settings.variables)})
    if isinstance(subject, LanguageModel) and model is not None:
        tracker.language_model(subject)
    tracker.text(str(task.causal), "causal_model.txt")
    lines, found = [], []
    for chosen in variables:
        train, held_out = (
            draw_known(
                subject, task, chosen, n, config.seed, held_out=late, known_only=settings.known_only, token_budget=config.token_budget
            )
            for n, late in ((settings.pairs, False), (settings.held_out, True))
        )  # fmt: skip
        _record_pairs(task, train, held_out, chosen, tracker)
        lines += _anchors(task, chosen, train, held_out)
        found += _align(config, subject, task, chosen, train, held_out)
    tracker.metrics({"held_out/task_accuracy": held_out.accuracy})
    table = _table(found)
    _record(settings, task, subject, held_out.pairs.base[0], found, table, tracker)
    return "\n".join([f"alignment of {task.name} in {subject.name}: {_how(settings)}", *lines, *_best(table)])


def _variables(task: AlignmentTask, settings: Settings) -> list[tuple[str, ...]]:
    """The variables of each rotation."""
    names = settings.variables or task.causal.inner
    for name in names:
        task.causal.variable(name)
    return [tuple(names)] if settings.together else [(name,) for name in names]


def _need_model(task: AlignmentTask, model: LanguageModel | None, seed: int) -> Any:
    from layerwise.interventions.alignment.networks import TRAINING_STEPS
    from layerwise.interventions.alignment.tasks import VectorTask
    from layerwise.progress import Progress

    if model is not None:
        if isinstance(task, VectorTask):
            raise UserError(f"{task.name} is put to a network of its own, not to {model.name}: say model: null.")
        return model
    if task.learn is None:
        raise UserError(f"{task.name} has no network of its own: name a model.")
    with Progress(f"a network learns {task.name}", TRAINING_STEPS.get(task.learn, 0), "step") as progress:
        return task.learn(task, seed, progress.advance)


def _align(
    config: InterveneConfig, model: Any, task: AlignmentTask, variables: tuple[str, ...], train: Drawn, held_out: Drawn
) -> list[Aligned]:
    from layerwise.activations.store import Store
    from layerwise.interventions.alignment.align import Alignment
    from layerwise.interventions.alignment.hypotheses import plan_of
    from layerwise.interventions.alignment.interchange_training import train_with_interchanges
    from layerwise.models.model import LanguageModel
    from layerwise.progress import Progress

    settings: Any = config.intervention
    hypotheses = _hypotheses(model, settings, variables)
    store = Store(config.store) if isinstance(model, LanguageModel) and not settings.train_model else None
    alignment = Alignment(
        model, task, settings.method, settings.size, settings.training, config.seed, config.token_budget, store=store
    )
    found: dict[int, Aligned] = {}
    name = f"alignment of {', '.join(variables)}"
    if settings.method == "interchange":
        if settings.train_model:
            with Progress(name, settings.training.epochs * len(train.pairs), "pair") as progress:
                plan = plan_of(hypotheses[0], "interchange", settings.size, config.seed)
                train_with_interchanges(
                    model, task, plan, train.pairs, settings.training, seed=config.seed, done=progress.advance
                )
        plans = alignment.plans(hypotheses, held_out.pairs, "interchange", config.seed)
        found = dict(alignment.judge(hypotheses, plans, held_out.pairs))
    else:
        runs = len(hypotheses) * settings.training.epochs * len(train.pairs)
        print(f"{name}: {len(hypotheses)} rotations, {runs:,} exchanged runs to train them", file=sys.stderr)
        with Progress(name, runs, "run") as progress:
            found = dict(alignment.search(hypotheses, train.pairs, held_out.pairs, progress.advance))
    return [found[number] for number in range(len(hypotheses))]


def _hypotheses(model: Any, settings: Settings, variables: tuple[str, ...]) -> list[Hypothesis]:
    from layerwise.interventions.alignment.hypotheses import Hypothesis

    sites = model.sites.expand(list(settings.sites))
    places = tuple((site, positions) for site in sites for positions in settings.positions)
    if settings.joint == "places" or settings.train_model:
        return [Hypothesis(variables, places, settings.joint == "tokens")]
    return [Hypothesis(variables, (place,), settings.joint == "tokens") for place in places]


def _table(found: list[Aligned]) -> pd.DataFrame:
    """A row for each hypothesis, and for each of several places alone."""
    rows = []
    for one in found:
        first = {
            "variables": ", ".join(one.hypothesis.variables),
            "place": " + ".join(f"{site} {positions}" for site, positions in one.hypothesis.places),
        }
        rows.append(
            {
                **first, **_where(one), **_accuracy(one.right),
                "control": None if one.control is None else one.control.mean(), "whole": None if one.whole is None else one.whole.mean(),
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


def _record_pairs(
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


def _anchors(task: AlignmentTask, variables: tuple[str, ...], train: Drawn, held_out: Drawn) -> list[str]:
    unchanged = 1 - sum(held_out.pairs.changed) / len(held_out.pairs)
    return [
        f"{', '.join(variables)}: the model answers {held_out.accuracy:.1%} of held-out inputs rightly; {len(train.pairs):,} pairs to "
        f"train, {len(held_out.pairs):,} held out; with nothing exchanged {unchanged:.1%} would be right"
    ]


def _how(settings: Settings) -> str:
    return (
        f"{settings.method}, {settings.size} numbers a variable"
        if settings.method in ("low_rank", "rotation", "interchange")
        else settings.method
    )


def _best(table: pd.DataFrame) -> list[str]:
    lines = ["interchange intervention accuracy, held out:"]
    rows: list[dict[str, Any]] = table.sort_values("accuracy", ascending=False).head(SHOWN).to_dict("records")  # type: ignore[assignment]
    for row in rows:
        beside = [f"{name} {row[name]:.3f}" for name in ("control", "whole") if pd.notna(row[name])]
        beside += [f"{row['share']:.1f} numbers exchanged"] if pd.notna(row["share"]) else []
        score = f"{row['accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        lines.append(f"  {row['variables']} at {row['place']}: {score}" + (f" ({', '.join(beside)})" if beside else ""))
    if len(table) > SHOWN:
        lines.append(f"  and {len(table) - SHOWN} more in tables/alignment.parquet")
    return lines


def _record(
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
