"""``intervention: causal_check``: does the model use what a probe reads?

The recipe: load the probe and the texts that its run held out; ask the model about them; act along the probe's direction where it reads, and
along random directions of the same length; see whether behaviour moves, by more than with those.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from layerwise.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from layerwise.data.dataset import TextDataset
    from layerwise.data.pairs.pairs import PromptPairs
    from layerwise.interventions.steering.check import Checked
    from layerwise.interventions.steering.config import CausalCheck
    from layerwise.interventions.steering.doses import AgainstRandom
    from layerwise.jobs.intervene import InterveneConfig
    from layerwise.models.model import LanguageModel
    from layerwise.tracking.run import Tracker
    from layerwise.tracking.servable import AttachedProbe

VECTORS = {"weights": "The probe's weights", "pattern": "The probe's pattern", "means": "Difference of the class means"}


def run(config: InterveneConfig, model: LanguageModel | None, tracker: Tracker) -> str:
    """Load, ask, act, compare with chance, record; returns the summary."""
    from layerwise.interventions.metrics import metric_entry
    from layerwise.interventions.steering.check import check_direction
    from layerwise.interventions.steering.config import CausalCheck
    from layerwise.interventions.steering.doses import random_directions
    from layerwise.interventions.sweeps.asked import ask
    from layerwise.interventions.sweeps.ledger import Ledgers
    from layerwise.progress import Progress
    from layerwise.tracking.lineage import probe_uri, record_probe
    from layerwise.tracking.servable import load_probe

    settings: Any = config.intervention
    assert isinstance(settings, CausalCheck)
    metric_entry(config.metric)
    uri = probe_uri(tracker.server, settings.probe)
    attached = load_probe(uri, model)
    model = attached.model
    site = need_linear(attached, settings.vector != "means")
    positions = settings.positions or where_it_reads(attached, settings)
    fitted, held_out = _texts(config, tracker, uri)
    pairs, about = _prompts(config, settings, held_out)
    labels = None if about is None else about.labels
    key = tracker.begin(model=model.fingerprint, data=pairs.digest(), fitted=fitted.digest(), probe=uri)
    tracker.language_model(model)
    record_probe(tracker, uri)
    tracker.dataset(pairs, "prompts")
    asked = ask(model, pairs)
    for note in (*pairs.notes, *asked.notes):
        print(f"note: {note}", file=sys.stderr)

    rows, direction = probe_direction(attached, settings.vector, fitted, config.store)
    kinds = {"sphere": None, "activations": rows}
    controls: dict[str, Tensor] = {
        name: random_directions(direction, settings.random, config.seed + number, kinds[name])
        for number, name in enumerate(settings.control)
    }
    runs = (1 + settings.random * len(controls)) * (len(settings.strengths) + 1) * len(asked)
    with Ledgers(key) as ledgers, Progress("causal check", runs, "run") as progress:
        found = check_direction(
            asked, site, direction, controls, settings.strengths, config.metric, positions=positions,
            mean=rows.mean(0), labels=labels, token_budget=config.token_budget, ledgers=ledgers,
            done=progress.advance,
        )  # fmt: skip
    title = f"{VECTORS[settings.vector]} at {site} of {model.name}"
    tracker.name(f"causal check: {title}")
    tracker.tags(
        {
            "intervention": settings.kind,
            "site": site,
            "dataset": pairs.name,
            "metric": config.metric,
            "vector": settings.vector,
        }
    )
    length = float(direction.norm())
    spread = float((rows - rows.mean(0)).square().sum(1).mean().sqrt())
    tracker.metrics({"direction/length": length, "activations/spread": spread})
    lines = [
        f"{uri}: {title}, {found.doses.clean.size} prompts of {pairs.name}, acted on at {positions}",
        f"strength 1 is {length:.2f} long; activations lie {spread:.1f} from their mean",
        *_record(found, asked.pairs, () if about is None else about.label_names, config, tracker, title),
    ]
    return "\n".join(lines)


def need_linear(attached: AttachedProbe, weights: bool = True) -> str:
    """The one site of a probe of two classes. Raises UserError for a probe that has no direction, where its weights are asked for."""
    probe = attached.probe
    if len(probe.sites) != 1 or probe.pooler.startswith("none"):
        raise UserError(
            f"this probe reads {', '.join(probe.sites)} with the pooler {probe.pooler}: a direction needs one site and one vector of each text."
        )
    if probe.task != "classification" or len(probe.estimator.classes_) != 2:
        raise UserError("this probe does not tell two classes apart, so there is no one direction between them.")
    coefficients = getattr(probe.estimator, "coef_", None)
    if weights and (coefficients is None or np.ndim(coefficients) != 2 or len(coefficients) != 1):
        raise UserError(
            f"a probe {type(probe.estimator).__name__} has no weights that are a direction.\n"
            "Take a linear one, or say intervention.vector=means."
        )
    return str(probe.sites[0])


def where_it_reads(attached: AttachedProbe, settings: CausalCheck) -> str:
    """The tokens of a question's text that the probe reads, as positions. Raises UserError where pairs are asked, whose parts are others."""
    if settings.question is None:
        raise UserError(
            "where pairs are asked, say which of their tokens are acted on: intervention.positions, such as last."
        )
    kind = str(attached.probe.pooler).partition("@")[0]
    return {"last": "part:text:last", "span": "part:span"}.get(kind, "part:text")


def probe_direction(
    attached: AttachedProbe, vector: str, fitted: TextDataset, store: str | None
) -> tuple[Tensor, Tensor]:
    """What the probe reads in the texts (n, width), and its direction (width,), float32, as long as the classes lie apart along it."""
    import torch

    from layerwise.activations.collect import collect
    from layerwise.activations.store import Store
    from layerwise.interventions.steering.directions import as_far_as_the_classes, difference_of_means, pattern

    probe = attached.probe
    found = collect(
        attached.model, fitted, list(probe.sites), [probe.pooler], store=Store(store), max_length=probe.max_length
    )
    rows = torch.as_tensor(np.asarray(found.matrix(probe.sites[0]), dtype=np.float64))
    labels = torch.from_numpy(np.asarray(fitted.labels))
    if vector == "means":
        direction = difference_of_means(rows, labels)
    else:
        weights = torch.from_numpy(np.asarray(probe.estimator.coef_, dtype=np.float64))[0]
        direction = as_far_as_the_classes(pattern(weights, rows) if vector == "pattern" else weights, rows, labels)
    return rows.float(), direction.float()


def _texts(config: InterveneConfig, tracker: Tracker, uri: str) -> tuple[TextDataset, TextDataset]:
    """(fitted on, held out) texts: those of the probe's run, or the named ones divided as a probe would have divided them."""
    from layerwise.data.load import load_dataset
    from layerwise.data.splits import train_test
    from layerwise.jobs.probe_texts import texts_of

    if config.texts is None:
        return texts_of(tracker.server, uri)
    dataset = load_dataset(config.texts)
    development, test = train_test(dataset, seed=config.seed)
    return dataset.select(development), dataset.select(test)


def _prompts(
    config: InterveneConfig, settings: CausalCheck, held_out: TextDataset
) -> tuple[PromptPairs, TextDataset | None]:
    """The prompts, and the texts that they ask about."""
    from layerwise.data.pairs.load import load_pairs
    from layerwise.interventions.steering.questions import ask_about

    if settings.question is None:
        return load_pairs(config.pairs), None
    rows = np.random.default_rng(config.seed).permutation(len(held_out))[: settings.limit]
    chosen = held_out.select(np.sort(rows))
    return ask_about(chosen.texts, settings.question, chosen.groups, held_out.name, chosen.spans), chosen


def _record(
    found: Checked, pairs: PromptPairs, names: Sequence[str], config: InterveneConfig, tracker: Tracker, title: str
) -> list[str]:
    """Metrics, tables and figures; the lines that say what came out."""
    from layerwise.interventions.metrics import metric_entry
    from layerwise.measures.statistics import mean_interval
    from layerwise.reports.interventions.causal_check import causal_check_charts, class_chart

    words, clean = metric_entry(config.metric).words, found.doses.clean
    lines = [f"{words}: {clean.mean():+.3f} as it is"]
    texts = found.texts()
    texts.insert(1, "text", pairs.clean)
    tracker.metrics({f"clean/{config.metric}": float(clean.mean())})
    for name, against in _AGAINST.items():
        for control in found.controls:
            result = getattr(found, against)(control, config.seed)
            if result is not None:
                tracker.metrics(_metrics(name, control, result))
                lines.append(_line(name, control, result))
    bands = {}
    for strength, effects in zip(found.doses.strengths, found.doses.effects[0], strict=True):
        interval = mean_interval(effects, bounds=(-np.inf, np.inf), seed=config.seed)
        bands[float(strength)] = (interval.low, interval.high)
    table = found.table()
    tracker.table(table, "doses")
    tracker.table(texts, "prompts")
    charts = causal_check_charts(table, bands, config.metric.replace("_", " "), title)
    if found.gap is not None:
        classes = _classes(texts, found.doses.strengths, names)
        tracker.metrics(
            {f"clean/{config.metric}_class_{label}": float(clean[found.labels == label].mean()) for label in (0, 1)}
        )
        charts["classes"] = class_chart(classes, config.metric.replace("_", " "), title)
        lines[1:1] = _class_lines(classes, found.gap)
    for name, chart in charts.items():
        tracker.figure(chart, name)
    return lines


_AGAINST = {"added": "added_against", "removed": "removed_against", "closed": "closed_against"}


def _classes(texts: pd.DataFrame, strengths: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """A row for each class and strength, 0 among them: the metric of the class's texts, with its interval over them."""
    from layerwise.measures.statistics import mean_interval

    rows = []
    for label, name in enumerate(names):
        for strength in sorted([0.0, *strengths]):
            values = texts.loc[texts["label"] == label, f"strength_{strength:g}" if strength else "clean"]
            interval = mean_interval(values.to_numpy(), bounds=(-np.inf, np.inf))
            rows.append((name, strength, interval.estimate, interval.low, interval.high))
    return pd.DataFrame(rows, columns=["class", "strength", "value", "low", "high"])


def _class_lines(classes: pd.DataFrame, gap: float) -> list[str]:
    """Of each class, the metric in every dose."""
    lines = [f"as it is, the two classes are {gap:+.3f} apart; by strength of the probe's direction:"]
    for name, rows in classes.groupby("class", sort=False):
        lines.append(f"  {name}: " + ", ".join(f"{row.value:+.2f} at {row.strength:+g}" for row in rows.itertuples()))
    return lines


def _metrics(name: str, control: str, result: AgainstRandom) -> dict[str, float]:
    own = result.own
    values = {
        f"{name}/effect": own.estimate, f"{name}/effect_low": own.low, f"{name}/effect_high": own.high,
        f"{name}/p_{control}": result.p, f"{name}/times_{control}": result.times_random,
        f"{name}/rms_{control}": float(np.sqrt(np.mean(result.random**2))),
    }  # fmt: skip
    return {key: value for key, value in values.items() if np.isfinite(value)}


def _line(name: str, control: str, result: AgainstRandom) -> str:
    what = {
        "added": "added, per unit of strength", "removed": "projected out",
        "closed": "projected out, the classes come closer by",
    }[name]  # fmt: skip
    own = f"{what}: {result.own.estimate:+.4f} [{result.own.low:+.4f}, {result.own.high:+.4f}]"
    if not result.random.any():
        return f"{own}; random directions ({control}) do nothing at all: no later token sees what is changed there"
    return f"{own}; {result.times_random:.1f} times random ({control}), p {result.p:.3f}: {result.verdict}"
