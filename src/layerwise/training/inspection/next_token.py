"""What a model expects to come next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from layerwise.models.model import LanguageModel
from layerwise.models.taps import run
from layerwise.training.inspection.reading import read_prompt, token_names


@dataclass(frozen=True, eq=False)
class NextTokens:
    """The whole distribution of the next token, likeliest first.

    ids: (vocabulary,) int64. log_p: (vocabulary,) float64, natural logarithms.
    """

    model: LanguageModel
    prompt: str
    ids: NDArray[np.int64]
    log_p: NDArray[np.float64]

    @property
    def entropy(self) -> float:
        """In nats."""
        p = np.exp(self.log_p)
        return float(-(p * self.log_p)[p > 0].sum())

    def top(self, count: int = 20) -> pd.DataFrame:
        """The likeliest tokens, a row each: rank (from 1), id, token, p, cumulative."""
        ids, p = self.ids[:count], np.exp(self.log_p[:count])
        return pd.DataFrame(
            {
                "rank": np.arange(1, len(ids) + 1),
                "id": ids,
                "token": token_names(self.model, ids),
                "p": p,
                "cumulative": p.cumsum(),
            }
        )

    def probability(self, token: str) -> float:
        """Of the token that begins ``token`` as a text: of all whose spelling it is, together.

        >>> next_tokens(model, "The capital of France is").probability(" Paris")  # doctest: +SKIP
        0.31
        """
        names = np.array(token_names(self.model, self.ids), dtype=object)
        return float(np.exp(self.log_p[names == token]).sum())


def next_tokens(model: LanguageModel, prompt: str) -> NextTokens:
    """The distribution of the token after a prompt; after an empty one, of the first token of a text.

    Raises UserError for an encoder or an encoder-decoder.
    """
    reading = read_prompt(model, prompt)
    found = run(model, reading.batch(model), {"logits": lambda logits: logits[:, -1]})
    log_p = found["logits"][0].double().log_softmax(-1).cpu().numpy()
    order = np.argsort(-log_p, kind="stable")
    return NextTokens(model, prompt, order, log_p[order])
