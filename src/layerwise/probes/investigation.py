"""One probing question answered: every place cross-validated, the best refitted and judged once, controls beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from layerwise.data.dataset import TextDataset
from layerwise.data.splits import folds as deal_folds
from layerwise.probes.baselines import as_documents, bag_of_words, majority
from layerwise.probes.build import build
from layerwise.probes.calibration import Platt, fit_platt
from layerwise.probes.code_length import CodeLength, code_length
from layerwise.probes.config import ProbeConfig
from layerwise.probes.confounds import length_confound, lexical_overlap
from layerwise.probes.controls import control_labels, label_controls, shuffled_labels, twin_control, word_types
from layerwise.probes.duplicates import near_duplicates
from layerwise.probes.evaluation import are_probabilities, default_metric
from layerwise.probes.held_out import HeldOut, held_out
from layerwise.probes.investigation_config import ControlsConfig, EvaluationConfig
from layerwise.probes.layer_curve import CrossValidations, cross_validate_many
from layerwise.probes.learning_curve import LearningCurve, learning_curve
from layerwise.probes.outputs import outputs
from layerwise.probes.problem import Key, LayerRowsProbe, Problem
from layerwise.probes.selection import select
from layerwise.probes.templates import TemplateVariation, template_variation
from layerwise.probes.thresholds import Thresholds, tune_thresholds
from layerwise.probes.validation import CrossValidation, cross_validate
from layerwise.probes.views import views


@dataclass(frozen=True, eq=False)
class Findings:
    """What an investigation found.

    Attributes:
        validations: the probe at every place, cross-validated on development rows.
        table: a row per place: its scores with interval, and its controls.
        best: the place with the best cross-validated score, the first of equals.
        estimator: the probe of the best place, fitted on all development rows; ``reads`` are its sites.
        thresholds, calibration: from out-of-fold development scores; None where the probe has no use for them.
        held_out: the one score on test rows; ``y_test`` their labels, ``predictions`` a row per test row.
        baselines: cross-validated score by name, of what needs no language model.
        confounds: what else the labels could be told from.
        duplicates: test texts that nearly stand among the development texts.
        templates: the best place's score in each wording of the development texts, worst first; ``unseen_templates`` where no
            probe was fitted on that wording. None where the texts name no wordings that can be compared.
        views: tables, by name, for pictures of the best probe: see ``layerwise.probes.views``.
    """

    problem: Problem
    validations: CrossValidations
    table: pd.DataFrame
    best: Key
    estimator: Any
    thresholds: Thresholds | None
    calibration: Platt | None
    held_out: HeldOut
    y_test: np.ndarray
    predictions: pd.DataFrame
    baselines: Mapping[str, float]
    confounds: Mapping[str, float] = field(default_factory=dict)
    duplicates: pd.DataFrame | None = None
    code: CodeLength | None = None
    learning: LearningCurve | None = None
    templates: pd.DataFrame | None = None
    unseen_templates: pd.DataFrame | None = None
    views: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        return self.validations.metric

    @property
    def reads(self) -> tuple[str, ...]:
        return self.problem.reads[self.best]

    @property
    def best_row(self) -> pd.Series:
        """The best place's row of ``table``."""
        rows = self.table[(self.table["site"] == self.best[0]) & (self.table["pooler"] == self.best[1])]
        return rows.iloc[0]

    def metrics(self) -> dict[str, float]:
        """Everything that is one number, as ``split/metric``."""
        controls = ("shuffled", "p_value", "p_value_best", "control_task", "selectivity", "random_twin", "gain")
        validation = self.validations.results[self.best]
        interval = validation.interval(self.metric)
        values = validation.to_metrics() | self.held_out.to_metrics()
        values |= {f"cv/{self.metric}_low": interval.low, f"cv/{self.metric}_high": interval.high}
        values |= {f"control/{name}": float(self.best_row[name]) for name in controls if name in self.table}
        values |= {f"baseline/{name}": score for name, score in self.baselines.items()} | dict(self.confounds)
        values |= self.code.to_metrics() if self.code is not None else {}
        values |= select(self.validations).to_metrics() if len(self.validations.results) > 1 else {}
        return {name: value for name, value in values.items() if not np.isnan(value)}


def investigate(
    problem: Problem,
    dataset: TextDataset,
    development: np.ndarray,
    test: np.ndarray,
    probe: ProbeConfig,
    evaluation: EvaluationConfig,
    controls: ControlsConfig,
    twin: Problem | None = None,
    seed: int = 0,
) -> Findings:
    """Choose by cross-validation on ``development`` texts, refit, score once on ``test`` texts.

    Args:
        development, test: texts of ``dataset``, which ``problem`` is about.
        twin: the same problem on a random-weight twin of the model.

    Raises:
        UserError: as the pieces do: too few rows, one class, NaN, a probe that cannot do the task.
    """
    dev, held = problem.at(development), problem.at(test)
    estimator = build(probe, problem.task, seed)
    if problem.layer_rows:
        estimator = LayerRowsProbe(estimator)
    folds = deal_folds(dev.y, dev.groups, evaluation.folds, evaluation.repeats, seed, problem.task, problem.label_names)
    measured: dict[str, Any] = {
        "task": problem.task,
        "n_classes": max(2, problem.n_classes),
        "metric": evaluation.metric,
    }
    validations = cross_validate_many(dev.features, dev.y, estimator, folds, groups=dev.groups, **measured)
    table = validations.to_frame()
    for extra in _control_tables(
        dev, dataset, validations, estimator, controls, twin.at(development) if twin else None, folds, measured, seed
    ):
        table = table.merge(extra, on=["site", "pooler"], how="left")

    best = validations.best
    X, X_test = dev.features[best], held.features[best]
    fitted = estimator.fit(X, dev.y)
    scores = outputs(fitted, X_test)
    thresholds, calibration = _tuned(validations.results[best], problem)
    judged = held_out(
        held.y, scores, problem.task, max(2, problem.n_classes), thresholds, calibration, held.groups, seed
    )
    learning = None
    if evaluation.learning_curve is not None:
        sizes = None if evaluation.learning_curve == "auto" else evaluation.learning_curve
        learning = learning_curve(estimator, X, dev.y, sizes, groups=dev.groups, seed=seed, **measured)
    code = None
    if controls.code_length and problem.task == "classification":
        code = code_length(estimator, X, dev.y, problem.n_classes, dev.groups, seed=seed)
    confounds, duplicates = _confounds(dev, held, dataset, folds, measured, controls)
    wordings = None
    if controls.confounds and dataset.templates is not None:
        wordings = _wordings(estimator, X, dev, dataset.templates, validations.results[best], measured)
        confounds |= wordings.to_metrics() if wordings else {}
    return Findings(
        problem, validations, table, best, getattr(fitted, "estimator_", fitted), thresholds, calibration, judged, held.y,
        _predictions(held, dataset, judged, scores), _baselines(dev, dataset, folds, measured),
        confounds, duplicates, code, learning, wordings.seen if wordings else None, wordings.unseen if wordings else None,
        views(fitted, best, dev, held, dataset, folds, measured, seed) if evaluation.views else {},
    )  # fmt: skip


def _control_tables(
    dev: Problem,
    dataset: TextDataset,
    validations: CrossValidations,
    estimator: Any,
    controls: ControlsConfig,
    twin: Problem | None,
    folds: np.ndarray,
    measured: dict[str, Any],
    seed: int,
) -> list[pd.DataFrame]:
    tables = []
    shuffled = shuffled_labels(dev.y, dev.groups, controls.shuffles, seed) if controls.shuffles else None
    control = None
    if controls.control_tasks:
        types = word_types([dataset.texts[item] for item in dev.items])
        control = control_labels(dev.y, types, folds, controls.control_tasks, seed, dev.task)
    if shuffled is not None or control is not None:
        tables.append(label_controls(dev.features, estimator, validations, shuffled, control))
    if twin is not None:
        tables.append(
            twin_control(
                validations, cross_validate_many(twin.features, twin.y, estimator, folds, groups=dev.groups, **measured)
            )
        )
    return tables


def _tuned(validation: CrossValidation, problem: Problem) -> tuple[Thresholds | None, Platt | None]:
    """Thresholds for two classes and, for decision values, Platt's sigmoid: both from out-of-fold development scores."""
    if problem.task == "regression":
        return None, None
    y, scores = validation.pooled
    thresholds = tune_thresholds(y, scores) if problem.n_classes == 2 else None
    return thresholds, None if are_probabilities(scores) else fit_platt(y, scores)


def _predictions(held: Problem, dataset: TextDataset, judged: HeldOut, scores: np.ndarray) -> pd.DataFrame:
    """A row per test row: its text, group, label, what was predicted, and the probability of each class (or the score)."""
    name = (lambda value: held.label_names[int(value)]) if held.task == "classification" else float
    frame = pd.DataFrame(
        {
            "row": held.items,
            "text": [dataset.texts[item] for item in held.items],
            "label": [name(value) for value in held.y],
            "predicted": [name(value) for value in judged.predicted],
        }
    )
    if held.groups is not None:
        frame.insert(2, "group", held.groups)  # what depends on each other, for whoever compares runs by these rows
    if judged.probabilities is not None:
        for column, label in enumerate(held.label_names):
            frame[f"probability_{label}"] = judged.probabilities[:, column]
    else:
        for column in range(scores.shape[1]):
            frame["score" if scores.shape[1] == 1 else f"score_{column}"] = scores[:, column]
    return frame


def _baselines(dev: Problem, dataset: TextDataset, folds: np.ndarray, measured: dict[str, Any]) -> dict[str, float]:
    """Cross-validated score of the majority class (mean target) and of word counts, on the folds of the probes."""
    metric = measured["metric"] or default_metric(dev.task)
    task = {"task": dev.task, "n_classes": measured["n_classes"]}
    documents = as_documents(dataset.texts, dataset.pairs)[dev.items]
    return {
        "majority": cross_validate(majority(dev.task), np.zeros((len(dev.y), 1)), dev.y, folds, **task).mean(metric),
        "bag_of_words": cross_validate(bag_of_words(dev.task), documents, dev.y, folds, **task).mean(metric),
    }


def _confounds(
    dev: Problem,
    held: Problem,
    dataset: TextDataset,
    folds: np.ndarray,
    measured: dict[str, Any],
    controls: ControlsConfig,
) -> tuple[dict[str, float], pd.DataFrame | None]:
    if not controls.confounds:
        return {}, None
    train, test = ([dataset.texts[item] for item in part.items] for part in (dev, held))
    length = length_confound(train, dev.y, folds, dev.task, measured["n_classes"], measured["metric"])
    overlap = lexical_overlap(train, test)
    near = near_duplicates(train, test)
    values = length.to_metrics() | overlap.to_metrics() | {"confound/near_duplicates": near.share}
    return values, near.to_frame(train, test) if len(near.pairs) else None


def _wordings(
    estimator: Any,
    X: Any,
    dev: Problem,
    templates: np.ndarray,
    validation: CrossValidation,
    measured: dict[str, Any],
) -> TemplateVariation | None:
    """The probe's out-of-fold scores by wording, and those of probes that never saw the wording, on the same first folds."""
    return template_variation(
        estimator, X, dev.y, validation.scores[0], templates[dev.items], validation.folds[0], **measured
    )
