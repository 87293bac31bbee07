"""A probe's score on every token of a text, and the texts and tokens it scores highest and lowest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from layerwise.activations.collect import collect
from layerwise.data.dataset import TextDataset
from layerwise.errors import UserError, unknown
from layerwise.models.model import LanguageModel
from layerwise.models.scored_text import ScoredText, laid_out
from layerwise.models.tokens import Tokens
from layerwise.probes.fitted import FittedProbe

Floats = NDArray[np.float64]
TEXTS_AT_ONCE = 256
NO_PLACE = (-1, -1)


class TokenScorer:
    """What a probe's outputs on single tokens say about one label, and how to name that.

    The probe reads each token's own vector at its sites as if it were the pooled one; an attention probe gives each token's
    share in the output of its text. ``label``: the class whose belief is the score; by default the second of two.
    """

    def __init__(self, probe: FittedProbe, label: str | int | None = None) -> None:
        self.probe = probe
        self.attends = hasattr(probe.estimator, "contributions")
        self.column = 0 if probe.is_regression else self._column(label)
        name = "" if probe.is_regression else probe.name_of(probe.estimator.classes_[self.column])
        has_odds = probe.calibration is not None or hasattr(probe.estimator, "predict_proba")
        if probe.is_regression:
            self.meaning, self.neutral = (
                "share in the value" if self.attends else "predicted value",
                0.0 if self.attends else None,
            )
        elif self.attends:
            self.meaning, self.neutral = f"share in the score of {name!r}", 0.0
        elif has_odds:
            self.meaning, self.neutral = f"probability of {name!r}", 1 / len(probe.estimator.classes_)
        else:
            self.meaning, self.neutral = f"decision value of {name!r}", 0.0

    def _column(self, label: str | int | None) -> int:
        classes = np.asarray(self.probe.estimator.classes_).tolist()
        names = [self.probe.name_of(value) for value in classes]
        if label is None:
            if len(classes) > 2:
                raise UserError(
                    f"this probe tells {len(classes)} labels apart: name the one to score tokens for.\nLabels: {', '.join(names)}."
                )
            return 1
        if str(label) in names:
            return names.index(str(label))
        if label in classes:
            return classes.index(label)
        raise unknown("label", str(label), names)

    def texts(self, X: Sequence[NDArray[Any]]) -> list[Floats]:
        """Each text's (tokens,) scores from its (tokens, width) features."""
        if self.attends:
            shares = self.probe.estimator.contributions(X)
            return [self._side(values.astype(np.float64)) for values in shares]
        scores = self.rows(np.concatenate(X))
        return np.split(scores, np.cumsum([len(rows) for rows in X])[:-1])

    def rows(self, X: Any) -> Floats:
        """(rows,) scores of the estimator's own input: (rows, width), of an attention probe whole texts."""
        found = self.probe.predict_features(X)
        if self.probe.is_regression:
            return found.scores
        if found.probabilities is not None:
            return found.probabilities[:, self.column]
        return self._side(found.outputs)

    def _side(self, values: Floats) -> Floats:
        """Outputs (rows, 1 or classes) as the score of the chosen label."""
        if values.shape[1] > 1:
            return values[:, self.column]
        return -values[:, 0] if self.column == 0 and not self.probe.is_regression else values[:, 0]


def score_tokens(
    model: LanguageModel, probe: FittedProbe, texts: Sequence[str] | TextDataset, label: str | int | None = None
) -> list[ScoredText]:
    """The probe's score on every token of every text.

    ``label``: the class to score for, by name or id; two classes have the second by default. Raises UserError where
    ``model`` is not the probe's, for an unknown label, and where one of more than two is not named.
    """
    scorer = TokenScorer(probe, label)
    return [scored for part in _parts(texts) for scored in _score_part(model, scorer, part)[0]]


@dataclass(frozen=True, eq=False)
class Extremes:
    """Where a probe is surest, either way.

    texts: rank, side (``highest``, ``lowest``), text (its number), score, content. tokens: rank, side, text, position, token,
    score, before, after (the text around the token). meaning, neutral: of the tokens' scores, as in ``ScoredText``.
    """

    texts: pd.DataFrame
    tokens: pd.DataFrame
    meaning: str
    neutral: float | None


def extremes(
    model: LanguageModel,
    probe: FittedProbe,
    texts: Sequence[str] | TextDataset,
    k: int = 10,
    label: str | int | None = None,
    window: int = 40,
) -> Extremes:
    """The ``k`` texts and the ``k`` tokens that score highest, and as many that score lowest.

    A text's score is the probe's own on it, of a probe of tokens their mean. Tokens that the tokenizer or a chat template
    added take no part, and of tokens with equal scores after the same words only the first does.
    ``window``: characters of context on either side of a token.
    """
    if k < 1:
        raise UserError(f"k must be at least 1, got {k}.")
    scorer = TokenScorer(probe, label)
    contents: list[str] = []
    text_scores: list[float] = []
    best: pd.DataFrame | None = None
    for part in _parts(texts):
        scored, wholes = _score_part(model, scorer, part, whole=True)
        frames = [] if best is None else [best]
        for number, one in enumerate(scored, start=len(contents)):
            frame = one.to_frame().assign(text=number, position=np.arange(len(one)))
            places = list(zip(frame["start"], frame["end"], strict=True))
            frame["before"] = [one.text[max(start - window, 0) : max(start, 0)] for start, _ in places]
            frame["after"] = [one.text[end : end + window] for _, end in places]
            frames.append(frame[frame["start"] >= 0])
        found = pd.concat(frames, ignore_index=True)
        # Texts that begin alike have tokens that are the same case over and over: one of them is enough.
        alike = found.assign(score=found["score"].round(4)).duplicated(["before", "token", "score"])
        found = found[~alike]
        best = found.iloc[_ends(found["score"].to_numpy(), k)]
        contents += [one.text for one in scored]
        text_scores += wholes
    assert best is not None
    whole = pd.DataFrame({"text": np.arange(len(contents)), "score": text_scores, "content": contents})
    tokens = _ranked(best.reset_index(drop=True), k)
    columns = ["rank", "side", "text", "position", "token", "score", "before", "after"]
    ranked = _ranked(whole, k)[["rank", "side", "text", "score", "content"]]
    return Extremes(ranked, tokens[columns], scorer.meaning, scorer.neutral)


def _ends(scores: Floats, k: int) -> NDArray[np.int64]:
    """Places of the k highest and the k lowest, each once."""
    order = np.argsort(-scores, kind="stable")
    return np.unique(np.concatenate([order[:k], order[-k:]]))


def _ranked(frame: pd.DataFrame, k: int) -> pd.DataFrame:
    """The k rows with the highest score, the highest first, then the k with the lowest, the lowest first."""
    order = np.argsort(-frame["score"].to_numpy(), kind="stable")
    k = min(k, len(frame))
    sides = [("highest", order[:k]), ("lowest", order[::-1][:k])]
    parts = [frame.iloc[rows].assign(side=side, rank=np.arange(1, k + 1)) for side, rows in sides]
    return pd.concat(parts, ignore_index=True)


def _parts(texts: Sequence[str] | TextDataset) -> list[TextDataset]:
    """Pieces small enough that their tokens fit into memory."""
    dataset = texts if isinstance(texts, TextDataset) else TextDataset("texts", tuple(texts))
    if not len(dataset):
        raise UserError("there are no texts to score.")
    return [
        dataset.select(np.arange(start, min(start + TEXTS_AT_ONCE, len(dataset))))
        for start in range(0, len(dataset), TEXTS_AT_ONCE)
    ]


def _score_part(
    model: LanguageModel, scorer: TokenScorer, texts: TextDataset, whole: bool = False
) -> tuple[list[ScoredText], list[float]]:
    """Token scores of some texts and, if wanted, each text's score as a whole, in one pass."""
    probe = scorer.probe
    probe.check_model(model)
    pooled = whole and not probe.pooler.startswith("none")
    poolers = ["none", probe.pooler] if pooled else ["none"]
    found = collect(model, texts, list(probe.sites), poolers, max_length=probe.max_length, progress=False)
    ragged = [found.tokens(site, "none") for site in probe.sites]
    X = [np.asarray(probe.joined([tokens[text] for tokens in ragged])) for text in range(len(texts))]
    assert found.tokenized is not None
    scores = scorer.texts(X)
    scored = [
        replace(read, scores=values, meaning=scorer.meaning, neutral=scorer.neutral)
        for read, values in zip(_pieces(model, texts, found.tokenized), scores, strict=True)
    ]
    if not whole:
        return scored, []
    if pooled:
        return scored, scorer.rows(probe.joined([found.matrix(site, probe.pooler) for site in probe.sites])).tolist()
    if scorer.attends:
        return scored, scorer.rows(X).tolist()
    return scored, [float(one.scores[one.offsets[:, 0] >= 0].mean()) for one in scored]


def _pieces(model: LanguageModel, texts: TextDataset, tokens: Tokens) -> list[ScoredText]:
    """Texts with their tokens' pieces and places, not scored yet. Pairs are shown one after the other."""
    read = []
    for number, ids in enumerate(tokens.ids):
        text = texts.texts[number]
        names = model.tokenizer.convert_ids_to_tokens(ids.tolist())
        if tokens.offsets is None or texts.pairs is not None:
            text, places = laid_out(model.tokenizer, ids)
        else:
            places = tokens.offsets[number]
        pieces = tuple(text[a:b] if a >= 0 else str(name) for (a, b), name in zip(places.tolist(), names, strict=True))
        read.append(ScoredText(text, pieces, places, np.full(len(ids), np.nan), "", None))
    return read
