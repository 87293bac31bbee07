"""What kinds of ``intervene`` that steer and erase share: which texts make the direction, which are asked about, and what is neutral."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerwise.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from layerwise.data.config import DatasetConfig
    from layerwise.data.dataset import TextDataset
    from layerwise.data.pairs.pairs import PromptPairs
    from layerwise.interventions.steering.config import Question
    from layerwise.interventions.sweeps.asked import AskedPairs
    from layerwise.jobs.intervene import InterveneConfig
    from layerwise.models.model import LanguageModel
    from layerwise.tracking.run import Tracker

HELD_OUT = 0.4  # of texts and pairs: enough to ask about, since directions need few


@dataclass(frozen=True, eq=False)
class Made:
    """What is known of two kinds of text, and what is asked.

    fitted: labelled texts to find directions in, or None where pairs give them. pairs_fitted: those pairs. asked: prompts that no direction
    was found in. labels: (asked,) those of the texts asked about, or None. identity: what the work depends on, besides the model.
    """

    fitted: TextDataset | None
    held_out: TextDataset | None
    pairs_fitted: PromptPairs | None
    asked: PromptPairs
    labels: np.ndarray | None


def divide(config: InterveneConfig, question: Question, texts: DatasetConfig | None) -> Made:
    """Texts, or pairs where none are named, divided: groups whole, with the config's seed."""
    from sklearn.model_selection import GroupShuffleSplit

    from layerwise.data.load import load_dataset
    from layerwise.data.pairs.load import load_pairs
    from layerwise.data.splits import train_test
    from layerwise.interventions.steering.questions import ask_about

    if texts is not None:
        dataset = load_dataset(texts)
        fitted, held_out = (dataset.select(rows) for rows in train_test(dataset, HELD_OUT, config.seed))
        asked = ask_about(held_out.texts, question, held_out.groups, dataset.name, held_out.spans)
        return Made(fitted, held_out, None, asked, held_out.labels)
    pairs = load_pairs(config.pairs)
    groups = np.arange(len(pairs)) if pairs.groups is None else pairs.groups
    if len(np.unique(groups)) < 2:
        raise UserError(f"pairs {pairs.name!r} are all of one group: none can be held out to be asked.")
    split = GroupShuffleSplit(1, test_size=HELD_OUT, random_state=config.seed)
    [(found_in, held)] = split.split(np.zeros(len(pairs)), groups=groups)
    return Made(None, None, pairs.select(found_in), pairs.select(held), None)


def begin(
    config: InterveneConfig, model: LanguageModel, made: Made, tracker: Tracker, **identity: str
) -> tuple[AskedPairs, str]:
    """The prompts as the model sees them, and a digest of all that the work depends on; ends the job where a finished run did the same."""
    from layerwise.interventions.sweeps.asked import ask

    kind = config.intervention.kind
    fitted: Any = made.fitted if made.fitted is not None else made.pairs_fitted
    data = "+".join((fitted.digest(), made.asked.digest()))
    key = tracker.begin(model=model.fingerprint, data=data, **identity)
    tracker.language_model(model)
    tracker.tags({"intervention": kind, "dataset": made.asked.name, "metric": config.metric})
    tracker.name(f"{kind}: {model.name} on {made.asked.name}")
    tracker.dataset(fitted, "fitted")
    tracker.dataset(made.asked, "asked")
    asked = ask(model, made.asked)
    for note in (*fitted.notes, *asked.notes):
        print(f"note: {note}", file=sys.stderr)
    return asked, key


def two_classes(dataset: TextDataset) -> Tensor:
    """(n,) labels 0 and 1. Raises UserError for texts of any other number of classes."""
    import torch

    if dataset.task != "classification" or dataset.n_classes != 2:
        raise UserError(
            f"{dataset.name!r} has {dataset.n_classes or 'no'} classes, and a direction lies between two.\n"
            "Take texts of two classes (texts=…), or pairs of prompts."
        )
    return torch.from_numpy(np.asarray(dataset.labels))


def rows_of(model: LanguageModel, texts: Any, sites: list[str], read: str, store: str | None) -> dict[str, Tensor]:
    """By site, what the model has in each text: (n, width) float32."""
    import torch

    from layerwise.activations.collect import collect
    from layerwise.activations.store import Store

    found = collect(model, texts, sites, [read], store=Store(store))
    return {site: torch.as_tensor(np.asarray(found.matrix(site))) for site in model.sites.expand(sites)}


def neutral_texts(neutral: DatasetConfig) -> list[str]:
    """Texts that have nothing to do with what is steered or erased."""
    from layerwise.data.load import load_dataset

    return list(load_dataset(neutral).texts)
