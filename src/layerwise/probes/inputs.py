"""What every estimator here checks before it fits or predicts, so that each mistake has one message."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from layerwise.errors import UserError

Floats = NDArray[np.float64]


class InvalidInput(UserError, ValueError):
    """Features or labels that a probe cannot use; a ValueError too, as scikit-learn's contract has it."""


def checked(estimator: Any, X: Any) -> Floats:
    """``X`` as (n, width) float64, of the width the estimator was fitted on.

    Raises:
        InvalidInput: for another shape or width, NaN and infinity, and what is not numbers.
    """
    _check_finite(X)
    try:
        values: Floats = validate_data(estimator, X, reset=False, dtype=np.float64)
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    return values


def checked_pair(estimator: Any, X: Any, y: Any, classify: bool) -> tuple[Floats, NDArray[Any]]:
    """``X`` as (n, width) float64 and ``y`` as (n,): classes as they are, targets as float64.

    Raises:
        InvalidInput: as ``checked``; where rows and labels differ in number; for a single class, or targets that are no classes.
    """
    _check_finite(X)
    try:
        values, labels = validate_data(estimator, X, y, dtype=np.float64, y_numeric=not classify, ensure_min_samples=2)
        if classify:
            check_classification_targets(labels)
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    if classify:
        check_more_than_one(labels)
        return values, labels
    return values, np.asarray(labels, dtype=np.float64)


def check_more_than_one(labels: NDArray[Any]) -> None:
    """Raise InvalidInput where all labels are of one class."""
    classes = np.unique(labels)
    if len(classes) < 2:
        raise InvalidInput(f"a classifier needs at least two classes, the labels have one class: {classes[0]}.")


def _check_finite(X: Any) -> None:
    if isinstance(X, np.ndarray) and X.dtype.kind == "f" and X.ndim and not np.isfinite(X).all():
        bad = int((~np.isfinite(X)).reshape(len(X), -1).any(1).sum())
        raise InvalidInput(f"the features hold NaN or inf in {bad} of {len(X)} rows. Leave such rows out.")
