"""``intervention: steering``: a direction is found, added at every strength and site, and its effect set beside its price.

The recipe: find the direction in some texts; ask the model about others, with more and more of it added; measure neutral text under the same
doses; set random directions of the same length beside the best place; let the steered model write; keep the plan that does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from layerwise.errors import UserError
from layerwise.jobs.intervene_behaviour import Made, begin, divide, neutral_texts, rows_of, two_classes
from layerwise.jobs.intervene_pairs import need_model

if TYPE_CHECKING:
    from torch import Tensor

    from layerwise.interventions.intervened import Intervened
    from layerwise.interventions.steering.config import ITI, Steering
    from layerwise.interventions.steering.sweep import Dosed, Place
    from layerwise.interventions.sweeps.asked import AskedPairs
    from layerwise.jobs.intervene import InterveneConfig
    from layerwise.models.model import LanguageModel
    from layerwise.tracking.run import Tracker

RANDOM = "random"


def run(config: InterveneConfig, model: LanguageModel | None, tracker: Tracker) -> str:
    """Find, steer, price, compare with chance, write, record; returns the summary."""
    from layerwise.interventions.steering.config import Steering
    from layerwise.interventions.steering.doses import random_directions
    from layerwise.interventions.steering.sweep import dose_places, runs_of, stacked
    from layerwise.interventions.sweeps.ledger import Ledgers
    from layerwise.progress import Progress

    settings: Any = config.intervention
    assert isinstance(settings, Steering)
    model = need_model(config, model)
    found = Found.of(config, settings, model, tracker)
    asked, key = begin(config, model, found.made, tracker, **found.identity)
    if found.probe is not None:
        from layerwise.tracking.lineage import record_probe

        record_probe(tracker, found.probe)
    neutral = neutral_texts(settings.neutral)
    places = {site: stacked({site: vector}) for site, vector in found.directions(model).items()}
    arguments: dict[str, Any] = {"positions": settings.positions, "token_budget": config.token_budget}
    runs = runs_of(asked, neutral, len(places) + settings.random, settings.strengths)
    with Ledgers(key) as ledgers, Progress("steering", runs, "run") as progress:
        arguments |= {"ledgers": ledgers, "done": progress.advance}
        dosed = dose_places(asked, neutral, places, settings.strengths, config.metric, **arguments)
        best = max(dosed, key=lambda site: abs(float(dosed[site].doses.slopes()[0].mean())))
        name = f"{RANDOM} at {best}"
        random = {best: random_directions(places[best][best][0], settings.random, config.seed)}
        chance = dose_places(asked, neutral, {name: random}, settings.strengths, config.metric, **arguments)[name]
    by_layer = {model.sites.layer_of(site): float(one.doses.slopes()[0].mean()) for site, one in dosed.items()}
    if len(by_layer) == len(dosed) > 1:
        tracker.curve("curve/slope", {int(layer or 0): slope for layer, slope in by_layer.items()})
    lines = [f"steering: {found.words}, at {settings.positions} of {len(asked)} prompts of {asked.pairs.name}"]
    return "\n".join(lines + record(config, settings, model, asked, places, dosed, best, chance, tracker))


def record(
    config: InterveneConfig, settings: Steering | ITI, model: LanguageModel, asked: AskedPairs, places: Mapping[str, Place],
    dosed: Mapping[str, Dosed], best: str, chance: Dosed, tracker: Tracker,
) -> list[str]:  # fmt: skip
    """Metrics, tables, figures, samples and the plan; the lines that say what came out."""
    from layerwise.interventions.metrics import metric_entry
    from layerwise.interventions.steering.doses import against_random
    from layerwise.reports.interventions.steering import steering_charts
    from layerwise.tracking.servable_steered import log_steered

    words, own = metric_entry(config.metric).words, dosed[best]
    table = pd.concat([_table(site, one, "own") for site, one in dosed.items()] + [_table(best, chance, RANDOM)])
    tracker.table(table, "doses")
    slopes = np.concatenate([own.doses.slopes(), chance.doses.slopes()])
    result = against_random(slopes, asked.pairs.groups, seed=config.seed)
    tracker.metrics(
        {
            f"clean/{config.metric}": float(own.doses.clean.mean()), "clean/perplexity": own.clean_perplexity,
            "slope/effect": result.own.estimate, "slope/effect_low": result.own.low, "slope/effect_high": result.own.high,
            "slope/p": result.p,
        }
    )  # fmt: skip
    tracker.tags({"site": best})
    title = {"steering": "Steering", "iti": "Inference-time intervention"}[settings.kind]
    charts = steering_charts(
        table, best, config.metric.replace("_", " "), f"{title} of {model.name}", own.clean_perplexity
    )
    for name, chart in charts.items():
        tracker.figure(chart, name)
    lines = [
        f"{words}: {own.doses.clean.mean():+.3f} as it is; perplexity of neutral text {own.clean_perplexity:.1f}",
        f"best at {best}: {result.own.estimate:+.4f} [{result.own.low:+.4f}, {result.own.high:+.4f}] per unit of strength; "
        f"{result.times_random:.1f} times random, p {result.p:.3f}: {result.verdict}",
    ]
    for number, strength in enumerate(settings.strengths):
        lines.append(
            f"  strength {strength:+g}: {own.doses.effects[0, number].mean():+.3f} (random {_rms(chance, number):.3f}), "
            f"perplexity {own.perplexity[0, number]:.1f} (random {chance.perplexity[:, number].mean():.1f})"
        )
    if settings.samples.prompts:
        lines += _samples(settings, model, places[best], tracker)
    strongest = max(settings.strengths)
    uri = log_steered(tracker, steered(model, places[best], strongest))
    tracker.tags({"logged_model": uri})
    return [*lines, f"{uri}: the model at strength {strongest:+g}, to serve or to load"]


def _rms(chance: Dosed, number: int) -> float:
    return float(np.sqrt(np.mean(chance.doses.effects[:, number].mean(1) ** 2)))


def _table(place: str, one: Dosed, kind: str) -> pd.DataFrame:
    """A row for each direction and strength of a place; bounds of an own direction's effect over texts."""
    from layerwise.measures.statistics import mean_interval

    rows = []
    for number in range(len(one.perplexity)):
        for s, strength in enumerate(one.doses.strengths):
            effects = one.doses.effects[number, s]
            bounds = (np.nan, np.nan)
            if kind == "own":
                interval = mean_interval(effects, bounds=(-np.inf, np.inf))
                bounds = (interval.low, interval.high)
            rows.append((place, kind, number, strength, effects.mean(), *bounds, one.perplexity[number, s]))
    names = ["place", "kind", "direction", "strength", "effect", "low", "high", "perplexity"]
    return pd.DataFrame(rows, columns=names)


def _samples(settings: Steering | ITI, model: LanguageModel, place: Place, tracker: Tracker) -> list[str]:
    from layerwise.interventions.steering.sweep import write_steered

    rows, lines = [], []
    for strength in sorted({0.0, *settings.strengths}):
        texts = write_steered(model, place, strength, settings.samples.prompts, settings.samples.max_new_tokens)
        rows += [(strength, prompt, text) for prompt, text in zip(settings.samples.prompts, texts, strict=True)]
        lines.append(f"  {strength:+g}: {settings.samples.prompts[0]}{texts[0]}".replace("\n", " ")[:150])
    tracker.table(pd.DataFrame(rows, columns=["strength", "prompt", "continuation"]), "samples")
    return lines


def steered(model: LanguageModel, place: Place, strength: float) -> Intervened:
    """The model with the first direction of a place added at every token, prompt and new ones, as a plan."""
    from layerwise.interventions.intervened import Intervened
    from layerwise.interventions.plan import Plan, Step
    from layerwise.interventions.settings import Add

    steps, given = [], {}
    for site, vectors in place.items():
        name = f"add_{site}".replace(".", "_")
        steps.append(Step(Add(strength=strength, vector="given"), (site,), when="every", name=name))
        given[name] = vectors[0]
    return Intervened(model, Plan(tuple(steps)), given=given)


class Found:
    """Where directions come from: what they are found in, and how."""

    def __init__(self, made: Made, words: str, vectors: Any, probe: str | None = None) -> None:
        self.made, self.words, self._vectors, self.probe = made, words, vectors, probe
        self.identity = {} if probe is None else {"probe": probe}

    def directions(self, model: LanguageModel) -> dict[str, Tensor]:
        """By site, (width,) float32."""
        found: dict[str, Tensor] = self._vectors()
        for site, vector in found.items():
            if not bool(vector.any()):
                raise UserError(
                    f"what the model has of the two kinds is on average the same at {site}: there is no direction between them.\n"
                    "Read another token or site (intervention.read, intervention.sites)."
                )
        return {str(model.sites.one(site)): vector.float() for site, vector in found.items()}

    @classmethod
    def of(cls, config: InterveneConfig, settings: Steering, model: LanguageModel, tracker: Tracker) -> Found:
        """By the settings: class means, principal direction, a probe, or a file. Raises UserError for what is none of these."""
        if settings.direction in ("means", "pca"):
            made = divide(config, settings.question, config.texts)
            sites = list(model.sites.expand(settings.sites or ["resid_post.*"]))
            pca = settings.direction == "pca"
            return cls(made, _words(made, pca), lambda: _between(model, made, sites, settings.read, pca, config.store))
        if settings.direction.partition("#")[0].endswith((".safetensors", ".npy", ".npz", ".gguf")):
            made = divide(config, settings.question, config.texts)
            return cls(made, settings.direction, lambda: _of_file(settings, model))
        return _of_probe(config, settings, model, tracker)


def _words(made: Made, pca: bool) -> str:
    if made.fitted is not None and not pca:
        names = made.fitted.label_names
        return f"difference of the class means, {' − '.join(reversed(names))}, of {len(made.fitted)} texts"
    return f"{'principal direction' if pca else 'mean'} of the differences of pairs"


def _between(
    model: LanguageModel, made: Made, sites: list[str], read: str, pca: bool, store: str | None
) -> dict[str, Tensor]:
    from layerwise.interventions.steering.directions import difference_of_means, principal_of_differences

    if made.fitted is not None and not pca:
        labels = two_classes(made.fitted)
        rows = rows_of(model, made.fitted, sites, read, store)
        return {site: difference_of_means(values, labels) for site, values in rows.items()}
    first, second = _both(made)
    one, other = (rows_of(model, texts, sites, read, store) for texts in (first, second))
    if pca:
        return {site: principal_of_differences(one[site], other[site]) for site in one}
    return {site: (one[site] - other[site]).mean(0) for site in one}


def _both(made: Made) -> tuple[list[str], list[str]]:
    """The two sides of each pair: of the pairs, or of texts their contrast pairs."""
    if made.pairs_fitted is not None:
        return list(made.pairs_fitted.clean), list(made.pairs_fitted.corrupted)
    assert made.fitted is not None
    if made.fitted.contrast is None:
        raise UserError(
            f"pca needs pairs, and {made.fitted.name!r} has no contrast pairs (columns.negation): take means, or pairs of prompts."
        )
    return [pair[0] for pair in made.fitted.contrast], [pair[1] for pair in made.fitted.contrast]


def _of_file(settings: Steering, model: LanguageModel) -> dict[str, Tensor]:
    from layerwise.interventions.exchange.control_vectors import read_directions
    from layerwise.interventions.tensors import read_vector

    if settings.direction.endswith(".gguf"):
        by_layer = read_directions(settings.direction)
        wanted = set(model.sites.expand(settings.sites)) if settings.sites else None
        found = {f"resid_post.{layer}": vector for layer, vector in by_layer.items()}
        return {site: vector for site, vector in found.items() if wanted is None or site in wanted}
    if not settings.sites:
        raise UserError("a file's direction is added somewhere: name intervention.sites, such as resid_post.12.")
    return dict.fromkeys(model.sites.expand(settings.sites), read_vector(settings.direction))


def _of_probe(config: InterveneConfig, settings: Steering, model: LanguageModel, tracker: Tracker) -> Found:
    from layerwise.interventions.steering.questions import ask_about
    from layerwise.jobs.intervene_causal_check import need_linear, probe_direction
    from layerwise.jobs.probe_texts import texts_of
    from layerwise.tracking.lineage import probe_uri
    from layerwise.tracking.servable import load_probe

    uri = probe_uri(tracker.server, settings.direction)
    attached = load_probe(uri, model)
    site = need_linear(attached)
    fitted, held_out = texts_of(tracker.server, uri)
    asked = ask_about(held_out.texts, settings.question, held_out.groups, held_out.name, held_out.spans)
    made = Made(fitted, held_out, None, asked, held_out.labels)
    sites = list(model.sites.expand(settings.sites)) if settings.sites else [site]

    def vectors() -> dict[str, Tensor]:
        return dict.fromkeys(sites, probe_direction(attached, "weights", fitted, config.store)[1])

    return Found(made, f"weights of {uri} at {site}", vectors, uri)
