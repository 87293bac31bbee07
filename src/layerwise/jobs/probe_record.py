"""What a run of ``probe`` leaves behind: scores, curves, tables, figures, the map of transfers, and the best probe itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerwise.data.dataset import TextDataset
    from layerwise.jobs.probe import ProbeConfig
    from layerwise.models.model import LanguageModel
    from layerwise.probes.investigation import Findings
    from layerwise.probes.problem import Problem
    from layerwise.tracking.run import Tracker


def record(found: Findings, config: ProbeConfig, title: str, tracker: Tracker) -> None:
    """Scores, curves, tables and figures."""
    from layerwise.probes.evaluation import better
    from layerwise.reports.probe import charts

    site, pooler = found.best
    tracker.tags(
        {
            "dataset": config.dataset.name, "sites": ",".join(config.sites), "pooler": pooler, "site": site,
            "classifier": config.probe.label, "metric": found.metric,
        }
    )  # fmt: skip
    tracker.metrics(found.metrics())
    best = "max" if better(found.metric) > 0 else "min"
    layered = found.table.dropna(subset=["layer"])
    several = layered.groupby(["name", "pooler"]).ngroups > 1
    for (name, label), rows in layered.groupby(["name", "pooler"]):
        where = f"_{name}_{label}".replace(":", "_") if several else ""
        if len(rows) == 1:
            continue
        tracker.curve(
            f"curve/{found.metric}{where}", dict(zip(rows["layer"].astype(int), rows["score"], strict=True)), best
        )
        for column in ("shuffled", "control_task", "selectivity", "random_twin"):
            for layer, value in zip(rows["layer"], rows.get(column, []), strict=False):
                tracker.metrics({f"curve/{column}{where}": value}, step=int(layer))
    tracker.table(found.table, "sites")
    tracker.table(found.validations.folds_frame(), "folds")
    tracker.table(found.predictions, "test_predictions")
    if found.duplicates is not None:
        tracker.table(found.duplicates, "near_duplicates")
    if found.templates is not None:
        tracker.table(found.templates, "templates")
    if found.unseen_templates is not None:
        tracker.table(found.unseen_templates, "unseen_templates")
    if found.code is not None:
        tracker.table(found.code.to_frame(), "code_length")
    if found.learning is not None:
        tracker.table(found.learning.to_frame(), "learning_curve")
    for name, frame in found.views.items():
        tracker.table(frame, name)
    for name, chart in charts(found, title).items():
        tracker.figure(chart, name)


def record_transfer(found: Findings, config: ProbeConfig, problems: Mapping[str, Problem], tracker: Tracker) -> None:
    """Train on each dataset, test on every other, by layer, under the best site's pooler; the maps are of that site.

    ``problems``: by the dataset's name, the run's own first.
    """
    import pandas as pd

    from layerwise.data.splits import folds
    from layerwise.probes.build import build
    from layerwise.probes.problem import LayerRowsProbe
    from layerwise.probes.transfer import transfer_matrix
    from layerwise.reports.probe import transfer_maps

    site, pooler = found.best
    layer, task = found.best_row["layer"], found.problem.task
    estimator = build(config.probe, task, config.seed)
    table = transfer_matrix(
        {
            name: ({place: one.features[place, label] for place, label in one.features if label == pooler}, one.y)
            for name, one in problems.items()
        },
        LayerRowsProbe(estimator) if found.problem.layer_rows else estimator,
        {
            name: folds(one.y, one.groups, config.evaluation.folds, 1, config.seed, one.task)
            for name, one in problems.items()
        },
        task, max(2, found.problem.n_classes), found.metric,
        {name: one.groups for name, one in problems.items() if one.groups is not None}, config.seed,
    )  # fmt: skip
    tracker.table(table, "transfer")
    shown = table[table["site"] == site]
    for name, chart in transfer_maps(shown, found.metric, None if pd.isna(layer) else int(layer)).items():
        tracker.figure(chart, name)


def record_probe(
    found: Findings, config: ProbeConfig, model: LanguageModel | None, test: TextDataset, tracker: Tracker
) -> None:
    """The best probe: as a servable model with the scores of its held-out texts, or, of activations without a model, as a folder."""
    from layerwise.probes.fitted import FittedProbe

    platt = found.calibration
    fields: dict[str, Any] = {
        "task": "tokens" if test.task == "tokens" else found.problem.task,
        "label_names": found.problem.label_names,
        "over_layers": None if len(found.reads) == 1 else config.layers,
        "thresholds": asdict(found.thresholds) if found.thresholds else {},
        "calibration": (platt.slopes[0], platt.intercepts[0]) if platt and len(platt.slopes) == 1 else None,
        "max_length": config.collect.max_length,
    }
    with TemporaryDirectory() as folder:
        bundle = Path(folder) / "probe"
        if model is None:
            FittedProbe(found.estimator, found.reads, found.best[1], **fields).save(bundle)
            tracker.file(bundle)
            return
        FittedProbe.on(model, found.estimator, found.reads, found.best[1], **fields).save(bundle)
        uri = tracker.probe(bundle, "probe", metrics=found.held_out.to_metrics(), dataset=test)
    tracker.tags({"logged_probe": uri})
