"""How ``probe`` is tried in a search: one pass over the texts before the first trial, then arithmetic.

Trials are scored by cross-validation on the development texts alone. The winner is judged by the job itself, with its controls,
on test texts that no trial has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from layerwise.activations.poolers import Pooler
from layerwise.activations.result import Activations, Key
from layerwise.activations.shards import Piece
from layerwise.activations.token_pooling import pool_tokens
from layerwise.config import Layer, canonical_text, configure, plain
from layerwise.data.dataset import TextDataset
from layerwise.data.splits import folds as deal_folds
from layerwise.errors import UserError
from layerwise.files import canonical_json
from layerwise.jobs import probe
from layerwise.jobs.probe import ProbeConfig
from layerwise.probes.build import build
from layerwise.probes.crossval import fold_scores, fold_scores_of, one_fold
from layerwise.probes.evaluation import better, default_metric, metric_names
from layerwise.probes.layer_curve import cross_validate_many, place
from layerwise.probes.problem import LayerRowsProbe, Problem, pose
from layerwise.probes.validation import CrossValidation, check_labels, scores_by_fold, validated
from layerwise.search.space import Point, Space
from layerwise.search.trials import Outcome, Report
from layerwise.tracking.run import Tracker
from layerwise.tracking.trials import ConclusionTracker, TrialTracker


@dataclass
class ProbeTrials:
    """One dataset and one model's activations of it, at every site and under every pooler the space can reach.

    ``activations`` are read from the store when a trial needs them; ``negations`` those of negated texts, for
    contrast-consistent search. No model is held.
    """

    base: ProbeConfig
    space: Space
    dataset: TextDataset
    development: np.ndarray
    activations: Activations
    negations: tuple[Activations, Activations] | None
    identity: Mapping[str, str]
    tags: Mapping[str, str]
    objective: str
    job: str = "probe"
    _ahead: dict[str, list[ProbeConfig]] = field(default_factory=dict)
    _held: tuple[str, Problem] | None = None
    _known: dict[str, Any] = field(default_factory=dict)
    _folds: dict[int, np.ndarray] = field(default_factory=dict)

    def direction(self, metric: str) -> str | None:
        """``maximize`` for scores, ``minimize`` for losses, for an earlier layer and for time."""
        name = metric.partition("/")[2]
        if metric in ("layer", "seconds"):
            return "minimize"
        known = name in metric_names("classification") or name in metric_names("regression")
        return ("maximize" if better(name) > 0 else "minimize") if known else None

    def config(self, point: Point) -> ProbeConfig:
        """The job's config at a point."""
        return configure(ProbeConfig, Layer(self.space.values(point), "the search's space"), base=self.base)

    def cell(self, point: Point) -> str:
        """Trials of one site and pooler share features, and what the solvers compute of them."""
        return canonical_json({name: value for name, value in point.items() if not name.startswith("probe")})

    def upcoming(self, points: list[Point]) -> None:
        """Keep which probes each cell will see: linear ones are fitted together."""
        for point in points:
            config = self.config(point)
            self._ahead.setdefault(_cell(config), []).append(config)

    def attempt(self, config: ProbeConfig, repeat: int, tracker: TrialTracker, report: Report | None) -> Outcome:
        """Cross-validate a probe on development texts; with several places, the best of them counts, as in the job."""
        problem = self._problem(config)
        metric = config.evaluation.metric or default_metric(problem.task)
        folds = self._dealt(problem, config, repeat)
        results = self._validated(problem, config, folds, repeat, report)
        (site, pooler), result = max(results.items(), key=lambda item: _score(item[1], metric))
        interval, (name, layer) = result.interval(metric), place(problem.reads[site, pooler][-1])
        metrics = {name: value for name, value in result.to_metrics().items() if not np.isnan(value)}
        metrics |= {f"cv/{metric}_low": interval.low, f"cv/{metric}_high": interval.high}
        metrics |= {"layer": float(layer)} if layer is not None else {}
        values = result.per_fold[metric]
        return Outcome(
            {name: value for name, value in metrics.items() if not np.isnan(value)},
            {f"fold/{metric}": dict(enumerate(values.tolist()))},
            {
                "site": site,
                "site_name": name,
                "pooler": pooler,
                "classifier": config.probe.label,
                "kind": config.probe.kind,
                "metric": f"cv/{metric}",
            },
            float(np.nanstd(values, ddof=1) / np.sqrt(np.isfinite(values).sum())),
        )

    def conclude(
        self, config: ProbeConfig, tracker: Tracker, register: str | None, links: Mapping[str, str]
    ) -> tuple[Mapping[str, float], str]:
        """Refit the winner, judge it once on test texts, set its controls beside it, log it as a servable model."""
        winner = ConclusionTracker(
            tracker, register, {**links, **self.tags, "store": ",".join(self.activations.stored)}
        )
        probe.run(config, winner)
        winner.flush()
        controls = winner.text_of_job.partition("\ncontrols")
        return winner.values, f"controls{controls[2]}"

    def _problem(self, config: ProbeConfig) -> Problem:
        """The development rows with the features of one cell."""
        name = _cell(config)
        if self._held is None or self._held[0] != name:
            keys = [(site, pooler.label) for site in config.sites for pooler in config.poolers]
            if config.probe.kind == "ccs":
                assert self.negations is not None
                said, negated = (_only(one, keys) for one in self.negations)
                problem = pose(self.dataset, said, config.layers, negations=negated)
            else:
                chosen = _only(self._pooled(config, keys), keys)
                problem = pose(self.dataset, chosen, config.layers, whole_texts=config.probe.kind == "attention")
            problem = problem.at(self.development)
            check_labels(problem.y, problem.task)
            self._held, self._known = (name, problem.in_memory()), {}
        return self._held[1]

    def _pooled(self, config: ProbeConfig, keys: Sequence[Key]) -> Activations:
        """The activations with columns for poolers that could not be listed beforehand: pooled now, from every token."""
        missing = [key for key in keys if key not in self.activations.columns]
        if not missing:
            return self.activations
        by_label = {pooler.label: pooler for pooler in config.poolers}
        columns = dict(self.activations.columns)
        for site, label in missing:
            columns[site, label] = [Piece(np.arange(len(self.dataset)), _Pooled(self, site, by_label[label]))]
        return replace(self.activations, columns=columns)

    def _dealt(self, problem: Problem, config: ProbeConfig, repeat: int) -> np.ndarray:
        if repeat not in self._folds:
            evaluation = config.evaluation
            self._folds[repeat] = deal_folds(
                problem.y, problem.groups, evaluation.folds, evaluation.repeats, config.seed + repeat, problem.task,
                problem.label_names,
            )  # fmt: skip
        return self._folds[repeat]

    def _validated(
        self, problem: Problem, config: ProbeConfig, folds: np.ndarray, repeat: int, report: Report | None
    ) -> Mapping[Key, CrossValidation]:
        measured = (folds, problem.task, max(2, problem.n_classes), problem.groups)
        estimator = self._estimator(config, problem, repeat)
        if len(problem.features) > 1:
            found = cross_validate_many(
                problem.features, problem.y, estimator, *measured, metric=config.evaluation.metric, quiet=True
            )
            return found.results
        [(key, X)] = problem.features.items()
        scores = (
            self._shared(problem, config, estimator, X, folds, repeat)
            if report is None
            else self._fold_by_fold(problem, config, estimator, X, folds, report)
        )
        return {key: validated(problem.y, scores, *measured)}

    def _estimator(self, config: ProbeConfig, problem: Problem, repeat: int) -> Any:
        estimator = build(config.probe, problem.task, config.seed + repeat)
        return LayerRowsProbe(estimator) if problem.layer_rows else estimator

    def _shared(
        self, problem: Problem, config: ProbeConfig, estimator: Any, X: Any, folds: np.ndarray, repeat: int
    ) -> np.ndarray:
        """(repeats, rows, columns) out-of-fold outputs, computed for all probes at once that this cell will see."""
        mine = f"{repeat} {_label(config)}"
        if mine not in self._known:
            siblings = {
                f"{repeat} {_label(one)}": made
                for one in self._ahead.get(_cell(config), ())
                if hasattr(made := self._estimator(one, problem, repeat), "fold_scores")
            }
            if mine in siblings:
                try:
                    found = fold_scores_of(list(siblings.values()), X, problem.y, folds)
                    self._known |= dict(zip(siblings, found, strict=True))
                except UserError:
                    pass  # one of them cannot do it: each says so in its own trial
            if mine not in self._known:
                self._known[mine] = fold_scores(estimator, X, problem.y, folds)
        return np.asarray(self._known[mine][:, 0])

    def _fold_by_fold(
        self, problem: Problem, config: ProbeConfig, estimator: Any, X: Any, folds: np.ndarray, report: Report
    ) -> np.ndarray:
        """The same, one fold after another: after each, ``report`` hears the mean so far and may end the trial."""
        metric = config.evaluation.metric or default_metric(problem.task)
        parts, seen, step = [], [], 0
        for fold_of in folds:
            whole: np.ndarray | None = None
            for fold in np.unique(fold_of):
                out = np.flatnonzero(fold_of == fold)
                values = one_fold(estimator, X, problem.y, fold_of != fold, out)
                whole = np.zeros((len(problem.y), values.shape[1])) if whole is None else whole
                whole[out] = values
                mean = _mean_so_far(problem, values, out, metric)
                seen.append(mean)
                step += 1
                if not np.isnan(mean):
                    report(step, float(np.nanmean(seen)))
            assert whole is not None
            parts.append(whole)
        return np.stack(parts)


@dataclass(frozen=True)
class _Pooled:
    """The values of a piece that is pooled when it is asked for."""

    trials: ProbeTrials
    site: str
    pooler: Pooler

    def __call__(self) -> Any:
        import torch

        own = self.trials.activations
        assert own.tokenized is not None
        return torch.from_numpy(
            pool_tokens(own.tokens(self.site), own.tokenized, self.pooler, self.trials.dataset.spans)
        )


def _only(activations: Activations, keys: Sequence[Key]) -> Activations:
    return replace(activations, columns={key: activations.columns[key] for key in keys})


def _cell(config: ProbeConfig) -> str:
    kind = config.probe.kind if config.probe.kind in ("ccs", "attention") else ""
    return canonical_text([*config.sites, *(pooler.label for pooler in config.poolers), config.layers, kind])


def _label(config: ProbeConfig) -> str:
    return canonical_json(plain(config.probe))


def _score(result: CrossValidation, metric: str) -> float:
    value = better(metric) * result.mean(metric)
    return -np.inf if np.isnan(value) else value


def _mean_so_far(problem: Problem, values: np.ndarray, out: np.ndarray, metric: str) -> float:
    alone = np.zeros((1, len(out)), dtype=np.int64)
    found = scores_by_fold(problem.y[out], values[None], alone, problem.task, max(2, problem.n_classes), [metric])
    return float(found[metric][0])
