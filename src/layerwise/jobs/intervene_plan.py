"""``intervention: plan``: any plan on pairs of prompts, the metric before and under it beside a control, and what the model writes."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from layerwise.errors import UserError
from layerwise.jobs.intervene_pairs import begin_on_pairs, need_model, progress_of

if TYPE_CHECKING:
    from layerwise.interventions.exchange.config import AnyPlan
    from layerwise.interventions.intervened import Intervened
    from layerwise.jobs.intervene import InterveneConfig
    from layerwise.models.model import LanguageModel
    from layerwise.tracking.run import Tracker


def run(config: InterveneConfig, model: LanguageModel | None, tracker: Tracker) -> str:
    """Lay the plan over the model, measure, write, record; returns the summary."""
    from layerwise.interventions.carried import carry_out
    from layerwise.interventions.exchange.config import AnyPlan
    from layerwise.interventions.metrics import metric_entry
    from layerwise.measures.statistics import mean_interval
    from layerwise.reports.charts import Histogram

    settings: Any = config.intervention
    assert isinstance(settings, AnyPlan)
    model = need_model(config, model)
    intervened = laid_over(settings, model)
    servable = _is_servable(intervened)
    if settings.prompts and not servable:
        raise UserError(
            "intervention.prompts: a plan that reads another run, or positions of each text, writes no texts of its own."
        )
    asked, _ = begin_on_pairs(config, model, tracker)
    with progress_of("plan", 4, asked) as done:
        found = carry_out(
            intervened,
            asked,
            config.metric,
            base=settings.base,
            seed=config.seed,
            token_budget=config.token_budget,
            done=done,
        )
    source = "corrupted" if settings.base == "clean" else "clean"
    names = {"base": settings.base, "source": source, "plan": "plan", "control": "control"}
    values = {names[name]: column for name, column in found.items()}
    tracker.metrics({f"{name}/{config.metric}": float(column.mean()) for name, column in values.items()})
    changes = {name: values[name] - values[settings.base] for name in ("plan", "control") if name in values}
    intervals = {
        name: mean_interval(change, bounds=(-np.inf, np.inf), seed=config.seed) for name, change in changes.items()
    }
    for name, interval in intervals.items():
        tracker.metrics(
            {
                f"{name}/change": interval.estimate,
                f"{name}/change_low": interval.low,
                f"{name}/change_high": interval.high,
            }
        )
    own = {"prompt": asked.pairs.clean if settings.base == "clean" else asked.pairs.corrupted}
    tracker.table(pd.DataFrame(own | values), "pairs")
    words = metric_entry(config.metric).words
    tracker.figure(Histogram(f"{model.name} under the plan", words, values), "plan")
    tracker.text(str(intervened.plan), "plan.txt")
    lines = [str(intervened.plan), "", f"{words}, {len(asked)} pairs of {asked.pairs.name}:"]
    lines += [f"  {name}: {column.mean():+.3f}" for name, column in values.items()]
    lines += [
        f"change under the {name}: {interval.estimate:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
        for name, interval in intervals.items()
    ]
    lines += _samples(settings, intervened, tracker)
    lines.append(_keep(settings, intervened, servable, {"plan/" + config.metric: float(found["plan"].mean())}, tracker))
    return "\n".join(lines)


def laid_over(settings: AnyPlan, model: LanguageModel) -> Intervened:
    """The plan that the settings say or name, over a model."""
    from layerwise.interventions.exchange.reading import read
    from layerwise.interventions.intervened import Intervened
    from layerwise.interventions.plan import Plan

    if settings.read:
        return read(settings.read, model, trust_code=settings.trust_code)
    return Intervened(model, Plan.of(settings.plan, "intervention.plan"), trust_code=settings.trust_code)


def _is_servable(intervened: Intervened) -> bool:
    from layerwise.tracking.servable_steered import check_servable

    try:
        check_servable(intervened)
    except UserError:
        return False
    return True


def _samples(settings: AnyPlan, intervened: Intervened, tracker: Tracker) -> list[str]:
    """What the model writes behind the prompts, as it is and under the plan: a table, and its first rows as lines."""
    from layerwise.models.generation import continue_texts

    if not settings.prompts:
        return []
    model, length = intervened.model, settings.max_new_tokens
    plain = continue_texts(model, settings.prompts, max_new_tokens=length)
    steered = continue_texts(model, settings.prompts, max_new_tokens=length, around=intervened.generating)
    table = pd.DataFrame({"prompt": settings.prompts, "plain": plain, "plan": steered})
    tracker.table(table, "samples")
    return [
        f"  {name}: {prompt}{text}".replace("\n", " ")[:150]
        for prompt, *texts in zip(settings.prompts, plain, steered, strict=True)
        for name, text in zip(("plain", "plan"), texts, strict=True)
    ]


def _keep(
    settings: AnyPlan, intervened: Intervened, servable: bool, metrics: dict[str, float], tracker: Tracker
) -> str:
    """The plan as a servable model, or as a folder of the run where it needs more than a prompt."""
    from layerwise.interventions.saving import save
    from layerwise.tracking.servable_steered import log_steered

    if servable:
        uri = log_steered(tracker, intervened, metrics=metrics, register=settings.register)
        return f"steered model: {uri}"
    if settings.register:
        raise UserError("intervention.register: a plan that needs more than a prompt cannot be served.")
    with TemporaryDirectory() as folder:
        save(intervened, Path(folder) / "plan", alone=True)
        tracker.file(Path(folder) / "plan")
    return "the plan is the run's artifact 'plan'"
