"""Classification scores as pure functions of arrays, weighted so that many subsets are scored in one call.

``weights (B, n)`` say how often each item counts in each of B resamples, folds or subsets; every function returns ``(B,)``.
With one row of ones the values are scikit-learn's, except that what needs every class is NaN where one is absent.
"""

from __future__ import annotations

import numpy as np

BINS = 15


def class_counts(y: np.ndarray, predicted: np.ndarray, n_classes: int, weights: np.ndarray) -> np.ndarray:
    """``(3, B, C)`` weight of the items of each class predicted rightly, of the items of each class, and predicted as each class.

    The margins of a confusion matrix and its diagonal: all that the scores of ``count_scores`` need of it.
    """
    classes = np.arange(n_classes)
    is_class, said_class = y[:, None] == classes, predicted[:, None] == classes
    columns = np.concatenate([is_class & said_class, is_class, said_class], axis=1).astype(np.float64)
    return np.moveaxis((weights @ columns).reshape(-1, 3, n_classes), 1, 0)


def count_scores(hits: np.ndarray, support: np.ndarray, claimed: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that counts of true and predicted classes determine, each of the three counts ``(..., C)``.

    Macro means are over the classes that occur in the labels or the predictions, balanced accuracy over those in the
    labels; a class never predicted has precision 0. Constant predictions have a Matthews correlation of 0.

    Returns:
        ``(...)`` arrays: accuracy, balanced_accuracy, precision, recall, f1, mcc; all NaN where there is no item.
    """
    total = support.sum(-1)
    classes = ((support + claimed) > 0).sum(-1)
    recall = _ratio(hits, support, 0.0)
    # Sums of products of counts, so that no class needs to be singled out (Gorodkin 2004).
    covariance = hits.sum(-1) * total - (support * claimed).sum(-1)
    spread = (total**2 - (support**2).sum(-1)) * (total**2 - (claimed**2).sum(-1))
    scores = {
        "accuracy": _ratio(hits.sum(-1), total),
        "balanced_accuracy": _ratio(recall.sum(-1), (support > 0).sum(-1)),
        "precision": _ratio(_ratio(hits, claimed, 0.0).sum(-1), classes),
        "recall": _ratio(recall.sum(-1), classes),
        "f1": _ratio(_ratio(2 * hits, support + claimed, 0.0).sum(-1), classes),
        "mcc": _ratio(covariance, np.sqrt(np.maximum(spread, 0)), 0.0),
    }
    return {name: np.where(total > 0, values, np.nan) for name, values in scores.items()}


def _ratio(top: np.ndarray, bottom: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    """``top / bottom``, and ``otherwise`` where the bottom is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(top, dtype=np.float64), bottom)
    return np.divide(top, bottom, out=np.full(top.shape, otherwise), where=bottom != 0)


def rank_scores(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """auroc and average_precision, what the order of the scores alone determines, each ``(B,)``.

    The first is the probability that a positive item scores above a negative one, ties half; the second the mean over the
    positive items of the precision at their score. Both are NaN where either kind is absent.

    Args:
        positive: ``(n,)`` bool.
        scores: ``(n,)`` any number that grows with the belief that an item is positive.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    weights = weights[:, order]
    # (B, distinct scores), highest score first.
    positives = np.add.reduceat(weights * positive[order], starts, axis=1)
    negatives = np.add.reduceat(weights, starts, axis=1) - positives
    n_positive, n_negative = positives.sum(1), negatives.sum(1)
    negatives_so_far = np.cumsum(negatives, axis=1)
    below = n_negative[:, None] - negatives_so_far + negatives / 2
    positives_so_far = np.cumsum(positives, axis=1)
    precision = _ratio(positives_so_far, positives_so_far + negatives_so_far, 0.0)
    average_precision = _ratio((positives * precision).sum(1), n_positive)
    return {
        "auroc": _ratio((positives * below).sum(1), n_positive * n_negative),
        "average_precision": np.where(n_negative > 0, average_precision, np.nan),
    }


def log_losses(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """``(n,)`` negative natural logarithm of the probability given to the true class; 0 counts as the smallest step from 0."""
    given = probabilities[np.arange(len(y)), y]
    return -np.log(np.maximum(given, np.finfo(probabilities.dtype).eps))


def brier_losses(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """``(n,)`` squared distance of the probabilities from the truth: of the second class for two classes, else over all."""
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] - y) ** 2
    return ((probabilities - np.eye(probabilities.shape[1])[y]) ** 2).sum(1)


def calibration_error(
    claimed: np.ndarray, observed: np.ndarray, weights: np.ndarray, equal_mass: bool = False, bins: int = BINS
) -> np.ndarray:
    """Expected calibration error: mean distance of claimed probability and observed share over bins (Guo et al. 2017).

    Args:
        claimed: ``(n,)`` probabilities.
        observed: ``(n,)`` bool or 0/1: whether what was claimed came true.
        equal_mass: bins that hold equally many items in place of bins of equal width (Nixon et al. 2019).
    """
    if equal_mass:
        edges = np.quantile(claimed, np.linspace(0, 1, bins + 1)[1:-1])
    else:
        edges = np.linspace(0, 1, bins + 1)[1:-1]
    bin_of = np.searchsorted(edges, claimed, side="left")
    gap = np.zeros((len(claimed), bins))
    gap[np.arange(len(claimed)), bin_of] = claimed - observed
    return _ratio(np.abs(weights @ gap).sum(1), weights.sum(1))
