"""The jobs: one module per entry point, with its config ``<Name>Config`` and ``run(config, tracker)``.

Nothing is imported until a job is asked for, so that the list of jobs and ``--help`` come at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class JobEntry:
    """Where a job lives, and what it does in a line."""

    module: str
    summary: str

    def config_class(self, name: str) -> type:
        """The job's config dataclass: ``ProbeConfig`` for ``probe``."""
        found: type = getattr(import_module(self.module), f"{name.title().replace('_', '')}Config")
        return found

    def run(self) -> Callable[[Any, Any], None]:
        """The job itself: ``run(config, tracker)``."""
        function: Callable[[Any, Any], None] = import_module(self.module).run
        return function


JOBS: dict[str, JobEntry] = {
    "prepare": JobEntry("layerwise.jobs.prepare", "write a dataset, split and cleaned, to a folder with a data card"),
    "extract": JobEntry("layerwise.jobs.extract", "fill the store with activations of a model on a dataset"),
    "store": JobEntry(
        "layerwise.jobs.store", "list the activation store, check it, and remove what is no longer wanted"
    ),
    "probe": JobEntry(
        "layerwise.jobs.probe", "find in which layer a model knows something: a probe per site, with its controls"
    ),
    "search": JobEntry(
        "layerwise.jobs.search",
        "search layers, poolers, classifiers or any other fields of a job, honestly, and keep the winner",
    ),
    "online": JobEntry("layerwise.jobs.online", "train probes at many sites while the model runs, storing nothing"),
    "apply": JobEntry(
        "layerwise.jobs.apply", "use a trained probe: on texts, token by token, or live while its model writes"
    ),
    "compare": JobEntry(
        "layerwise.jobs.compare",
        "compare models on the same items and texts: where they differ, inside which layers, and whether it is more than chance",
    ),
    "train": JobEntry(
        "layerwise.jobs.train", "train a transformer, from scratch or further, with anything about it changed"
    ),
    "ablate": JobEntry(
        "layerwise.jobs.train_ablations", "train with and without named changes from the same seeds, and compare them"
    ),
    "intervene": JobEntry(
        "layerwise.jobs.intervene",
        "act inside a model: ablate, patch, trace, steer, erase, align, and see what its behaviour does",
    ),
    "inspect": JobEntry(
        "layerwise.jobs.inspect",
        "look into a model: samples, next tokens, perplexity, attention, lens, heads, checkpoints, stability, curves of runs",
    ),
    "report": JobEntry(
        "layerwise.jobs.report", "ask the tracking server: who leads, by how much, in which layer, and what failed"
    ),
    "dashboard": JobEntry(
        "layerwise.jobs.dashboard",
        "look at studies and probes in a browser: maps, curves, thresholds, penalties, texts",
    ),
}
