"""What a causal model predicts at every token of some texts, and how far two models' predictions lie apart.

Texts go through in batches; of a batch only numbers per token are kept, whole distributions never outlive it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from layerwise.data.batching import token_budget_batches
from layerwise.errors import UserError
from layerwise.measures.divergences import Coarse, Pair, entropy, most_likely, rank_of, top_k_overlap
from layerwise.models.batch import make_batch
from layerwise.models.model import LanguageModel
from layerwise.models.readout import Readout
from layerwise.models.taps import run
from layerwise.models.tokens import Tokens
from layerwise.progress import Progress

ROWS_AT_ONCE = 128  # distributions in float64 at a time
Columns = dict[str, np.ndarray]
Source = Callable[[slice], Tensor | Coarse]  # rows of one text → log-probabilities, whole or cut down


def predicted(tokens: Tokens, text: int) -> np.ndarray:
    """Which tokens of a text are predicted and judged: the user's own, but for a first one that nothing stands before."""
    own = ~tokens.special[text]
    own[0] = False
    return np.flatnonzero(own)


def check_causal(model: LanguageModel) -> None:
    """UserError for a model that does not predict the next token."""
    if model.is_encoder_decoder or model.is_encoder or "logits" not in model.sites.names():
        raise UserError(
            f"{model.name} does not predict the next token, which a comparison token by token needs.\n"
            "Compare causal language models here, or the insides of any two models."
        )


@dataclass
class Predictions:
    """One model's predictions: per text a dict of ``(predicted tokens,)`` arrays log_p, rank, entropy, and ``(…, k)`` top, top_p."""

    columns: list[Columns]

    @classmethod
    def empty(cls, n: int) -> Predictions:
        return cls([{} for _ in range(n)])


@dataclass(frozen=True)
class _Text:
    """One text's logits: ``at(rows)`` of its predicted tokens, from position ``row − 1`` of the sequence."""

    number: int
    targets: Tensor  # (predicted,) token ids
    logits: Tensor  # (predicted, vocabulary)
    states: Tensor | None  # (predicted, width), what the head took in

    def source(self, rows: slice) -> Tensor:
        return _log_p(self.logits[rows])


def _log_p(logits: Tensor) -> Tensor:
    """Log-probabilities in float64 where the device has it: a divergence is a small difference of large numbers."""
    return logits.to(torch.float32 if logits.device.type == "mps" else torch.float64).log_softmax(-1)


def _texts(
    model: LanguageModel,
    tokens: Tokens,
    token_budget: int,
    advance: Callable[[int], None],
    states_at: str | None = None,
) -> Iterator[_Text]:
    """Every text's logits, batch by batch, the longest texts first."""
    # Rows of the embedding that no token has are no part of the distribution: models of one family differ in them alone.
    vocabulary = min(len(model.tokenizer), model.vocabulary_size)
    for rows in token_budget_batches(tokens.lengths, token_budget):
        batch = make_batch(model, tokens, rows)
        found = run(model, batch, {states_at: None} if states_at else None, logits=True)
        for row, number in enumerate(rows):
            judged = torch.from_numpy(predicted(tokens, int(number)))
            before = batch.mask[row].nonzero()[:, 0][judged.to(batch.mask.device) - 1]
            ids = torch.from_numpy(tokens.ids[number])[judged].to(before.device)
            states = found[states_at][row, before] if states_at else None
            yield _Text(int(number), ids, found["logits"][row, before, :vocabulary], states)
        advance(int(tokens.lengths[rows].sum()))


def _own(text: _Text, log_p: Tensor, rows: slice, k: int) -> dict[str, Tensor]:
    """What one model's distribution alone says of some rows."""
    targets = text.targets[rows]
    top = most_likely(log_p, min(k, log_p.shape[-1]))
    return {
        "log_p": log_p.gather(-1, targets[:, None])[:, 0],
        "rank": rank_of(log_p, targets),
        "entropy": entropy(log_p),
        "top": top,
        "top_p": log_p.gather(-1, top).exp(),
    }


DISTANCES = {"kl": Pair.kl, "reverse_kl": Pair.reverse_kl, "js": Pair.js, "total_variation": Pair.total_variation}


def _apart(p: Tensor | Coarse, log_q: Tensor, measures: Sequence[str]) -> dict[str, Tensor]:
    """The distances asked for between rows of two distributions, the second cut down as the first is."""
    if isinstance(p, Coarse):
        log_p, log_q = p.log_parts, Coarse.of(log_q, p.tokens).log_parts
    else:
        log_p = p
    pair = Pair(log_p, log_q)
    return {name: DISTANCES[name](pair) for name in measures if name in DISTANCES}


def _gathered(chunks: list[dict[str, Tensor]]) -> Columns:
    return {name: torch.cat([chunk[name] for chunk in chunks]).cpu().numpy() for name in chunks[0]}


def _slices(n: int) -> list[slice]:
    return [slice(start, min(start + ROWS_AT_ONCE, n)) for start in range(0, max(n, 1), ROWS_AT_ONCE)]


@dataclass
class Kept:
    """What the second of two passes needs of the first model: by text, whole or cut-down distributions of any rows.

    readout: the first model's head, which makes whole distributions of its ``states``; None keeps ``stored`` tokens and the rest.
    """

    readout: Readout | None
    stored: int
    states: dict[int, Tensor] = field(default_factory=dict)
    coarse: dict[int, list[Coarse]] = field(default_factory=dict)
    vocabulary: int = 0

    def keep(self, text: _Text) -> None:
        if self.readout is not None:
            assert text.states is not None
            self.states[text.number] = text.states.clone()
            self.vocabulary = text.logits.shape[-1]
            return
        cut = []
        for rows in _slices(len(text.targets)):
            log_p = text.source(rows)
            cut.append(Coarse.of(log_p, most_likely(log_p, min(self.stored, log_p.shape[-1] - 1))))
        self.coarse[text.number] = cut

    def source(self, number: int) -> Source:
        def at(rows: slice) -> Tensor | Coarse:
            if self.readout is None:
                return self.coarse[number][rows.start // ROWS_AT_ONCE]
            with torch.no_grad():
                return _log_p(self.readout.logits(self.states[number][rows])[:, : self.vocabulary])

        return at

    @property
    def method(self) -> str:
        if self.readout is not None:
            return "one model after the other, whole distributions from the first one's last states and its head"
        return (
            f"one model after the other, from the {self.stored} most likely tokens of the first and the rest's mass: "
            "kl, reverse_kl, js and total_variation are lower bounds"
        )


def predict(
    model: LanguageModel, tokens: Tokens, top_k: int, token_budget: int, progress: bool, kept: Kept | None = None
) -> Predictions:
    """One model's own predictions; what a second pass needs of them goes into ``kept``."""
    check_causal(model)
    found = Predictions.empty(len(tokens))
    site = kept.readout.site if kept is not None and kept.readout is not None else None
    with Progress(f"predict {model.name}", int(tokens.lengths.sum()), "token", quiet=not progress) as bar:
        for text in _texts(model, tokens, token_budget, bar.advance, site):
            chunks = [_own(text, text.source(rows), rows, top_k) for rows in _slices(len(text.targets))]
            found.columns[text.number] = _gathered(chunks)
            if kept is not None:
                kept.keep(text)
    return found


def predict_both(
    a: LanguageModel,
    b: LanguageModel,
    tokens: Tokens,
    measures: Sequence[str],
    top_k: int,
    token_budget: int,
    progress: bool,
) -> tuple[Predictions, Predictions, list[Columns]]:
    """Both models' predictions of the same tokens, and by text the measures of their distance."""
    check_causal(a)
    check_causal(b)
    found = Predictions.empty(len(tokens)), Predictions.empty(len(tokens))
    apart: list[Columns] = [{} for _ in range(len(tokens))]
    with Progress(f"compare {a.name} and {b.name}", int(tokens.lengths.sum()), "token", quiet=not progress) as bar:
        pairs = zip(
            _texts(a, tokens, token_budget, bar.advance), _texts(b, tokens, token_budget, lambda _: None), strict=True
        )
        for one, other in pairs:
            chunks: tuple[list, list, list] = ([], [], [])
            for rows in _slices(len(one.targets)):
                log_p, log_q = one.source(rows), other.source(rows)
                own_p, own_q = _own(one, log_p, rows, top_k), _own(other, log_q, rows, top_k)
                distances = _apart(log_p, log_q, measures)
                for chunk, values in zip(chunks, (own_p, own_q, distances), strict=True):
                    chunk.append(values)
            found[0].columns[one.number], found[1].columns[one.number] = _gathered(chunks[0]), _gathered(chunks[1])
            apart[one.number] = _gathered(chunks[2]) if chunks[2][0] else {}
    return *found, apart


def predict_beside(
    b: LanguageModel, tokens: Tokens, kept: Kept, measures: Sequence[str], top_k: int, token_budget: int, progress: bool
) -> tuple[Predictions, list[Columns]]:
    """The second of two passes: b's predictions, and by text their distance from what was kept of the first model."""
    check_causal(b)
    found, apart = Predictions.empty(len(tokens)), [Columns() for _ in range(len(tokens))]
    with Progress(f"compare with {b.name}", int(tokens.lengths.sum()), "token", quiet=not progress) as bar:
        for text in _texts(b, tokens, token_budget, bar.advance):
            source, own, distances = kept.source(text.number), [], []
            for rows in _slices(len(text.targets)):
                log_q = text.source(rows)
                own.append(_own(text, log_q, rows, top_k))
                distances.append(_apart(source(rows), log_q, measures))
            found.columns[text.number] = _gathered(own)
            apart[text.number] = _gathered(distances) if distances[0] else {}
    return found, apart


def derived(a: Columns, b: Columns, measures: Sequence[str]) -> Columns:
    """The measures that follow from both models' own predictions of the same tokens under one tokenizer."""
    top_a, top_b = torch.from_numpy(a["top"]), torch.from_numpy(b["top"])
    every = {
        "top1_agreement": lambda: (a["top"][:, 0] == b["top"][:, 0]).astype(np.float64),
        "top_k_agreement": lambda: top_k_overlap(top_a, top_b).double().numpy(),
        "rank_change": lambda: b["rank"] - a["rank"],
        "entropy_difference": lambda: b["entropy"] - a["entropy"],
        "log_p_difference": lambda: b["log_p"] - a["log_p"],
    }
    return {name: every[name]() for name in measures if name in every}
