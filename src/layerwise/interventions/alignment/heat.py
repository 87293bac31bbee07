"""Which tokens a rotation reads: its directions, cut where one token of a joined place ends and the next begins."""

from __future__ import annotations

import numpy as np

from layerwise.errors import UserError


def token_shares(basis: np.ndarray, tokens: int, variables: int, size: int) -> np.ndarray:
    """(tokens, variables): the share of each variable's directions that lies in each token; every column sums to 1.

    basis: (tokens · width, rank) orthonormal columns over the joined tokens, the first ``size`` of them the first variable's.
    A share is the squared Frobenius norm of the block over ``size``. Raises UserError where the basis does not divide so.
    """
    if len(basis) % tokens or basis.shape[1] < variables * size:
        raise UserError(
            f"a basis of shape {basis.shape} has no {tokens} tokens and {variables} variables of {size} directions."
        )
    squared = basis[:, : variables * size].astype(np.float64) ** 2
    blocks = squared.reshape(tokens, len(basis) // tokens, variables, size).sum((1, 3))
    return blocks / blocks.sum(0)
