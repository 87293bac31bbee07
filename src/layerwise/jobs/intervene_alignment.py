"""``intervention: alignment``: where does the model hold a variable of an algorithm?

The recipe: draw counterfactuals, keep those the model knows, train a rotation at every place, judge it on held-out pairs.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pandas as pd

from layerwise.errors import UserError
from layerwise.jobs.intervene_alignment_record import record, record_pairs, table_of

if TYPE_CHECKING:
    from layerwise.interventions.alignment.align import Aligned, Alignment
    from layerwise.interventions.alignment.config import Alignment as Settings
    from layerwise.interventions.alignment.hypotheses import Hypothesis
    from layerwise.interventions.alignment.known import Drawn
    from layerwise.interventions.alignment.tasks import AlignmentTask
    from layerwise.jobs.intervene import InterveneConfig
    from layerwise.models.model import LanguageModel
    from layerwise.tracking.run import Tracker

SHOWN = 12


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
    lines, found, before = [], [], []
    for chosen in variables:
        train, held_out = (
            draw_known(
                subject, task, chosen, n, config.seed, held_out=late, known_only=settings.known_only, token_budget=config.token_budget
            )
            for n, late in ((settings.pairs, False), (settings.held_out, True))
        )  # fmt: skip
        record_pairs(task, train, held_out, chosen, tracker)
        lines += _anchors(task, chosen, train, held_out)
        alignment, hypotheses = _alignment(config, subject, task), _hypotheses(subject, settings, chosen)
        if settings.train_model:
            before += _aligned(alignment, hypotheses, train, held_out, " before it is trained")
            trained = _train_model(config, subject, task, chosen, hypotheses[0], train)
            lines.append(f"trained with interchanges, it answers {trained:.1%} of held-out inputs rightly")
            tracker.metrics({"held_out/task_accuracy_trained": trained})
        found += _aligned(alignment, hypotheses, train, held_out)
    tracker.metrics({"held_out/task_accuracy": held_out.accuracy})
    table = table_of(found, before)
    record(settings, task, subject, held_out.pairs.base[0], found, table, tracker)
    return "\n".join([f"alignment of {task.name} in {subject.name}: {_how(settings)}", *lines, *_best(table)])


def _variables(task: AlignmentTask, settings: Settings) -> list[tuple[str, ...]]:
    """The variables of each rotation."""
    names = settings.variables or task.causal.inner
    for name in names:
        task.causal.variable(name)
    if settings.train_model and len(names) > 1 and not settings.together:
        raise UserError(
            f"a model is trained to hold one variable, or several in one basis, and {', '.join(names)} would each train it anew.\n"
            "Name one in variables, or say together: true."
        )
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


def _alignment(config: InterveneConfig, model: Any, task: AlignmentTask) -> Alignment:
    from layerwise.activations.store import Store
    from layerwise.interventions.alignment.align import Alignment
    from layerwise.models.model import LanguageModel

    settings: Any = config.intervention
    store = Store(config.store) if isinstance(model, LanguageModel) and not settings.train_model else None
    return Alignment(
        model, task, settings.method, settings.size, settings.training, config.seed, config.token_budget, store=store
    )


def _aligned(
    alignment: Alignment, hypotheses: list[Hypothesis], train: Drawn, held_out: Drawn, when: str = ""
) -> list[Aligned]:
    """Every hypothesis, its rotation trained where the method has one, and judged."""
    from layerwise.progress import Progress

    if alignment.method == "interchange":
        plans = alignment.plans(hypotheses, held_out.pairs, "interchange", alignment.seed)
        found = dict(alignment.judge(hypotheses, plans, held_out.pairs))
    else:
        name = f"alignment of {', '.join(hypotheses[0].variables)}{when}"
        runs = len(hypotheses) * alignment.training.epochs * len(train.pairs)
        print(f"{name}: {len(hypotheses)} rotations, {runs:,} exchanged runs to train them", file=sys.stderr)
        with Progress(name, runs, "run") as progress:
            found = dict(alignment.search(hypotheses, train.pairs, held_out.pairs, progress.advance))
    return [found[number] for number in range(len(hypotheses))]


def _train_model(
    config: InterveneConfig,
    model: Any,
    task: AlignmentTask,
    variables: tuple[str, ...],
    where: Hypothesis,
    train: Drawn,
) -> float:
    """Interchange intervention training of the model at a hypothesis' places; its share of right answers to held-out inputs then."""
    from layerwise.interventions.alignment.hypotheses import plan_of
    from layerwise.interventions.alignment.interchange_training import train_with_interchanges
    from layerwise.interventions.alignment.known import draw_known
    from layerwise.progress import Progress

    settings: Any = config.intervention
    with Progress("training with interchanges", settings.training.epochs * len(train.pairs), "pair") as progress:
        plan = plan_of(where, "interchange", settings.size, config.seed)
        train_with_interchanges(
            model, task, plan, train.pairs, settings.training, seed=config.seed, done=progress.advance
        )
    drawn = draw_known(
        model, task, variables, settings.held_out, config.seed, held_out=True, known_only=False, token_budget=config.token_budget
    )  # fmt: skip
    return drawn.accuracy


def _hypotheses(model: Any, settings: Settings, variables: tuple[str, ...]) -> list[Hypothesis]:
    from layerwise.interventions.alignment.hypotheses import Hypothesis

    sites = model.sites.expand(list(settings.sites))
    places = tuple((site, positions) for site in sites for positions in settings.positions)
    if settings.joint == "places" or settings.train_model:
        return [Hypothesis(variables, places, settings.joint == "tokens")]
    return [Hypothesis(variables, (place,), settings.joint == "tokens") for place in places]


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
        beside = [f"{name} {row[name]:.3f}" for name in ("control", "whole", "before") if pd.notna(row[name])]
        beside += [f"{row['share']:.1f} numbers exchanged"] if pd.notna(row["share"]) else []
        score = f"{row['accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        lines.append(f"  {row['variables']} at {row['place']}: {score}" + (f" ({', '.join(beside)})" if beside else ""))
    if len(table) > SHOWN:
        lines.append(f"  and {len(table) - SHOWN} more in tables/alignment.parquet")
    return lines
