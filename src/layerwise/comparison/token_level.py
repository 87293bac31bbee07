"""Two models on the same texts, token by token: what each predicts, and how far their predictions lie apart."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from layerwise.comparison.alignment import align, bytes_between
from layerwise.comparison.predictions import (
    Columns,
    Kept,
    Predictions,
    check_causal,
    derived,
    predict,
    predict_beside,
    predict_both,
    predicted,
)
from layerwise.comparison.token_comparison import TokenComparison
from layerwise.errors import UserError, unknown
from layerwise.models.config import ModelConfig
from layerwise.models.loading import load_model
from layerwise.models.model import LanguageModel
from layerwise.models.readout import Readout
from layerwise.models.tokens import Tokens

# The last alone has a meaning where two tokenizers share no token.
MEASURES = (
    "kl", "reverse_kl", "js", "total_variation", "top1_agreement", "top_k_agreement", "rank_change", "entropy_difference",
    "log_p_difference",
)  # fmt: skip
OF_ANY_TOKENIZERS = ("log_p_difference",)
MODES = ("together", "head", "top_k")

Side = LanguageModel | ModelConfig | str
Mode = Literal["together", "head", "top_k"]


def compare_tokens(
    model_a: Side,
    model_b: Side,
    texts: Sequence[str],
    *,
    measures: Sequence[str] | None = None,
    mode: Mode = "together",
    top_k: int = 5,
    stored: int = 128,
    max_length: int | None = None,
    token_budget: int = 1024,
    progress: bool = True,
) -> TokenComparison:
    """What two causal models predict at every token of some texts, and how far that lies apart.

    Measures, in nats where they have a unit: ``kl`` is KL(a‖b), ``reverse_kl`` KL(b‖a), ``js``, ``total_variation``,
    ``top1_agreement``, ``top_k_agreement`` (share of the k most likely that both name), and, b less a, ``rank_change``,
    ``entropy_difference`` and ``log_p_difference`` (of what really comes next). Where there are two tokenizers, tokens are
    brought together by characters, and only the last is defined.

    Args:
        model_a, model_b: loaded models (one under a plan too), or names and configs that are loaded when their turn comes.
        measures: which; None for all that the tokenizers allow.
        mode: ``together``: both models in memory, whole distributions. One after the other, for models that do not fit
            together (give them by name): ``head`` keeps a's last states and its head alone, for the same numbers; ``top_k``
            keeps a's ``stored`` most likely tokens and the mass of the rest: KL, JS and total variation are then lower bounds.
        top_k: k of the agreement, and how many of each model's most likely tokens the table has.
        max_length: tokens of a text at most; by default what both models take.
        token_budget: padded tokens a batch.

    Raises UserError for models that do not predict the next token, texts too short to predict anything of, and, by name, for
    measures that need one tokenizer where there are two.
    """
    _check(measures, mode, texts, top_k, stored)
    asked = tuple(measures) if measures is not None else MEASURES
    a = _loaded(model_a)
    if mode == "together":
        b = _loaded(model_b)
        limit = _smaller(max_length, _smaller(a.max_length, b.max_length))
        sides = _Sides.of(_Read.of(a, texts, limit), _Read.of(b, texts, limit))
        sides.refuse(measures)
        if sides.one_tokenizer:
            first, second, apart = predict_both(a, b, sides.a.tokens, asked, top_k, token_budget, progress)
        else:
            first = predict(a, sides.a.tokens, top_k, token_budget, progress)
            second, apart = predict(b, sides.b.tokens, top_k, token_budget, progress), []
        return sides.comparison(texts, first, second, apart, asked, "both models at once, whole distributions")
    check_causal(a)
    kept = Kept(Readout.of(a) if mode == "head" else None, stored)
    read_a = _Read.of(a, texts, _smaller(max_length, a.max_length))
    first = predict(a, read_a.tokens, top_k, token_budget, progress, kept)
    # A model that was loaded here goes before the next one comes; a readout holds its head alone.
    del a
    gc.collect()
    b = _loaded(model_b)
    sides = _Sides.of(read_a, _Read.of(b, texts, _smaller(max_length, b.max_length)))
    sides.refuse(measures)
    if sides.one_tokenizer:
        second, apart = predict_beside(b, sides.b.tokens, kept, asked, top_k, token_budget, progress)
        method = kept.method
    else:
        second, apart = predict(b, sides.b.tokens, top_k, token_budget, progress), []
        method = "one model after the other, each its own tokens"
    return sides.comparison(texts, first, second, apart, asked, method)


def _check(measures: Sequence[str] | None, mode: str, texts: Sequence[str], top_k: int, stored: int) -> None:
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    for name in measures or ():
        if name not in MEASURES:
            raise unknown("measure", name, MEASURES)
    if isinstance(texts, str) or not len(texts):
        raise UserError("a comparison token by token needs a list of texts, and at least one.")
    if top_k < 1 or stored < top_k:
        raise UserError(f"top_k must be at least 1 and stored at least top_k, got {top_k} and {stored}.")


def _loaded(side: Side) -> LanguageModel:
    return side if isinstance(side, LanguageModel) else load_model(side)


def _smaller(one: int | None, other: int | None) -> int | None:
    return min((value for value in (one, other) if value is not None), default=None)


def _same_ids(one: Tokens, other: Tokens) -> bool:
    pairs = zip([*one.ids, *one.special], [*other.ids, *other.special], strict=True)
    return all(np.array_equal(left, right) for left, right in pairs)


@dataclass(frozen=True)
class _Read:
    """What a model read, without the model."""

    name: str
    tokenizer: Any
    tokens: Tokens

    @classmethod
    def of(cls, model: LanguageModel, texts: Sequence[str], limit: int | None) -> _Read:
        return cls(model.name, model.tokenizer, model.tokenize(texts, max_length=limit))


@dataclass(frozen=True)
class _Sides:
    a: _Read
    b: _Read
    one_tokenizer: bool

    @classmethod
    def of(cls, a: _Read, b: _Read) -> _Sides:
        """Raises UserError where one tokenizer's texts were cut at two lengths, in two passes."""
        one = a.tokenizer.get_vocab() == b.tokenizer.get_vocab()
        if one and not (same := _same_ids(a.tokens, b.tokens)):
            lengths = int(a.tokens.lengths.max()), int(b.tokens.lengths.max())
            if a.tokens.truncated.any() or b.tokens.truncated.any():
                raise UserError(
                    f"{a.name} reads {lengths[0]} tokens and {b.name} {lengths[1]}: set max_length to {min(lengths)}."
                )
            one = same
        return cls(a, b, one)

    def refuse(self, measures: Sequence[str] | None) -> None:
        """UserError for a measure that was asked for and that two tokenizers do not allow."""
        wrong = [name for name in measures or () if name not in OF_ANY_TOKENIZERS]
        if wrong and not self.one_tokenizer:
            raise UserError(
                f"{', '.join(wrong)} needs one tokenizer, and {self.a.name} and {self.b.name} have two.\n"
                f"Between them can be measured: {', '.join(OF_ANY_TOKENIZERS)}, and bits per byte."
            )

    def comparison(
        self,
        texts: Sequence[str],
        first: Predictions,
        second: Predictions,
        apart: list[Columns],
        asked: Sequence[str],
        method: str,
    ) -> TokenComparison:
        if self.one_tokenizer:
            parts = [
                self._rows(text, number, first.columns[number], second.columns[number], apart[number], asked)
                for number, text in enumerate(texts)
            ]
        else:
            asked = tuple(name for name in asked if name in OF_ANY_TOKENIZERS)
            parts = [
                self._segments(text, number, first.columns[number], second.columns[number], asked)
                for number, text in enumerate(texts)
            ]
        table = pd.concat(parts, ignore_index=True)
        if not len(table):
            raise UserError("no token of these texts is predicted by both models: each has one token at most.")
        notes = [f"{side.name}: {side.tokens.report}" for side in (self.a, self.b) if side.tokens.report]
        names = (self.a.name, self.b.name)
        return TokenComparison(table, names, tuple(texts), tuple(asked), self.one_tokenizer, method, tuple(notes))

    def _rows(
        self, text: str, number: int, a: Columns, b: Columns, apart: Columns, asked: Sequence[str]
    ) -> pd.DataFrame:
        """One row a token."""
        judged, tokens = predicted(self.a.tokens, number), self.a.tokens
        count = len(judged)
        frame: dict[str, Any] = {"text": np.full(count, number), "position": np.arange(count)}
        ids = tokens.ids[number][judged]
        if tokens.offsets is None:
            frame |= {"start": np.full(count, -1), "end": np.full(count, -1)}
            frame |= {"token": self.a.tokenizer.convert_ids_to_tokens(ids.tolist()), "bytes": np.full(count, np.nan)}
        else:
            places = tokens.offsets[number]
            # Each token has the characters that none before it had, blanks that no token has among them.
            reached = np.maximum.accumulate(np.where(tokens.special[number], 0, places[:, 1]))
            sizes = bytes_between(text, reached)[judged - 1] if len(reached) > 1 else np.zeros(0, dtype=np.int64)
            start, end = places[judged, 0], places[judged, 1]
            frame |= {"start": start, "end": end, "token": [text[s:e] for s, e in zip(start, end, strict=True)]}
            frame["bytes"] = sizes.astype(np.float64)
        for side, own in (("a", a), ("b", b)):
            frame |= {f"{name}_{side}": own[name] for name in ("log_p", "rank", "entropy")}
            frame[f"top_{side}"] = self._written(own["top"])
            frame[f"top_p_{side}"] = list(own["top_p"])
        found = apart | derived(a, b, asked)
        return pd.DataFrame(frame | {name: found[name] for name in asked})

    def _written(self, top: np.ndarray) -> list[list[str]]:
        """(n, k) token ids as text."""
        names = {int(token): self.a.tokenizer.decode([int(token)]) for token in np.unique(top)}
        return [[names[int(token)] for token in row] for row in top]

    def _segments(self, text: str, number: int, a: Columns, b: Columns, asked: Sequence[str]) -> pd.DataFrame:
        """One row a stretch of text that both tokenizers begin and end at, where both predict all of it."""
        own, sums, counts = [], [], []
        for side in (self.a, self.b):
            own.append(np.flatnonzero(~side.tokens.special[number]))
        places = [side.tokens.need_offsets()[number][mine] for side, mine in zip((self.a, self.b), own, strict=True)]
        found = align(text, places[0], places[1])
        for side, mine, columns, bounds in zip((self.a, self.b), own, (a, b), (found.a, found.b), strict=True):
            log_p = np.full(len(side.tokens.ids[number]), np.nan)
            log_p[predicted(side.tokens, number)] = columns["log_p"]
            so_far = np.concatenate([[0.0], np.cumsum(np.nan_to_num(log_p[mine]))])
            unknown_so_far = np.concatenate([[0], np.cumsum(np.isnan(log_p[mine]))])
            sums.append(np.where(np.diff(unknown_so_far[bounds]) > 0, np.nan, np.diff(so_far[bounds])))
            counts.append(np.diff(bounds))
        bounds = np.append(found.start, found.end[-1:])
        there = ~np.isnan(sums[0]) & ~np.isnan(sums[1])
        frame = pd.DataFrame(
            {
                "text": number,
                "start": found.start,
                "end": found.end,
                "token": [text[s:e] for s, e in zip(found.start, found.end, strict=True)],
                "bytes": bytes_between(text, bounds).astype(np.float64) if len(bounds) else np.zeros(0),
                "log_p_a": sums[0],
                "log_p_b": sums[1],
                "tokens_a": counts[0],
                "tokens_b": counts[1],
            }
        )[there].reset_index(drop=True)
        frame.insert(1, "position", np.arange(len(frame)))
        for name in asked:
            frame[name] = frame["log_p_b"] - frame["log_p_a"]
        return frame
