"""``online``: probes at many sites, trained while the model runs; nothing is stored.

The recipe: read texts, hold some out, train all probes in one stream of batches, keep the one
that does best on training texts kept aside, score all on the texts held out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from layerwise.activations.poolers import Mean, Pooler
from layerwise.data.config import DatasetConfig
from layerwise.errors import UserError, check_seed
from layerwise.models.config import ModelConfig

if TYPE_CHECKING:
    import pandas as pd

    from layerwise.data.dataset import TextDataset
    from layerwise.models.model import LanguageModel
    from layerwise.probes.online import OnlineProbes
    from layerwise.tracking.run import Tracker


@dataclass(frozen=True)
class StoppingConfig:
    """How long each probe learns.

    held_out: share of the training texts kept for early stopping.
    max_steps: batches it learns from at most.
    early: stop when the held-out loss no longer gets better; the best weights are kept.
    patience: steps without a better held-out loss before it stops.
    threshold: relative improvement that counts as better.
    warmup_steps: first batches that are learned from whole.
    """

    held_out: float = 0.1
    max_steps: int = 1000
    early: bool = True
    patience: int = 5
    threshold: float = 1e-5
    warmup_steps: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise UserError(f"stopping.held_out must lie between 0 and 1, got {self.held_out}.")


@dataclass(frozen=True)
class OnlineConfig:
    """Probes trained on the fly.

    model: the language model.
    dataset: the labelled texts; or texts with labelled words, for pooler none.
    sites: where probes read.
    pooler: which tokens stand for a text; ``none`` learns from every token.
    stopping: how long each probe learns.
    classifier: arguments of scikit-learn's SGDClassifier, such as alpha and penalty.
    null_label: a class id left out of training and scores.
    epochs: how often the texts are gone through at most.
    batch_size: texts a step.
    test_size: share of the texts held out for the final scores.
    max_length: tokens a text is cut to; none: the model's context.
    seed: of the order, the splits and the probes.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    sites: list[str] = field(default_factory=lambda: ["resid_post.*"])
    pooler: Pooler = field(default_factory=Mean)
    stopping: StoppingConfig = field(default_factory=StoppingConfig)
    classifier: dict[str, Any] = field(default_factory=dict)
    null_label: int | None = None
    epochs: int = 10
    batch_size: int = 32
    test_size: float = 0.25
    max_length: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0 < self.test_size < 1:
            raise UserError(f"test_size must lie between 0 and 1, got {self.test_size}.")
        check_seed(self.seed)


def run(config: OnlineConfig, tracker: Tracker) -> None:
    """Train, score, record. Raises UserError for what the person can mend."""
    from layerwise.data.load import load_dataset
    from layerwise.models.loading import load_model

    dataset = load_dataset(config.dataset)
    model = load_model(config.model)
    tracker.begin(model=model.fingerprint, data=dataset.digest())
    tracker.language_model(model)

    from layerwise.data.splits import train_test

    train, test = (dataset.select(rows) for rows in train_test(dataset, config.test_size, config.seed))
    tracker.dataset(train, "train")
    tracker.dataset(test, "test")
    if cut := model.tokenize(list(dataset.texts), dataset.pairs, config.max_length).report:
        print(f"note: {cut}", file=sys.stderr)
    title = f"{config.model.name} on {dataset.name}"
    tracker.name(f"online: {title}")

    probes = _probes(config, model)
    probes.fit(train, config.epochs, config.batch_size, config.seed, config.max_length)
    table = _scores(probes, test, config)
    # Chosen by what early stopping held out of the training texts, so that the test score of the chosen one is honest;
    # without early stopping nothing was held out and nothing is chosen: the first site stands.
    best = table.iloc[int(table["held_out_loss"].argmin())]
    baselines = _baselines(probes, best["site"], train, test, config)
    _record(probes, table, best, baselines, config, title, tracker)
    _record_probe(probes, best, test, tracker)
    tracker.summary(_summary(table, best, baselines, f"{title}, {len(test):,} texts held out"))


def _probes(config: OnlineConfig, model: LanguageModel) -> OnlineProbes:
    from layerwise.probes.online import OnlineProbeConfig, OnlineProbes

    stopping = config.stopping
    probes = [
        OnlineProbeConfig(
            site, config.pooler.label, stopping.held_out, stopping.max_steps, stopping.early, stopping.patience,
            stopping.threshold, stopping.warmup_steps, config.null_label, config.classifier,
        )
        for site in config.sites
    ]  # fmt: skip
    return OnlineProbes(model, probes)


def _scores(probes: OnlineProbes, test: TextDataset, config: OnlineConfig) -> pd.DataFrame:
    """A row per site: its scores on held-out texts with an interval, and its loss on training texts kept aside."""
    from layerwise.probes.places import place

    table = probes.metrics(test, batch_size=config.batch_size).reset_index()
    table[["name", "layer"]] = [place(site) for site in table["site"]]
    table[["low", "high"]] = _accuracy_bounds(table, config)
    table["held_out_loss"] = [probes.probes[site].best_loss for site in table["site"]]
    return table


def _record(
    probes: OnlineProbes,
    table: pd.DataFrame,
    best: pd.Series,
    baselines: Mapping[str, float],
    config: OnlineConfig,
    title: str,
    tracker: Tracker,
) -> None:
    """Scores, curves, tables and the figure over layers."""
    import numpy as np
    import pandas as pd

    from layerwise.reports.probe import common_levels, layer_curve

    tracker.tags(
        {
            "dataset": config.dataset.name, "sites": ",".join(config.sites), "pooler": config.pooler.label,
            "site": best["site"], "classifier": "online logistic", "metric": "accuracy",
        }
    )  # fmt: skip
    for name, rows in table.dropna(subset=["layer"]).groupby("name"):
        if len(rows) > 1:
            where = "" if table["name"].nunique() == 1 else f"_{name}"
            for metric, which in (("accuracy", "max"), ("loss", "min")):
                curve = dict(zip(rows["layer"].astype(int), rows[metric], strict=True))
                tracker.curve(f"curve/{metric}{where}", curve, which)
    if table["layer"].notna().sum() > 1:
        levels = common_levels({name.replace("_", " "): value for name, value in baselines.items()})
        pooled = table.assign(pooler=config.pooler.label, score=table["accuracy"])
        tracker.figure(layer_curve(pooled, "accuracy", levels, title, judged="held-out"), "layer_curve")
    tracker.metrics(_test_metrics(best) | {"train/steps": float(best["steps"])})
    if np.isfinite(best["held_out_loss"]):  # few texts are all learned from before any is held out
        tracker.metrics({"val/loss": float(best["held_out_loss"])})  # what a search of this job may go by
    if config.pooler.kind != "none":
        tracker.metrics({f"test/accuracy_{bound}": float(best[bound]) for bound in ("low", "high")})
    tracker.metrics({f"baseline/{name}": value for name, value in baselines.items()})
    tracker.table(table, "sites")
    losses = [(site, step, loss) for site, probe in probes.probes.items() for step, loss in probe.losses]
    if losses:
        tracker.table(pd.DataFrame(losses, columns=["site", "step", "held_out_loss"]), "losses")


def _record_probe(probes: OnlineProbes, best: pd.Series, test: TextDataset, tracker: Tracker) -> None:
    """The best site's probe as a servable model with its scores on held-out texts."""
    with TemporaryDirectory() as folder:
        bundle = Path(folder) / "probe"
        probes.fitted(best["site"]).save(bundle)
        uri = tracker.probe(bundle, "probe", metrics=_test_metrics(best), dataset=test)
    tracker.tags({"logged_probe": uri})


def _test_metrics(best: pd.Series) -> dict[str, float]:
    return {f"test/{name}": float(best[name]) for name in ("loss", "accuracy", "precision", "recall", "f1", "matthews")}


def _summary(table: pd.DataFrame, best: pd.Series, baselines: Mapping[str, float], heading: str) -> str:
    lines = [
        f"  {row.site:<16} accuracy {row.accuracy:.3f}  loss {row.loss:.3f}  after {row.steps} steps"
        for row in table.itertuples()
    ]
    interval = "" if best["low"] != best["low"] else f" [{best['low']:.3f}, {best['high']:.3f}]"  # NaN for tokens
    return "\n".join(
        [
            heading,
            *lines,
            f"chosen by held-out training loss: {best['site']}, accuracy {best['accuracy']:.3f}{interval}",
            "baselines: " + ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in baselines.items()),
        ]
    )


def _accuracy_bounds(table: pd.DataFrame, config: OnlineConfig) -> list[tuple[float, float]]:
    """Each site's 95 % interval of its accuracy; NaN for tokens, which depend on each other within a text."""
    from layerwise.measures.statistics import wilson_interval

    if config.pooler.kind == "none":
        return [(float("nan"), float("nan"))] * len(table)
    found = [wilson_interval(share * n, n) for share, n in zip(table["accuracy"], table["rows"], strict=True)]
    return [(interval.low, interval.high) for interval in found]


def _baselines(
    probes: OnlineProbes, site: str, train: TextDataset, test: TextDataset, config: OnlineConfig
) -> dict[str, float]:
    """What the probe's own rows score without the model; word counts only where a row is a whole text."""
    from layerwise.probes.baselines import as_documents, held_out_accuracy

    labels = [probes.labels(site, part) for part in (train, test)]
    if config.pooler.kind == "none":
        return held_out_accuracy(*labels)
    documents = [
        as_documents(part.texts, part.pairs)[probes[site].real(part.labels)]
        for part in (train, test)
        if part.labels is not None
    ]
    return held_out_accuracy(*labels, *documents)
