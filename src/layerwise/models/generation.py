"""How a language model goes on from prompts: greedy, batched by length, ended by stopping strings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from layerwise.data.batching import token_budget_batches
from layerwise.errors import UserError
from layerwise.models.batch import Batch, budget_of, make_batch, takes_left_padding
from layerwise.models.continuations import own_end
from layerwise.models.model import LanguageModel
from layerwise.models.quiet import quiet_transformers
from layerwise.models.tokens import Tokens, tokenize

Around = Callable[[Batch], AbstractContextManager[Any]]
# A model's own generation_config may ask for more than its likeliest token.
_GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}


def continue_texts(
    model: LanguageModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    stop: Sequence[str] = (),
    token_budget: int | None = None,
    around: Around | None = None,
    done: Callable[[int], None] = lambda prompts: None,
    decoding: Mapping[str, Any] = MappingProxyType({}),
) -> list[str]:
    """What the model writes behind each prompt (in its chat frame, if it has one), its likeliest token each time.

    Args:
        max_new_tokens: at most so many tokens.
        stop: a text ends behind the first of these that it holds.
        decoding: of transformers' generate, in place of the likeliest token: sampling, beams.
        around: a context in which each batch is generated: taps.
        done: is told how many prompts each batch has finished.

    Raises UserError for an encoder, an empty prompt or stopping string, and a prompt without room for so many tokens.
    """
    if model.is_encoder or not model.module.can_generate():
        raise UserError(f"{model.name} cannot generate text: take a decoder or an encoder-decoder.")
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")
    if isinstance(stop, str) or not all(stop):
        raise UserError(f"stopping strings are a list of texts, none of them empty; got {stop!r}.")
    tokens = _prompts(model, prompts, max_new_tokens)
    budget = budget_of(model.device, token_budget)
    found = [""] * len(prompts)
    for rows in prompt_batches(model, tokens.lengths, max_new_tokens, budget):
        side = None if model.is_encoder_decoder or not takes_left_padding(model.module) else "left"
        batch = make_batch(model, tokens, rows, side)  # type: ignore[arg-type]
        width = 1 if model.is_encoder_decoder else batch.inputs["input_ids"].shape[1]
        settings: dict[str, Any] = {**_GREEDY, **decoding, "max_new_tokens": max_new_tokens}
        if model.tokenizer.pad_token_id is not None:
            settings["pad_token_id"] = model.tokenizer.pad_token_id
        if stop:
            settings["stopping_criteria"] = StoppingCriteriaList([_Stops(model.tokenizer, stop, width)])
        inputs = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
        with quiet_transformers(), torch.no_grad(), around(batch) if around is not None else nullcontext():
            written = model.module.generate(**inputs, **settings)
        for row, ids in zip(rows, written[:, width:].tolist(), strict=True):
            found[row] = truncate(model.tokenizer.decode(_until_end(model, ids), skip_special_tokens=True), stop)
        done(len(rows))
    return found


def truncate(text: str, stop: Sequence[str]) -> str:
    """``text`` to the end of whichever of ``stop`` ends first in it; all of it where none is there.

    >>> truncate("Paris. It is", [".", "It"])
    'Paris.'
    """
    ends = [place + len(mark) for mark in stop if (place := text.find(mark)) >= 0]
    return text[: min(ends)] if ends else text


class _Stops(StoppingCriteria):
    """Ends a text once what was written holds a stopping string, however it is cut into tokens."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], width: int) -> None:
        self.tokenizer, self.stop, self.width = tokenizer, stop, width

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.width :], skip_special_tokens=True)
        ended = [any(mark in text for mark in self.stop) for text in texts]
        return torch.tensor(ended, device=input_ids.device)


def _prompts(model: LanguageModel, prompts: Sequence[str], room: int) -> Tokens:
    """Token ids of the prompts; what a tokenizer puts behind a text is for encoders alone."""
    if model.tokenizer is None:
        raise UserError(f"{model.name} has no tokenizer: name one with model.tokenizer.")
    tokens = tokenize(model.tokenizer, list(prompts), frame=model.frame, vocabulary=model.vocabulary_size)
    if not model.is_encoder_decoder and model.frame is None:
        for row, special in enumerate(tokens.special):
            tokens.ids[row] = tokens.ids[row][: own_end(special)]
    most = model.max_length
    longest = int(tokens.lengths.max(initial=0)) + (0 if model.is_encoder_decoder else room)
    if most is not None and longest > most:
        row = int(tokens.lengths.argmax())
        raise UserError(
            f"prompt {row} has {len(tokens.ids[row])} tokens; with {room} more that is over the {most} {model.name} takes: "
            f"{prompts[row][:60]!r}…"
        )
    return tokens


def prompt_batches(model: LanguageModel, lengths: np.ndarray, room: int, budget: int) -> list[np.ndarray]:
    """Prompts of similar length; of equal length where the model has no place for padding before them."""
    if model.is_encoder_decoder or takes_left_padding(model.module):
        return token_budget_batches(lengths + room, budget)
    groups = [np.flatnonzero(lengths == length) for length in np.unique(lengths)[::-1]]
    return [group[part] for group in groups for part in token_budget_batches(lengths[group] + room, budget)]


def end_tokens(model: LanguageModel) -> set[int]:
    """The tokens at which generation ends a text."""
    settings = getattr(model.module, "generation_config", None)
    ends = getattr(settings, "eos_token_id", None)
    return set(ends if isinstance(ends, list) else [] if ends is None else [ends])


def _until_end(model: LanguageModel, ids: list[int]) -> list[int]:
    """The tokens before the one that ends a text: what follows is padding."""
    ends = end_tokens(model)
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]
