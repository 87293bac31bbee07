"""Which texts go through the model together: similar lengths, a bounded number of padded tokens."""

from __future__ import annotations

import numpy as np

from layerwise.errors import UserError


def token_budget_batches(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Batches of indices, longest texts first, each of at most ``budget`` padded tokens.

    The padded size of a batch is its number of texts times its longest text. A text longer than the budget is a batch of
    its own. Longest first, so that a batch that does not fit into memory fails at once and not at the end.

    Args:
        lengths: ``(n,)`` tokens of each text.
        budget: padded tokens per batch.

    Returns:
        int64 index arrays that together hold every index once; equal lengths keep their input order.
    """
    if budget < 1:
        raise UserError(f"the token budget must be at least 1, got {budget}.")
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        longest = max(int(sizes[order[start]]), 1)
        stop = start + max(budget // longest, 1)
        batches.append(order[start:stop])
        start = stop
    return batches
