"""Directions: from class means, pairs and read-outs; their length is how far the two kinds lie apart along them."""

from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import TruncatedSVD
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.steering.directions import (
    as_far_as_the_classes,
    difference_of_means,
    pattern,
    principal_of_differences,
)

LABELS = torch.arange(200) % 2


def rows(seed: int = 0) -> Tensor:
    """Two classes 3 apart along the first axis; the second axis varies most and says nothing."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(200, 6, generator=draw, dtype=torch.float64) * torch.tensor([1.0, 5, 1, 1, 1, 1])
    values[:, 0] += 3 * LABELS
    return values


def test_the_difference_of_means_points_from_class_0_to_class_1() -> None:
    direction = difference_of_means(rows(), LABELS)
    assert direction[0] == pytest.approx(3, abs=0.5)
    torch.testing.assert_close(direction, rows()[1::2].mean(0) - rows()[::2].mean(0))


def test_a_direction_gets_the_length_of_the_gap_and_keeps_its_sign() -> None:
    weights = torch.tensor([-2.0, 0.1, 0, 0, 0, 0])
    found = as_far_as_the_classes(weights, rows(), LABELS)
    unit = weights.double() / weights.double().norm()
    torch.testing.assert_close(found / found.norm(), unit)
    assert float(found.norm()) == pytest.approx(abs(float(difference_of_means(rows(), LABELS) @ unit)))


def test_the_principal_direction_of_pairs_is_that_of_an_uncentred_decomposition() -> None:
    positive, negative = rows()[1::2], rows()[::2]
    positive = positive + torch.tensor([0.0, 0, 12, 0, 0, 0])
    found = principal_of_differences(positive, negative)
    svd = TruncatedSVD(1, algorithm="arpack").fit((positive - negative).numpy())
    cosine = torch.nn.functional.cosine_similarity(found, torch.from_numpy(svd.components_[0].copy()), dim=0)
    assert abs(float(cosine)) == pytest.approx(1, abs=1e-6)
    assert found[2] == pytest.approx(12, abs=1)  # what all pairs share counts, and it points to the positive ones
    torch.testing.assert_close(principal_of_differences(negative, positive), -found)


def test_the_pattern_of_a_filter_leaves_out_what_it_cancels() -> None:
    """Signal s on both of two axes, noise on the second alone: the filter subtracts, the pattern is where s is (Haufe et al. 2014)."""
    draw = torch.Generator().manual_seed(0)
    signal, noise = torch.randn(2, 5000, generator=draw, dtype=torch.float64)
    values = torch.stack([signal + noise, noise], 1)
    found = pattern(torch.tensor([1.0, -1.0]), values)
    assert float(found[0]) == pytest.approx(1, abs=0.1)
    assert float(found[1]) == pytest.approx(0, abs=0.1)


def test_what_has_no_direction_is_told() -> None:
    with pytest.raises(UserError, match="two of them, 0 and 1"):
        difference_of_means(rows(), torch.arange(200) % 3)
    with pytest.raises(UserError, match="equal activations"):
        principal_of_differences(rows(), rows())
    with pytest.raises(UserError, match="same mean"):
        as_far_as_the_classes(torch.ones(6), torch.zeros(4, 6), torch.arange(4) % 2)
