"""``probe``: in which layer does a model know something? A probe per site, its controls, and the best one kept.

The recipe: read texts, run the model once, cross-validate a probe at every site, set controls beside it, refit the best on
all development texts, judge it once on the held-out ones, record everything.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from layerwise.activations.poolers import Last, Pooler
from layerwise.data.config import DatasetConfig
from layerwise.errors import UserError, check_seed
from layerwise.files import file_digest
from layerwise.models.config import ModelConfig
from layerwise.probes import config as probes
from layerwise.probes.investigation_config import ControlsConfig, EvaluationConfig

if TYPE_CHECKING:
    from layerwise.activations.result import Activations
    from layerwise.data.dataset import TextDataset
    from layerwise.models.model import LanguageModel
    from layerwise.probes.problem import Problem
    from layerwise.tracking.run import Tracker


@dataclass(frozen=True)
class CollectConfig:
    """How activations are collected.

    token_budget: padded tokens a batch.
    dtype: what is kept.
    max_length: tokens a text is cut to; none: the model's context.
    truncation: ``report`` says how many texts were cut, ``error`` refuses them.
    keep: put activations into the store, where the next probe of the same texts finds them.
    store: its folder; none: the one in the cache folder.
    """

    token_budget: int = 4096
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    max_length: int | None = None
    truncation: Literal["report", "error"] = "report"
    keep: bool = True
    store: str | None = None

    def __post_init__(self) -> None:
        if self.token_budget < 1:
            raise UserError(f"collect.token_budget must be at least 1, got {self.token_budget}.")


@dataclass(frozen=True)
class ProbeConfig:
    """Probes of one dataset at one or many sites of one model.

    model: the language model.
    dataset: the labelled texts.
    sites: where to look: ``resid_post.*``, ``mlp_out.4-8``, several joined by commas.
    poolers: which tokens stand for a text: ``last``, ``mean``, ``quantile:0.5``, several joined by commas.
    layers: ``each`` site by itself, or all joined by mean, max, min, concat; ``rows`` trains on each layer as a row.
    probe: the kind of probe and its settings.
    evaluation: how probes are judged.
    controls: what is set beside the score.
    collect: how activations are collected.
    transfer: further datasets of the same classes to test on, and to train on, layer by layer.
    activations: a .npy, .npz or .safetensors file of your own activations, a row per text, in place of the model.
    seed: of splits, folds, shuffles and probes.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    sites: list[str] = field(default_factory=lambda: ["resid_post.*"])
    poolers: list[Pooler] = field(default_factory=lambda: [Last()])
    layers: Literal["each", "mean", "max", "min", "concat", "rows"] = "each"
    probe: probes.ProbeConfig = field(default_factory=probes.Ridge)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    controls: ControlsConfig = field(default_factory=ControlsConfig)
    collect: CollectConfig = field(default_factory=CollectConfig)
    transfer: list[DatasetConfig] = field(default_factory=list)
    activations: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.transfer and self.probe.kind in ("attention", "ccs"):
            raise UserError(
                f"probe {self.probe.kind} has no vector per text to compare across datasets: leave out transfer, or take another probe."
            )


def run(config: ProbeConfig, tracker: Tracker) -> None:
    """Probe, judge, record. Raises UserError for what the person can mend."""
    from layerwise.data.load import load_dataset
    from layerwise.models.loading import load_model
    from layerwise.tracking.references import reference_tags

    dataset = load_dataset(config.dataset)
    others = _transfer_datasets(config, dataset)
    model, twin = None, None
    stored: list[str] = []
    if config.activations is None:
        model = load_model(config.model)
        digests = {f"transfer_{index}": other.digest() for index, other in enumerate(others)}
        tracker.begin(model=model.fingerprint, data=dataset.digest(), **digests)
        tracker.language_model(model)
        problem = _pose(config, model, dataset, stored)
        if config.controls.random_twin:
            twin = _pose(config, load_model(replace(config.model, random_init=True)), dataset, stored)
    else:
        problem = _pose_on_own(config, dataset)
        tracker.begin(activations=file_digest(Path(config.activations).expanduser()), data=dataset.digest())

    # Not before it is known that there is something to do: a command whose work is done already answers seconds earlier.
    from layerwise.data.splits import train_test
    from layerwise.jobs.probe_record import record, record_probe, record_transfer
    from layerwise.probes.investigation import investigate
    from layerwise.reports.probe_text import summary

    development, test = train_test(dataset, config.evaluation.test_size, config.seed)
    tracker.dataset(dataset.select(development), "train")
    tracker.dataset(dataset.select(test), "test")
    found = investigate(
        problem, dataset, development, test, config.probe, config.evaluation, config.controls, twin, config.seed
    )
    title = f"{config.model.name if model else config.activations} on {dataset.name}"
    tracker.name(f"probe: {title}")
    record(found, config, title, tracker)
    if model is not None and others:
        problems = {other.name: _pose(config, model, other, stored) for other in others}
        for other in others:
            tracker.dataset(other, "transfer")
        record_transfer(found, config, {dataset.name: found.problem, **problems}, tracker)
    record_probe(found, config, model, dataset.select(test), tracker)
    tracker.tags(reference_tags("activations", stored))
    tracker.summary(summary(found, config.probe.label, title))


def _pose(config: ProbeConfig, model: LanguageModel, dataset: TextDataset, stored: list[str]) -> Problem:
    """Run the model over the texts, once, and pose the problem on what it computed; ``stored`` gains the store's keys of it."""
    from layerwise.activations.collect import collect
    from layerwise.activations.store import Store
    from layerwise.probes.problem import pose

    whole_texts = config.probe.kind == "attention"
    if whole_texts and any(pooler.kind != "none" for pooler in config.poolers):
        raise UserError("probe attention pools tokens itself: set poolers to none.")

    def collected(texts: Sequence[str] | TextDataset) -> Activations:
        found = collect(
            model, texts, config.sites, config.poolers, token_budget=config.collect.token_budget, dtype=config.collect.dtype,
            max_length=config.collect.max_length, truncation=config.collect.truncation,
            store=Store(config.collect.store) if config.collect.keep else None,
        )  # fmt: skip
        stored.extend(found.stored)
        for note in found.report.notes if found.report else ():
            print(f"note: {note}", file=sys.stderr)
        return found

    if config.probe.kind != "ccs":
        return pose(dataset, collected(dataset), config.layers, whole_texts=whole_texts)
    if dataset.contrast is None:
        raise UserError(
            f"probe ccs needs contrast pairs, {dataset.name!r} has none: name the negated texts with dataset.columns.negation."
        )
    statements, negations = ([pair[side] for pair in dataset.contrast] for side in (0, 1))
    return pose(dataset, collected(statements), config.layers, negations=collected(negations))


def _pose_on_own(config: ProbeConfig, dataset: TextDataset) -> Problem:
    """The problem on activations that the person brought."""
    from layerwise.activations.result import Activations
    from layerwise.probes.problem import pose

    assert config.activations is not None
    if config.probe.kind in ("attention", "ccs") or config.controls.random_twin or config.transfer:
        raise UserError(
            "activations of your own are pooled already and belong to no model here:\n"
            "leave out probe attention or ccs, controls.random_twin and transfer."
        )
    return pose(dataset, Activations.from_file(config.activations), config.layers)


def _transfer_datasets(config: ProbeConfig, dataset: TextDataset) -> list[TextDataset]:
    """The datasets to transfer to. UserError, before any model runs, for one of other classes or of a name that is taken."""
    from layerwise.data.load import load_dataset

    others: list[TextDataset] = []
    for other in map(load_dataset, config.transfer):
        if (other.task, other.label_names) != (dataset.task, dataset.label_names):
            raise UserError(
                f"transfer needs the classes of {dataset.name!r} ({_classes(dataset)}), {other.name!r} has {_classes(other)}.\n"
                "Name classes alike with the labels settings of each dataset, or leave it out."
            )
        if other.name in {dataset.name, *(one.name for one in others)}:
            raise UserError(
                f"transfer: two datasets are called {other.name!r}, results could not be told apart.\n"
                "Leave one out, or save it as a file of another name (the job prepare writes one)."
            )
        others.append(other)
    return others


def _classes(dataset: TextDataset) -> str:
    return f"{dataset.task} {', '.join(dataset.label_names)}".strip()
