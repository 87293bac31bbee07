"""What kinds of ``intervene`` that work on pairs of prompts begin with, and how they tell of their anchors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from layerwise.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from layerwise.interventions.sweeps.asked import AskedPairs
    from layerwise.jobs.intervene import InterveneConfig
    from layerwise.models.model import LanguageModel
    from layerwise.tracking.run import Tracker


def need_model(config: InterveneConfig, model: LanguageModel | None) -> LanguageModel:
    """The model. Raises UserError where the config has none."""
    if model is None:
        raise UserError(f"intervention {config.intervention.kind} needs a model: name one with model.")
    return model


def begin_on_pairs(
    config: InterveneConfig,
    model: LanguageModel,
    tracker: Tracker,
    fit: Callable[[AskedPairs], AskedPairs] = lambda asked: asked,
) -> tuple[AskedPairs, str]:
    """The pairs as the model sees them, and a digest of all that the work depends on; ends the job where a finished run did it.

    fit: which pairs the work can use; as many of them are drawn as the config allows.
    """
    from layerwise.data.pairs.load import load_pairs
    from layerwise.interventions.metrics import metric_entry
    from layerwise.interventions.sweeps.asked import ask

    metric_entry(config.metric)
    pairs = load_pairs(replace(config.pairs, limit=None))
    identity = {"model": model.fingerprint, "data": pairs.digest()}
    key = tracker.look(**identity)
    asked = fit(ask(model, pairs)).limited(config.pairs.limit, config.pairs.seed)
    tracker.begin(**identity)
    tracker.language_model(model)
    tracker.tags({"intervention": config.intervention.kind, "dataset": pairs.name, "metric": config.metric})
    tracker.name(f"{config.intervention.kind}: {model.name} on {pairs.name}")
    tracker.dataset(asked.pairs, "pairs")
    for note in (*asked.pairs.notes, *asked.notes):
        print(f"note: {note}", file=sys.stderr)
    return asked, key


@contextmanager
def progress_of(what: str, cells: int, asked: AskedPairs) -> Iterator[Callable[[int], None]]:
    """A bar over the runs of a sweep, one for each cell and pair."""
    from layerwise.progress import Progress

    with Progress(what, cells * len(asked), "run") as progress:
        yield progress.advance


def anchor_metrics(metric: str, clean: np.ndarray, corrupted: np.ndarray, other: str = "corrupted") -> dict[str, float]:
    """The two anchors as metrics of the run; a metric of one's own goes by the name of its function."""
    metric = metric.rpartition(":")[2]
    return {f"clean/{metric}": float(clean.mean()), f"{other}/{metric}": float(corrupted.mean())}


def anchor_line(words: str, clean: np.ndarray, corrupted: np.ndarray) -> str:
    """The two anchors in a line."""
    return f"{words}: {clean.mean():.3f} on clean prompts, {corrupted.mean():.3f} on corrupted ones"
