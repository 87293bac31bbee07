"""An investigation of texts in several wordings: what it says of each wording, and of wordings no probe was fitted on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from layerwise.data.dataset import TextDataset
from layerwise.data.splits import folds as deal_folds
from layerwise.data.splits import train_test
from layerwise.probes.config import LinearSVM, Ridge
from layerwise.probes.crossval import fold_scores
from layerwise.probes.investigation import Findings, investigate
from layerwise.probes.investigation_config import ControlsConfig, EvaluationConfig
from layerwise.probes.problem import Features, Problem
from layerwise.probes.templates import template_variation, unseen_templates
from layerwise.reports.probe_text import summary

KEY = ("resid_post.0", "last")
TEMPLATES = ("plain", "question", "flipped")
QUIET = ControlsConfig(shuffles=0, control_tasks=0, code_length=False)


def worded(n: int = 180, templates: tuple[str, ...] = TEMPLATES) -> tuple[TextDataset, np.ndarray]:
    """Texts in each wording, and features: one axis tells the classes everywhere but in ``flipped``, where it is turned round;
    a second axis tells them in ``flipped`` alone."""
    rng = np.random.default_rng(0)
    y, wording = np.arange(n) % 2, np.array(templates)[np.arange(n) // 2 % len(templates)]
    flipped = wording == "flipped"
    sign = 2.0 * y - 1
    X = np.stack([np.where(flipped, -sign, sign), np.where(flipped, 4 * sign, 0.0)], axis=1) + 0.2 * rng.normal(
        size=(n, 2)
    )
    texts = tuple(f"{name} text {row}" for row, name in enumerate(wording))
    return TextDataset("worded", texts, y, "classification", ("no", "yes"), templates=wording), X


def found(
    data: TextDataset, X: np.ndarray, probe: Any = None, evaluation: Any = None, controls: Any = QUIET
) -> Findings:
    task = "regression" if data.task == "regression" else "classification"
    problem = Problem(
        data.labels,
        np.arange(len(data)),
        data.groups,
        Features({KEY: lambda: X}),
        {KEY: (KEY[0],)},
        task,
        data.label_names,
    )
    development, test = train_test(data, 0.25, 0)
    return investigate(
        problem, data, development, test, probe or Ridge(), evaluation or EvaluationConfig(folds=3), controls
    )


def test_each_wording_is_judged_and_one_that_goes_against_the_others_is_found() -> None:
    said = found(*worded())
    assert said.templates["score"].tolist() == [1, 1, 1]  # with all wordings seen, two axes tell everything
    assert said.unseen_templates.iloc[0][["template", "score"]].tolist() == ["flipped", 0]
    assert said.templates["n"].sum() == said.unseen_templates["n"].sum() == 135
    metrics = said.metrics()
    assert metrics["confound/template_spread"] == 0
    assert metrics["confound/unseen_template"] == pytest.approx(said.unseen_templates["score"].mean())
    assert "wordings  1.000 (flipped) to 1.000 (question), " in summary(said, "ridge", "title")


def test_the_scores_are_those_of_plain_fits_on_the_other_wordings_and_folds() -> None:
    data, X = worded()
    folds = deal_folds(data.labels, None, 3)[0]
    estimator = LogisticRegression()
    table = unseen_templates(estimator, X, data.labels, data.templates, folds=folds).set_index("template")
    for name in TEMPLATES:
        right = 0
        for fold in range(3):
            train, test = (data.templates != name) & (folds != fold), (data.templates == name) & (folds == fold)
            right += (clone(estimator).fit(X[train], data.labels[train]).predict(X[test]) == data.labels[test]).sum()
        assert table.loc[name, "score"] == right / (data.templates == name).sum()


def test_a_text_is_not_told_by_its_other_wording() -> None:
    rng = np.random.default_rng(0)
    y, text = np.repeat(rng.permutation(np.arange(60) % 2), 2), np.repeat(np.arange(60), 2)
    templates = np.tile(["a", "b"], 60)
    X = np.eye(60)[text]  # says which text it is, and nothing about the labels
    folds = deal_folds(y, text, 5)[0]
    assert unseen_templates(LogisticRegression(C=100), X, y, templates)["score"].tolist() == [1, 1]
    assert unseen_templates(LogisticRegression(C=100), X, y, templates, folds=folds)["score"].max() < 0.7


def test_one_wording_is_nothing_to_compare() -> None:
    data, X = worded(templates=("plain",))
    said = found(data, X)
    assert said.templates is None
    assert not {"confound/template_spread", "confound/unseen_template"} & said.metrics().keys()
    assert "wordings" not in summary(said, "ridge", "title")


def test_a_wording_that_lacks_a_class_is_left_out() -> None:
    data, X = worded()
    rows = np.flatnonzero((data.templates != "flipped") | (data.labels == 0))
    said = found(data.select(rows), X[rows])
    assert set(said.templates["template"]) == set(said.unseen_templates["template"]) == {"plain", "question"}
    keep = np.flatnonzero((data.templates == "plain") | (data.labels == (data.templates == "question")))
    assert found(data.select(keep), X[keep]).templates is None  # all but one wording lack a class


def test_a_class_that_a_wording_has_in_a_single_fold_only() -> None:
    data, X = worded()
    rare = np.flatnonzero((data.templates == "question") & (data.labels == 1))[1:]
    rows = np.setdiff1d(np.arange(len(data)), rare)
    y, templates = data.labels[rows], data.templates[rows]
    folds = deal_folds(y, None, 3)[0]
    scores = fold_scores(LogisticRegression(), X[rows], y, folds)[0, 0]
    both = template_variation(LogisticRegression(), X[rows], y, scores, templates, folds)
    assert "question" not in set(both.seen["template"])


def test_without_confounds_or_named_wordings_nothing_is_said() -> None:
    data, X = worded()
    assert found(data, X, controls=replace(QUIET, confounds=False)).templates is None
    assert found(replace(data, templates=None), X).templates is None


def test_a_metric_of_probabilities_and_a_probe_without_them() -> None:
    said = found(*worded(), LinearSVM(), EvaluationConfig(folds=3, metric="log_loss"))
    assert said.metric == "log_loss"
    assert said.templates["score"].max() < 0.1
    assert said.unseen_templates["template"].iloc[0] == "flipped"  # worst first: the highest loss


def test_targets() -> None:
    data, X = worded()
    rng = np.random.default_rng(1)
    target = rng.normal(size=len(data))
    X = np.stack([np.where(data.templates == "flipped", -1, 1) * target, rng.normal(size=len(data))], axis=1)
    said = found(replace(data, labels=target, task="regression", label_names=()), X)
    assert said.unseen_templates["template"].iloc[0] == "flipped"
    assert said.unseen_templates["score"].iloc[0] < 0
