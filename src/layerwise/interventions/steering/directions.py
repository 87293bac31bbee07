"""Directions in activations, each as long as its two kinds of texts lie apart along it, so that strength 1 carries one kind to the other."""

from __future__ import annotations

import torch
from torch import Tensor

from layerwise.errors import UserError


def difference_of_means(values: Tensor, labels: Tensor) -> Tensor:
    """(width,): the mean of class 1 less that of class 0 (Marks & Tegmark 2023). values: (n, width). labels: (n,) of 0 and 1."""
    one, other = _classes(values, labels)
    return one.mean(0) - other.mean(0)


def principal_of_differences(positive: Tensor, negative: Tensor) -> Tensor:
    """(width,): the first principal direction of the differences of pairs, positive and negative (n, width) each.

    About 0, not about their mean, which is what the pairs have in common (Zou et al. 2023). It points from the negative to the positive
    texts.
    """
    differences = positive.double() - negative.double()
    if not bool(differences.any()):
        raise UserError("the two texts of every pair have equal activations: there is no direction between them.")
    _, _, axes = torch.linalg.svd(differences, full_matrices=False)
    return axes[0] * (differences @ axes[0]).mean()


def as_far_as_the_classes(direction: Tensor, values: Tensor, labels: Tensor) -> Tensor:
    """(width,): a direction, such as a probe's weights, as long as the two class means lie apart along it.

    It keeps its sign. Raises UserError where they do not lie apart at all.
    """
    unit = torch.nn.functional.normalize(direction.double(), dim=0)
    one, other = _classes(values, labels)
    gap = float((one.mean(0) - other.mean(0)) @ unit)
    if gap == 0:
        raise UserError("the two classes have the same mean along the direction, so it has no natural length.")
    return unit * abs(gap)


def pattern(weights: Tensor, values: Tensor) -> Tensor:
    """(width,): what varies along with a linear read-out, ``Σ w`` (Haufe et al. 2014).

    Weights are a filter: they also cancel what has nothing to do with the label. Their pattern is how activations themselves change where
    the read-out does.
    """
    centred = values.double() - values.double().mean(0)
    return centred.T @ (centred @ weights.double()) / len(centred)


def _classes(values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The values of class 1 and of class 0, float64."""
    found = sorted(set(labels.tolist()))
    if found != [0, 1]:
        raise UserError(f"a direction between classes needs two of them, 0 and 1, got {', '.join(map(str, found))}.")
    return values.double()[labels == 1], values.double()[labels == 0]
