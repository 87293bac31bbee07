"""How surprising texts are to a model: cross-entropy and perplexity, token by token.

The mean is over tokens, so that neither the order of the texts nor their batches have a part in it. A text that is longer
than the model reads goes through in windows that overlap; each token is scored once, in the window that holds most of what
stands before it (Hugging Face's recipe for models of fixed length).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from layerwise.errors import UserError
from layerwise.models.continuations import Continuation, first_token, own_end
from layerwise.models.model import LanguageModel
from layerwise.models.scored_text import ScoredText
from layerwise.models.scoring import score
from layerwise.models.tokens import tokenize
from layerwise.training.inspection.reading import token_names

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Perplexity:
    """What was found.

    texts: as they were given. tokens: a row for every token that was predicted: text, position, token, start, end (characters; −1
    where the tokenizer does not know), log_p (nats), greedy (no token was likelier).
    """

    texts: tuple[str, ...]
    tokens: pd.DataFrame

    @property
    def cross_entropy(self) -> float:
        """Nats a token, mean over all tokens."""
        return float(-self.tokens["log_p"].mean())

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.cross_entropy))

    @property
    def bits_per_byte(self) -> float:
        """Of UTF-8; it does not depend on the tokenizer."""
        written = sum(len(text.encode("utf-8", "surrogatepass")) for text in self.texts)
        return float(-self.tokens["log_p"].sum() / np.log(2) / written)

    def by_text(self) -> pd.DataFrame:
        """A row a text: text, tokens, cross_entropy (mean, nats), min, max (of a token), perplexity, accuracy, content."""
        groups = self.tokens.groupby("text", sort=True)
        loss = -groups["log_p"].mean()
        return pd.DataFrame(
            {
                "text": loss.index,
                "tokens": groups.size(),
                "cross_entropy": loss,
                "min": -groups["log_p"].max(),
                "max": -groups["log_p"].min(),
                "perplexity": np.exp(loss),
                "accuracy": groups["greedy"].mean(),
                "content": [self.texts[number] for number in loss.index],
            }
        ).reset_index(drop=True)

    def scored(self, count: int) -> list[ScoredText]:
        """The first ``count`` texts with what each token cost, to be coloured. Tokens without a place in the text are left out."""
        found = []
        for number, text in enumerate(self.texts[:count]):
            rows = self.tokens[(self.tokens["text"] == number) & (self.tokens["start"] >= 0)]
            places = rows[["start", "end"]].to_numpy(dtype=np.int64)
            pieces = tuple(text[start:end] for start, end in places.tolist())
            found.append(
                ScoredText(text, pieces, places, -rows["log_p"].to_numpy(), "surprise, nats", self.cross_entropy)
            )
        return found

    def summary(self) -> dict[str, float]:
        """Means over tokens, and the least and most surprising text and token."""
        texts = self.by_text()["cross_entropy"]
        surprise = -self.tokens["log_p"]
        return {
            "cross_entropy": self.cross_entropy, "perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte,
            "accuracy": float(self.tokens["greedy"].mean()), "tokens": float(len(self.tokens)), "texts": float(len(self.texts)),
            "perplexity_min": float(np.exp(texts.min())), "perplexity_max": float(np.exp(texts.max())),
            "token_cross_entropy_min": float(surprise.min()), "token_cross_entropy_max": float(surprise.max()),
        }  # fmt: skip


def perplexity(
    model: LanguageModel,
    texts: Sequence[str],
    *,
    overlap: float = 0.5,
    token_budget: int | None = None,
    done: Callable[[int], None] = lambda windows: None,
) -> Perplexity:
    """Cross-entropy of every token of every text, given those before it. The first one follows the token that begins texts.

    Args:
        overlap: of the windows of a long text, as a share of what the model reads: at least so much stands before a token
            of any window but the first.
        token_budget: padded tokens a batch; it does not change what is found.
        done: is told how many windows each batch has finished.

    Raises UserError for an encoder, an encoder-decoder, a chat, and an empty text.
    """
    if isinstance(texts, str) or not len(texts):
        raise UserError("perplexity is of a list of texts, and at least one.")
    if model.is_encoder_decoder:
        raise UserError(f"{model.name} is an encoder-decoder, which reads two texts at once: plain texts have none.")
    if model.tokenizer is None:
        raise UserError(f"{model.name} has no tokenizer: name one with model.tokenizer.")
    if model.frame is not None:
        raise UserError("perplexity is of plain texts: load the model without chat_template.")
    if not 0 <= overlap < 1:
        raise UserError(f"overlap must be at least 0 and less than 1, got {overlap}.")
    tokens = tokenize(model.tokenizer, texts, vocabulary=model.vocabulary_size)
    windows: list[list[Continuation]] = []
    frames: list[pd.DataFrame] = []
    owners: list[int] = []
    for number, (ids, special) in enumerate(zip(tokens.ids, tokens.special, strict=True)):
        end = own_end(special)
        shift = int(not special[0])  # tokens that are read before the text's own
        whole = ids[:end] if not shift else np.concatenate([[first_token(model, texts[number])], ids[:end]])
        own = np.concatenate([np.zeros(shift, dtype=bool), ~special[:end]])
        for window in _windows(whole, own, model.max_length, overlap):
            windows.append([window])
            owners.append(number)
        places = np.full((end, 2), -1) if tokens.offsets is None else tokens.offsets[number][:end]
        kept = np.flatnonzero(own)
        frames.append(
            pd.DataFrame(
                {
                    "text": number, "position": kept - shift, "token": whole[kept],
                    "start": places[kept - shift, 0], "end": places[kept - shift, 1],
                }
            )
        )  # fmt: skip
    scores = score(model, windows, token_budget=token_budget, done=done)
    log_p: list[list[Floats]] = [[] for _ in texts]
    greedy: list[list[NDArray[np.bool_]]] = [[] for _ in texts]
    for owner, [window], [found] in zip(owners, windows, scores, strict=True):
        log_p[owner].append(found.log_p[window.scored])
        greedy[owner].append(found.greedy[window.scored])
    for frame, values, likeliest in zip(frames, log_p, greedy, strict=True):
        frame["log_p"], frame["greedy"] = np.concatenate(values), np.concatenate(likeliest)
    table = pd.concat(frames, ignore_index=True)
    return Perplexity(tuple(texts), table.assign(token=list(token_names(model, table["token"].to_numpy()))))


def _windows(ids: NDArray[np.int64], own: NDArray[np.bool_], length: int | None, overlap: float) -> list[Continuation]:
    """Stretches of a text that the model reads at once, the token behind the last one read included; each of the text's own
    tokens is ``scored`` in one of them."""
    if length is None or len(ids) <= length + 1:
        return [Continuation(ids, int(np.argmax(own)), own)]
    kept = min(max(int(length * overlap), 1), length)
    found, scored_to, start = [], 0, 0
    while scored_to < len(ids):
        stop = min(start + length + 1, len(ids))
        scored = own[start:stop] & (np.arange(start, stop) >= max(scored_to, 1))
        found.append(Continuation(ids[start:stop], max(scored_to - start, 1), scored))
        scored_to, start = stop, stop - kept
    return found
