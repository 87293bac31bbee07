"""What an attention head does, as numbers: pure functions of its pattern and of the tokens it reads.

``pattern``: (…, query, key) attention probabilities, causal. ``ids``: (query,) token ids, the same for all patterns.
"""

from __future__ import annotations

from torch import Tensor


def previous_token_score(pattern: Tensor) -> Tensor:
    """(…) mean attention to the token just before, over all queries but the first."""
    return pattern.diagonal(-1, -2, -1).mean(-1)


def first_token_score(pattern: Tensor) -> Tensor:
    """(…) mean attention to the first token, over all queries but the first: where heads rest that do nothing (Xiao et al. 2023)."""
    return pattern[..., 1:, 0].mean(-1)


def duplicate_token_score(pattern: Tensor, ids: Tensor) -> Tensor:
    """(…) mean attention to earlier occurrences of the query's own token, over the queries that have one (Wang et al. 2022)."""
    return _mean_share(pattern, _same(ids).tril(-1))


def induction_score(pattern: Tensor, ids: Tensor) -> Tensor:
    """(…) mean attention to the tokens after earlier occurrences of the query's own token, over the queries that have one.

    The prefix matching score of Olsson et al. 2022, "In-context Learning and Induction Heads"; on a block of random tokens that
    comes twice, 1 for a head that always looks there. NaN where no token comes twice.
    """
    after = _same(ids).tril(-1).roll(1, dims=-1)  # key j + 1 follows the occurrence at j
    after[:, 0] = False
    return _mean_share(pattern, after)


def _same(ids: Tensor) -> Tensor:
    """(query, key) whether both are the same token."""
    return ids[:, None] == ids[None, :]


def _mean_share(pattern: Tensor, wanted: Tensor) -> Tensor:
    """Attention to the wanted keys, mean over the queries that have some."""
    queries = wanted.any(-1)
    return (pattern * wanted).sum(-1)[..., queries].mean(-1)
