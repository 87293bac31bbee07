"""Whether what a probe finds hangs on how the texts are put: its score in each wording, and in wordings it never saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from layerwise.errors import UserError
from layerwise.measures.statistics import wilson_interval
from layerwise.probes.calibration import cross_fitted_probabilities
from layerwise.probes.crossval import take_rows
from layerwise.probes.evaluation import FROM_PROBABILITIES, are_probabilities, better, default_metric, weighted_scores
from layerwise.probes.outputs import outputs
from layerwise.probes.validation import check_features


def scores_by_template(
    y: np.ndarray,
    scores: np.ndarray,
    templates: np.ndarray,
    task: str = "classification",
    n_classes: int = 2,
    metric: str | None = None,
    threshold: float | None = None,
) -> pd.DataFrame:
    """One probe's score on the items of each prompt template, worst first.

    Args:
        scores: ``(n, C or 1)`` outputs on items it was not fitted on.
        templates: ``(n,)`` the template of each item.

    Returns:
        A row per template: template, n, score, and for accuracy low and high (Wilson).
    """
    metric = metric or default_metric(task)
    names, template = np.unique(templates, return_inverse=True)
    weights = (template == np.arange(len(names))[:, None]).astype(np.float64)
    values = weighted_scores(y, scores, weights, task, n_classes, threshold, [metric])[metric]
    table = pd.DataFrame({"template": names, "n": weights.sum(1).astype(int), "score": values})
    if metric == "accuracy":
        intervals = [wilson_interval(score * n, n) for score, n in zip(table["score"], table["n"], strict=True)]
        table["low"], table["high"] = [i.low for i in intervals], [i.high for i in intervals]
    return table.sort_values("score", ascending=better(metric) > 0, ignore_index=True)


def unseen_templates(
    estimator: Any,
    X: Any,
    y: np.ndarray,
    templates: np.ndarray,
    task: str = "classification",
    n_classes: int = 2,
    metric: str | None = None,
    folds: np.ndarray | None = None,
) -> pd.DataFrame:
    """``scores_by_template`` of probes that were each fitted on all the other templates: does the finding outlive the wording?

    Args:
        folds: ``(n,)`` fold of each item. A probe is then fitted without its fold as well, so that it has not seen the items'
            groups in another wording.

    Raises:
        UserError: with a single template, or where what is left to fit on lacks a class.
    """
    names, template = np.unique(templates, return_inverse=True)
    if len(names) < 2:
        raise UserError(f"unseen templates need at least two templates, got {len(names)}.")
    check_features(X, y)
    fold = np.zeros(len(y), dtype=np.int64) if folds is None else folds
    scores: np.ndarray | None = None
    for k, name in enumerate(names):
        for part in np.unique(fold[template == k]):
            seen = (template != k) & (True if folds is None else fold != part)
            if task != "regression" and len(np.unique(y[seen])) < n_classes:
                raise UserError(f"the templates other than {str(name)!r} do not hold all {n_classes} classes.")
            held_out = np.flatnonzero((template == k) & (fold == part))
            fitted = clone(estimator).fit(take_rows(X, np.flatnonzero(seen)), y[seen])
            values = outputs(fitted, take_rows(X, held_out))
            scores = np.empty((len(y), values.shape[1])) if scores is None else scores
            scores[held_out] = values
    assert scores is not None
    scores = _able(metric, y, scores, template if folds is None else folds)
    return scores_by_template(y, scores, templates, task, n_classes, metric)


@dataclass(frozen=True, eq=False)
class TemplateVariation:
    """What a probe scores in each wording, where it was trained on all of them and where it was trained on the others.

    Attributes:
        seen, unseen: a row per template, worst first, as ``scores_by_template`` and ``unseen_templates`` give them.
    """

    seen: pd.DataFrame
    unseen: pd.DataFrame

    def to_metrics(self, prefix: str = "confound") -> dict[str, float]:
        """``confound/template_spread`` (best less worst, never negative), ``confound/unseen_template`` (mean over templates)."""
        return {
            f"{prefix}/template_spread": float(np.ptp(self.seen["score"])),
            f"{prefix}/unseen_template": float(self.unseen["score"].mean()),
        }


def template_variation(
    estimator: Any,
    X: Any,
    y: np.ndarray,
    scores: np.ndarray,
    templates: np.ndarray,
    folds: np.ndarray,
    task: str = "classification",
    n_classes: int = 2,
    metric: str | None = None,
) -> TemplateVariation | None:
    """How much a probe's score hangs on the wording; both tables are of the same items under the same folds.

    Templates in which the score would mean something else are left out: those that lack a class, or whose targets are all the
    same, outside one fold. None where fewer than two are left.

    Args:
        scores: ``(n, C or 1)`` the probe's out-of-fold outputs.
        templates, folds: ``(n,)`` of each item.
    """
    whole = [
        name
        for name in np.unique(templates)
        if all(_learnable(y[(templates == name) & (folds != fold)], task, n_classes) for fold in np.unique(folds))
    ]
    if len(whole) < 2:
        return None
    told = np.isin(templates, whole)
    scores = _able(metric, y, scores, folds)
    seen = scores_by_template(y[told], scores[told], templates[told], task, n_classes, metric)
    unseen = unseen_templates(
        estimator, take_rows(X, np.flatnonzero(told)), y[told], templates[told], task, n_classes, metric, folds[told]
    )
    return TemplateVariation(seen, unseen)


def _learnable(y: np.ndarray, task: str, n_classes: int) -> bool:
    """Whether labels hold all classes, or targets that differ."""
    return len(np.unique(y)) >= (2 if task == "regression" else n_classes)


def _able(metric: str | None, y: np.ndarray, scores: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """The outputs, as probabilities where the metric needs them."""
    if metric in FROM_PROBABILITIES and not are_probabilities(scores):
        return cross_fitted_probabilities(y, scores, folds)
    return scores
