"""Hierarchical equality of shapes that are vectors, of which no two draws are alike: what a network without tokens learns it from."""

from __future__ import annotations

import numpy as np


def equality_vectors(n: int, generator: np.random.Generator, numbers: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """(n, 4 · numbers) float32, four shapes between −1 and 1 side by side, and (n, 2) whether each pair of them is equal.

    Each of the four cases comes a quarter of the time.
    """
    shapes = generator.uniform(-1, 1, size=(n, 2, 2, numbers)).astype(np.float32)
    equal = generator.integers(2, size=(n, 2)).astype(bool)
    shapes[:, :, 1] = np.where(equal[:, :, None], shapes[:, :, 0], shapes[:, :, 1])
    return shapes.reshape(n, -1), equal
