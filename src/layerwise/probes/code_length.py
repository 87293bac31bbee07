"""Online code length: how many bits the labels take to send to someone who has the representations (Voita & Titov 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from layerwise.errors import UserError
from layerwise.probes.calibration import fit_platt
from layerwise.probes.crossval import fold_scores, take_rows
from layerwise.probes.evaluation import are_probabilities
from layerwise.probes.outputs import outputs
from layerwise.probes.validation import check_features, check_labels

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
CALIBRATION_FOLDS = 3


@dataclass(frozen=True)
class CodeLength:
    """Bits of a labelling sent block by block, each block coded by the probe trained on all earlier ones.

    Attributes:
        ends: items sent at the end of each block.
        bits: of each block; the first is sent with the uniform code.
    """

    ends: tuple[int, ...]
    bits: tuple[float, ...]
    n_classes: int

    @property
    def total(self) -> float:
        """Bits of the whole labelling."""
        return float(sum(self.bits))

    @property
    def uniform(self) -> float:
        """Bits of the whole labelling with no probe at all: ``n log2 C``."""
        return self.ends[-1] * float(np.log2(self.n_classes))

    @property
    def compression(self) -> float:
        """Uniform bits over the probe's; 1 where the representations help nothing, below 1 where they mislead."""
        return self.uniform / self.total

    def to_metrics(self, prefix: str = "code") -> dict[str, float]:
        """``code/bits``, ``code/bits_uniform``, ``code/compression``."""
        return {
            f"{prefix}/bits": self.total,
            f"{prefix}/bits_uniform": self.uniform,
            f"{prefix}/compression": self.compression,
        }

    def to_frame(self) -> pd.DataFrame:
        """A row per block: items sent before it, items in it, its bits, its bits per item."""
        ends = np.array(self.ends)
        starts = np.concatenate([[0], ends[:-1]])
        return pd.DataFrame(
            {
                "trained_on": starts,
                "items": ends - starts,
                "bits": self.bits,
                "bits_per_item": self.bits / (ends - starts),
            }
        )


def code_length(
    estimator: Any,
    X: np.ndarray,
    y: np.ndarray,
    n_classes: int = 2,
    groups: np.ndarray | None = None,
    fractions: tuple[float, ...] = FRACTIONS,
    seed: int = 0,
) -> CodeLength:
    """Online code length of labels given features, in an order drawn by ``seed``.

    The probabilities of a probe trained on t items are mixed with the uniform ones by a share ``1 / (t + 1)²``: still a code, its cost
    vanishes, and a class not seen yet or a probability of 0 costs finitely many bits. A probe with decision values is
    calibrated by Platt's sigmoids on out-of-fold scores of the items sent so far; until they hold two classes, and three items
    of each for that, blocks are sent with the uniform code.

    Args:
        X: ``(n, d)``.
        y: ``(n,)`` class ids 0 to ``n_classes - 1``; true labels, or control labels to compare with.
        groups: ``(n,)``; items of one group are sent one after the other in one block.
        fractions: of the items sent at the end of each block; the first block holds at least two items a class.

    Raises:
        UserError: with NaN features, one class only, or fewer than four items a class on average.
    """
    y = np.asarray(y)
    check_labels(y, "classification")
    check_features(X, y)
    if len(y) < 4 * n_classes:
        raise UserError(
            f"online code length needs at least {4 * n_classes} items for {n_classes} classes, got {len(y)}."
        )
    order, edges = _order(len(y), groups, np.random.default_rng(seed))
    X, y = take_rows(X, order), y[order]
    ends = _ends(len(y), edges, fractions, 2 * n_classes)
    uniform = float(np.log2(n_classes))
    bits = [ends[0] * uniform]
    for start, end in pairwise(ends):
        probabilities = _probabilities(estimator, X[:start], y[:start], X[start:end], n_classes)
        if probabilities is None:
            bits.append((end - start) * uniform)
            continue
        share = 1 / (start + 1) ** 2
        given = probabilities[np.arange(end - start), y[start:end]]
        bits.append(float(-np.log2((1 - share) * given + share / n_classes).sum()))
    return CodeLength(tuple(ends), tuple(bits), n_classes)


def _order(n: int, groups: np.ndarray | None, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A random order that keeps groups together, and the ``(m,)`` numbers of items after which a block may end."""
    if groups is None:
        return rng.permutation(n), np.arange(1, n + 1)
    group = np.unique(groups, return_inverse=True)[1]
    position = rng.permutation(int(group.max()) + 1)[group]
    order = np.lexsort((rng.random(n), position))
    return order, np.cumsum(np.bincount(position))


def _ends(n: int, edges: np.ndarray, fractions: tuple[float, ...], smallest: int) -> list[int]:
    """Ends of the blocks: the first edge at or after each fraction, at least ``smallest`` items in, the last at n."""
    wanted = np.maximum(np.ceil(np.array(fractions) * n - 1e-9), min(smallest, n))
    ends = edges[np.minimum(np.searchsorted(edges, wanted), len(edges) - 1)]
    return sorted({*ends.tolist(), n})


def _probabilities(
    estimator: Any, X_seen: np.ndarray, y_seen: np.ndarray, X_next: np.ndarray, n_classes: int
) -> np.ndarray | None:
    """``(next, C)`` probabilities by a probe of the seen items; None where they do not allow one."""
    classes, code, counts = np.unique(y_seen, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        return None
    # Fitted on the classes seen so far, numbered from 0; those not seen yet get their share from the uniform part.
    probe = clone(estimator)
    has_probabilities = hasattr(probe, "predict_proba")
    if not has_probabilities and counts.min() < CALIBRATION_FOLDS:
        return None
    probe.fit(X_seen, code)
    known = outputs(probe, X_next)
    if not (has_probabilities and are_probabilities(known)):
        # Item i of each class to fold i mod 3: the seen items are in random order already.
        rank = np.empty(len(code), dtype=np.int64)
        for label in range(len(classes)):
            rank[code == label] = np.arange(counts[label])
        folds = rank % CALIBRATION_FOLDS
        known = fit_platt(code, fold_scores(estimator, X_seen, code, folds[None])[0, 0]).probabilities(known)
    probabilities = np.zeros((len(X_next), n_classes))
    probabilities[:, classes] = known
    return probabilities
