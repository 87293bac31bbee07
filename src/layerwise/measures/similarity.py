"""How alike two vectors are."""

from __future__ import annotations

import numpy as np


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of the angle between the last axes of ``a`` and ``b`` (broadcast); NaN where either vector is zero."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    dot = (a * b).sum(-1)
    return np.clip(np.divide(dot, norms, out=np.full(np.shape(dot), np.nan), where=norms > 0), -1, 1)
