"""What an estimator says about rows, in the one form everything downstream reads."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def outputs(estimator: Any, X: Any) -> NDArray[np.float64]:
    """(n, classes) probabilities, else (n, classes or 1) decision values, else (n, 1) predicted values."""
    if hasattr(estimator, "predict_proba"):
        values = estimator.predict_proba(X)
    elif hasattr(estimator, "decision_function"):
        values = estimator.decision_function(X)
    else:
        values = estimator.predict(X)
    array = np.asarray(values, dtype=np.float64)
    return array.reshape(len(array), -1)
