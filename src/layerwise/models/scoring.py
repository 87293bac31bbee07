"""How likely a language model finds texts, token by token, what texts have in common read once.

Texts that begin alike (one prompt and its options) go into one row: their common beginning, then each one's rest, which
sees the beginning and itself alone. The last token of a text is predicted and never read. Where an architecture cannot be
given such rows (its positions come from columns, its attention is local, it has a state in place of attention), each text
is a row of its own; which of both holds is tried on the model itself once, with numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from layerwise.data.batching import token_budget_batches
from layerwise.errors import UserError
from layerwise.models.batch import Ids, budget_of, make_batch
from layerwise.models.continuations import Continuation
from layerwise.models.model import LanguageModel
from layerwise.models.packing import can_share, make_rows, run_rows, window
from layerwise.models.taps import single_pass

_MOST_LOGITS = 1 << 28  # logits held at once


@dataclass(frozen=True)
class TokenScores:
    """The tokens of one text as a model sees them.

    log_p: (tokens,) float64, log p(token | those before it) in nats; NaN for a token that nothing is read before.
    greedy: (tokens,) True where no token is likelier.
    """

    log_p: NDArray[np.float64]
    greedy: NDArray[np.bool_]


def score(
    model: LanguageModel,
    groups: Sequence[Sequence[Continuation]],
    *,
    token_budget: int | None = None,
    done: Callable[[int], None] = lambda texts: None,
) -> list[list[TokenScores]]:
    """The log-likelihood of every token of every text; the texts of a group are those that may begin alike.

    Args:
        token_budget: padded tokens of a batch.
        done: is told how many texts each batch has finished.

    Raises UserError for an encoder, which gives no likelihood of a next token.
    """
    if model.is_encoder:
        raise UserError(
            f"{model.name} is an encoder: each of its tokens sees those after it, so it gives no likelihood of a next token.\n"
            "Take a decoder or an encoder-decoder."
        )
    budget = budget_of(model.device, token_budget)
    budget = max(1, min(budget, _MOST_LOGITS // model.vocabulary_size))
    found: list[list[TokenScores | None]] = [[None] * len(group) for group in groups]
    was_training = model.module.training
    model.module.eval()
    with torch.no_grad():
        for (group, place), scores in _scores(model, groups, budget, done):
            found[group][place] = scores
    model.module.train(was_training)
    return [[scores for scores in row if scores is not None] for row in found]


def _scores(
    model: LanguageModel,
    groups: Sequence[Sequence[Continuation]],
    budget: int,
    done: Callable[[int], None],
) -> Iterator[tuple[tuple[int, int], TokenScores]]:
    if model.is_encoder_decoder:
        yield from _decoded(model, groups, budget, done)
        return
    shares = any(len(group) > 1 for group in groups) and can_share(model)
    # Local attention goes by columns in some architectures, so a row that several share stays within its reach.
    together = min(budget, window(model.module)) if shares else 0
    rows = [row for number, group in enumerate(groups) for row in make_rows(number, group, together)]
    packed = [row for row in rows if len(row.members) > 1]
    alone = [row for row in rows if len(row.members) == 1]
    arguments = single_pass(model.module, model.module)
    for kind in (packed, alone):
        for batch in token_budget_batches(np.array([len(row.ids) for row in kind]), budget):
            chosen = [kind[place] for place in batch]
            if kind is packed:
                logits = run_rows(model, chosen)
            else:
                inputs = make_batch(model, Ids([row.ids for row in chosen]), range(len(chosen)))
                logits = model.module(**inputs.inputs, **arguments).logits
            for row, of_row in zip(chosen, logits, strict=True):
                texts = [groups[group][place].ids for group, place in row.members]
                scores = _read(of_row, row.reads, [ids[1:] for ids in texts], [ids[:1] for ids in texts])
                yield from zip(row.members, scores, strict=True)
            done(sum(len(row.members) for row in chosen))


def _read(
    logits: Tensor, reads: list[np.ndarray], targets: list[np.ndarray], before: list[np.ndarray]
) -> list[TokenScores]:
    """Scores of the texts of one row. logits: (tokens, vocabulary). before: the tokens that nothing predicts."""
    columns = torch.from_numpy(np.concatenate(reads)).to(logits.device)
    wanted = torch.from_numpy(np.concatenate(targets)).to(logits.device)
    logits = logits[: int(columns.max()) + 1].float()  # what is behind is padding
    chosen = logits[columns, wanted]
    log_p = (chosen - logits.logsumexp(-1)[columns]).double().cpu().numpy()
    greedy = (chosen >= logits.amax(-1)[columns]).cpu().numpy()
    found, at = [], 0
    for target, first in zip(targets, before, strict=True):
        part = slice(at, at + len(target))
        unknown = np.full(len(first), np.nan)
        found.append(
            TokenScores(np.concatenate([unknown, log_p[part]]), np.concatenate([np.isfinite(unknown), greedy[part]]))
        )
        at += len(target)
    return found


def _decoded(
    model: LanguageModel, groups: Sequence[Sequence[Continuation]], budget: int, done: Callable[[int], None]
) -> Iterator[tuple[tuple[int, int], TokenScores]]:
    """An encoder-decoder: each group's source goes through the encoder once, its texts through the decoder in one batch."""
    module: Any = model.module
    sources = [group[0].source for group in groups if group]
    numbers = [number for number, group in enumerate(groups) if group]
    sizes = np.array(
        [max(len(group[0].source), max(len(text.ids) for text in group)) * len(group) for group in groups if group]  # type: ignore[arg-type]
    )
    for batch in token_budget_batches(sizes, budget):
        read = make_batch(model, Ids([np.asarray(sources[place]) for place in batch]), range(len(batch))).inputs
        members = [(numbers[place], text) for place in batch for text in range(len(groups[numbers[place]]))]
        texts = [groups[group][text].ids for group, text in members]
        written = make_batch(model, Ids(texts), range(len(texts))).inputs
        hidden = module.get_encoder()(input_ids=read["input_ids"], attention_mask=read["attention_mask"])[0]
        of_text = torch.tensor(
            [row for row, place in enumerate(batch) for _ in groups[numbers[place]]], device=hidden.device
        )
        logits = module(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden[of_text]),
            attention_mask=read["attention_mask"][of_text],
            decoder_input_ids=written["decoder_input_ids"],
            decoder_attention_mask=written["decoder_attention_mask"],
            use_cache=False,
        ).logits
        for member, ids, of_row in zip(members, texts, logits, strict=True):
            yield member, _read(of_row, [np.arange(len(ids))], [ids], [ids[:0]])[0]
        done(len(members))
