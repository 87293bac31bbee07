"""Probes that scikit-learn fits: one wrapper that checks, standardises, and folds the standardisation back into directions."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_classifier
from sklearn.metrics import accuracy_score, r2_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import Tags, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from layerwise.probes.inputs import Floats, InvalidInput, checked, checked_pair
from layerwise.probes.linear import Labels
from layerwise.probes.solvers.linear_fits import moments_of


def _offers(name: str) -> Any:
    return available_if(lambda probe: hasattr(getattr(probe, "fitted_", probe.estimator), name))


class ScaledProbe(BaseEstimator):
    """A scikit-learn classifier or regressor on standardised features, its directions in the features' own space.

    Targets of a regression are standardised as well, so that penalties and tolerances do not depend on their unit.

    Args:
        estimator: what is fitted, cloned first.
        standardize: give each feature mean 0 and variance 1 over the training rows; without it they are as they come.

    Attributes:
        fitted_: the fitted one. n_features_in_. classes_ (of a classifier).
        coef_ (planes, width), intercept_ (planes,): where ``fitted_`` has one plane for two classes or a target, or one a class.
    """

    def __init__(self, estimator: Any, standardize: bool = True) -> None:
        self.estimator, self.standardize = estimator, standardize

    def fit(self, X: Any, y: Any) -> Self:
        """Fit to features (n, width) and classes or targets (n,). Raises InvalidInput for unusable ones."""
        classify = is_classifier(self.estimator)
        values, labels = checked_pair(self, X, y, classify)
        self.mean_, self.scale_ = moments_of(values) if self.standardize else (np.zeros(1), np.ones(1))
        self.target_mean_, self.target_scale_ = 0.0, 1.0
        if classify:
            self.classes_ = np.unique(labels)
        else:
            self.target_mean_, self.target_scale_ = float(labels.mean()), float(labels.std()) or 1.0
            labels = (labels - self.target_mean_) / self.target_scale_
        try:
            self.fitted_ = clone(self.estimator).fit((values - self.mean_) / self.scale_, labels)
        except ValueError as error:
            raise InvalidInput(f"{type(self.estimator).__name__} cannot be fitted: {error}") from error
        return self

    def _scaled(self, X: Any) -> Floats:
        check_is_fitted(self, "fitted_")
        scaled: Floats = (checked(self, X) - self.mean_) / self.scale_
        return scaled

    def predict(self, X: Any) -> Labels:
        """(n,) classes, or values."""
        scaled = self._scaled(X)
        values: Labels = self.fitted_.predict(scaled)
        return values if is_classifier(self.estimator) else values * self.target_scale_ + self.target_mean_

    @_offers("predict_proba")
    def predict_proba(self, X: Any) -> Floats:
        """(n, classes) probabilities."""
        scaled = self._scaled(X)
        probabilities: Floats = self.fitted_.predict_proba(scaled)
        return probabilities

    @_offers("decision_function")
    def decision_function(self, X: Any) -> Floats:
        """(n,) score of the second of two classes, or (n, classes)."""
        scaled = self._scaled(X)
        scores: Floats = self.fitted_.decision_function(scaled)
        return scores

    def score(self, X: Any, y: Any) -> float:
        """Accuracy, or R² of a regression."""
        return float((accuracy_score if is_classifier(self.estimator) else r2_score)(y, self.predict(X)))

    @property
    def coef_(self) -> Floats:
        return self._plane()[0]

    @property
    def intercept_(self) -> Floats:
        return self._plane()[1]

    def _plane(self) -> tuple[Floats, Floats]:
        """Raises AttributeError where there are no planes, one for each class."""
        if not hasattr(self, "fitted_"):
            raise AttributeError("a probe has coef_ and intercept_ once it is fitted")
        weights, offset = np.atleast_2d(self.fitted_.coef_), np.atleast_1d(self.fitted_.intercept_)
        planes = len(self.classes_) if hasattr(self, "classes_") and len(self.classes_) > 2 else 1
        if len(weights) != planes or (planes > 1 and hasattr(self.fitted_, "support_vectors_")):
            raise AttributeError(f"{type(self.fitted_).__name__} has no plane for each class, but one for each pair")
        coef = weights / self.scale_ * self.target_scale_
        return coef, offset * self.target_scale_ + self.target_mean_ - (coef * self.mean_).sum(1)

    def __sklearn_tags__(self) -> Tags:
        tags, inner = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.estimator_type, tags.target_tags = inner.estimator_type, inner.target_tags
        tags.classifier_tags, tags.regressor_tags = inner.classifier_tags, inner.regressor_tags
        tags.target_tags.multi_output, tags.non_deterministic = False, inner.non_deterministic
        return tags


class SquaredErrorClassifier(ClassifierMixin, BaseEstimator):
    """A linear regressor as classifier, as ``RidgeClassifier`` is for ridge: targets of −1 and 1, one column for two classes.

    Args:
        regressor: such as ``Lasso``; it takes several targets at once.

    Attributes: classes_, regressor_, coef_ (planes, width), intercept_ (planes,), n_features_in_.
    """

    def __init__(self, regressor: Any) -> None:
        self.regressor = regressor

    def fit(self, X: Any, y: Any) -> Self:
        """Fit to features (n, width) and classes (n,). Raises InvalidInput for unusable ones, or a single class."""
        values, labels = checked_pair(self, X, y, classify=True)
        binarizer = LabelBinarizer(neg_label=-1).fit(labels)
        self.classes_ = binarizer.classes_
        targets = binarizer.transform(labels).astype(np.float64)
        self.regressor_ = clone(self.regressor).fit(values, targets[:, 0] if targets.shape[1] == 1 else targets)
        self.coef_ = np.atleast_2d(self.regressor_.coef_)
        self.intercept_ = np.atleast_1d(self.regressor_.intercept_)
        return self

    def decision_function(self, X: Any) -> Floats:
        """(n,) score of the second of two classes, or (n, classes)."""
        check_is_fitted(self, "coef_")
        scores: Floats = validate_data(self, X, reset=False, dtype=np.float64) @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Any) -> Labels:
        """(n,) classes."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)]
