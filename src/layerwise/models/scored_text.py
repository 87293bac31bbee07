"""A text with a number for each of its tokens, and where tokens stand in the text they spell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoredText:
    """One text and a score for each of its tokens.

    Attributes:
        text: what the tokens are of.
        tokens: (tokens,) each token's own piece of it, or its name where it has none (``<s>``).
        offsets: (tokens, 2) start and end character in ``text``; (-1, -1) for tokens that stand for no piece of it.
        scores: (tokens,) float64; NaN where there is none.
        meaning: what the scores are, for a legend.
        neutral: the score that speaks for neither side; None for the values of a regression.
        prompt_tokens: how many of the tokens were the prompt of a generation; None for a text that was only read.
    """

    text: str
    tokens: tuple[str, ...]
    offsets: NDArray[np.int64]
    scores: Floats
    meaning: str
    neutral: float | None
    prompt_tokens: int | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def to_frame(self) -> pd.DataFrame:
        """A row per token: token, start, end, score."""
        start, end = self.offsets.T
        return pd.DataFrame({"token": self.tokens, "start": start, "end": end, "score": self.scores})


def laid_out(tokenizer: Any, ids: Sequence[int] | NDArray[np.int64]) -> tuple[str, NDArray[np.int64]]:
    """The text that token ids spell and (tokens, 2) where each stands in it: what it adds when the tokens before are known.

    A token that only completes a character with later ones has an empty place. Special tokens are spelt out.
    """
    ids = [int(token) for token in ids]
    ends = [len(tokenizer.decode(ids[: stop + 1]).rstrip("\N{REPLACEMENT CHARACTER}")) for stop in range(len(ids))]
    ends = np.maximum.accumulate(ends).tolist()
    text = tokenizer.decode(ids)
    places = np.stack([[0, *ends[:-1]], [*ends[:-1], len(text)]], axis=1).astype(np.int64)
    return text, places
