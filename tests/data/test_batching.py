from __future__ import annotations

import numpy as np
import pytest

from layerwise.data.batching import token_budget_batches
from layerwise.errors import UserError


def test_batches_hold_every_index_once_within_the_budget_longest_first():
    lengths = np.random.default_rng(0).integers(1, 90, 500)
    batches = token_budget_batches(lengths, 256)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    longest = [int(lengths[batch].max()) for batch in batches]
    assert all(len(batch) * top <= 256 for batch, top in zip(batches, longest, strict=True))
    assert longest == sorted(longest, reverse=True)


def test_padding_is_far_below_that_of_input_order():
    lengths = np.random.default_rng(1).integers(4, 60, 400)
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in token_budget_batches(lengths, 512))
    assert padded <= 1.06 * lengths.sum()


def test_a_text_longer_than_the_budget_is_a_batch_of_its_own():
    batches = token_budget_batches(np.array([3, 100, 3]), 10)
    assert [batch.tolist() for batch in batches] == [[1], [0, 2]]


def test_equal_lengths_keep_input_order_and_no_texts_give_no_batches():
    assert [batch.tolist() for batch in token_budget_batches(np.array([2, 2, 2, 2, 2]), 4)] == [[0, 1], [2, 3], [4]]
    assert token_budget_batches(np.array([], dtype=int), 4) == []


def test_a_budget_below_one_is_refused():
    with pytest.raises(UserError, match=r"at least 1, got 0"):
        token_budget_batches(np.array([1]), 0)
