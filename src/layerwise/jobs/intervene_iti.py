"""``intervention: iti``: inference-time intervention (Li et al. 2023): heads that know, found by probes, shifted along what they know.

The recipe: a probe on every head, cross-validated; the best heads, each with a direction and how far texts spread along it; all of them shifted
together, in doses, beside random directions at the same heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from layerwise.errors import UserError
from layerwise.jobs.intervene_behaviour import begin, divide, neutral_texts, rows_of, two_classes
from layerwise.jobs.intervene_pairs import need_model

if TYPE_CHECKING:
    from torch import Tensor

    from layerwise.data.dataset import TextDataset
    from layerwise.interventions.steering.sweep import Place
    from layerwise.jobs.intervene import InterveneConfig
    from layerwise.models.model import LanguageModel
    from layerwise.tracking.run import Tracker

FOLDS = 5


def run(config: InterveneConfig, model: LanguageModel | None, tracker: Tracker) -> str:
    """Probe the heads, choose, shift, compare with chance, write, record; returns the summary."""
    from layerwise.interventions.steering.config import ITI
    from layerwise.interventions.steering.sweep import dose_places, runs_of, stacked
    from layerwise.interventions.sweeps.ledger import Ledgers
    from layerwise.jobs.intervene_steering import record
    from layerwise.progress import Progress
    from layerwise.reports.interventions.heads import head_map

    settings: Any = config.intervention
    assert isinstance(settings, ITI)
    model = need_model(config, model)
    if config.texts is None:
        raise UserError("iti finds heads by probes: name labelled texts of two classes with texts.")
    made = divide(config, settings.question, config.texts)
    assert made.fitted is not None
    labels = two_classes(made.fitted)
    asked, key = begin(config, model, made, tracker)
    rows = rows_of(model, made.fitted, ["z.*"], settings.read, config.store)
    heads = score_heads(model, rows, made.fitted, config.seed)
    chosen = heads.sort_values(["accuracy", "layer", "head"], ascending=[False, True, True]).head(settings.heads)
    tracker.table(heads.assign(chosen=heads.index.isin(chosen.index)), "heads")
    tracker.figure(head_map(heads, f"Heads of {model.name} that tell {made.asked.name} apart"), "head_accuracy")
    tracker.metrics(
        {"best/head_accuracy": float(heads["accuracy"].max()), "chosen/accuracy": float(chosen["accuracy"].mean())}
    )

    shifts = head_shifts(model, rows, labels, chosen, settings.direction)
    name, place = f"the best {len(shifts)} heads", stacked(shifts)
    neutral = neutral_texts(settings.neutral)
    runs = runs_of(asked, neutral, 1 + settings.random, settings.strengths)
    with Ledgers(key) as ledgers, Progress("iti", runs, "run") as progress:
        dosed = dose_places(
            asked, neutral, {name: place, "random": random_shifts(shifts, settings.random, config.seed)}, settings.strengths,
            config.metric, positions=settings.positions, token_budget=config.token_budget, ledgers=ledgers,
            done=progress.advance,
        )  # fmt: skip
    chance = dosed.pop("random")
    best = ", ".join(f"{row.layer}.{row.head} {row.accuracy:.2f}" for row in chosen.head(8).itertuples())
    lines = [
        f"iti: {settings.direction} of {len(made.fitted)} texts of {made.asked.name}, at {settings.positions} of {len(asked)} prompts",
        f"heads by cross-validated accuracy: {best}; all {len(heads)}: {heads['accuracy'].mean():.2f} on average",
    ]
    return "\n".join(lines + record(config, settings, model, asked, {name: place}, dosed, name, chance, tracker))


def score_heads(model: LanguageModel, rows: Mapping[str, Tensor], fitted: TextDataset, seed: int) -> pd.DataFrame:
    """A row for each head: ``layer``, ``head``, and a ridge probe's accuracy on it, cross-validated on the same folds for all."""
    from layerwise.data.splits import folds
    from layerwise.probes.crossval import fold_scores_many
    from layerwise.probes.penalised import RidgeClassifierProbe

    places, parts = [], []
    for site, values in rows.items():
        for head, part in enumerate(by_head(model, site, values)):
            places.append((model.sites.layer_of(site), head))
            parts.append(part.double().numpy())
    labels = np.asarray(fitted.labels)
    dealt = folds(labels, fitted.groups, FOLDS, 1, seed)
    scores = fold_scores_many(RidgeClassifierProbe(), parts, labels, dealt)
    accuracy = [float(((one[0, 0, :, 0] > 0) == labels).mean()) for one in scores]
    return pd.DataFrame(places, columns=["layer", "head"]).assign(accuracy=accuracy)


def by_head(model: LanguageModel, site: str, values: Tensor) -> list[Tensor]:
    """(n, heads · head_dim) of a ``z`` as the (n, head_dim) of each head."""
    width = model.sites.width_of(f"{site}.0")
    assert width is not None
    return list(values.split(width, 1))


def head_shifts(
    model: LanguageModel, rows: Mapping[str, Tensor], labels: Tensor, chosen: pd.DataFrame, direction: str
) -> dict[str, Tensor]:
    """By head's site, (head_dim,): one standard deviation of the texts along its direction, towards the second class."""
    import torch

    from layerwise.interventions.steering.directions import difference_of_means
    from layerwise.probes.penalised import RidgeClassifierProbe

    found = {}
    row: Any
    for row in chosen.itertuples():
        site = f"z.{row.layer}"
        values = by_head(model, site, rows[site])[row.head].double()
        if direction == "means":
            vector = difference_of_means(values, labels)
        else:
            probe = RidgeClassifierProbe().fit(values.numpy(), labels.numpy())
            vector = torch.from_numpy(probe.coef_[0])
        unit = torch.nn.functional.normalize(vector.double(), dim=0)
        found[f"{site}.{row.head}"] = (unit * (values @ unit).std()).float()
    return found


def random_shifts(shifts: Mapping[str, Tensor], count: int, seed: int) -> Place:
    """Random directions at the same heads, each as long as the head's own."""
    from layerwise.interventions.steering.doses import random_directions

    return {
        site: random_directions(vector, count, seed + number) for number, (site, vector) in enumerate(shifts.items())
    }
