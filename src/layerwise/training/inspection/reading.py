"""Prompts as a model reads them, token by token, and what to call a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerwise.errors import UserError
from layerwise.models.batch import Batch, Ids, make_batch
from layerwise.models.continuations import first_token, own_end
from layerwise.models.model import LanguageModel

Ints = NDArray[np.int64]
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Reading:
    """One prompt as a model reads it: ids (tokens,), what the tokenizer puts at its end left out; names: of each token."""

    prompt: str
    ids: Ints
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, model: LanguageModel) -> Batch:
        """The tokens as a batch of one."""
        return make_batch(model, Ids([self.ids]), [0])


def read_prompts(model: LanguageModel, prompts: Sequence[str], room: int = 0) -> list[Reading]:
    """Each prompt in the model's chat frame, if it has one; an empty one is the token that begins every text.

    room: tokens that must fit behind it. Raises UserError for a prompt that is too long, with its number.
    """
    if isinstance(prompts, str) or not len(prompts):
        raise UserError("prompts are a list of texts, and at least one.")
    filled = [number for number, prompt in enumerate(prompts) if prompt]
    found = {number: np.zeros(0, dtype=np.int64) for number in range(len(prompts))}
    if filled:
        tokens = model.tokenize([prompts[number] for number in filled], max_length=None, truncation="error")
        for number, ids, special in zip(filled, tokens.ids, tokens.special, strict=True):
            keeps = model.is_encoder_decoder or model.frame is not None
            found[number] = ids if keeps else ids[: own_end(special)]
    if len(filled) < len(prompts):
        if model.is_encoder_decoder or model.frame is not None:
            raise UserError(f"{model.name} needs a prompt, and one is empty.")
        begin = np.array([first_token(model, "")])
        found = {number: ids if len(ids) else begin for number, ids in found.items()}
    for number, ids in found.items():
        if not model.is_encoder_decoder and model.max_length is not None and len(ids) + room > model.max_length:
            raise UserError(
                f"prompt {number} has {len(ids)} tokens; with {room} more that is over the {model.max_length} {model.name} "
                f"takes: {prompts[number][:60]!r}"
            )
    return [Reading(prompt, ids, token_names(model, ids)) for prompt, ids in zip(prompts, found.values(), strict=True)]


def read_prompt(model: LanguageModel, prompt: str) -> Reading:
    """One prompt of a decoder. Raises UserError for other models: they have no next token."""
    if model.is_encoder or model.is_encoder_decoder:
        kind = "an encoder" if model.is_encoder else "an encoder-decoder"
        raise UserError(f"{model.name} is {kind}: a prompt's next token is looked at in decoders.")
    return read_prompts(model, [prompt])[0]


def token_names(model: LanguageModel, ids: Sequence[int] | Ints) -> tuple[str, ...]:
    """What each token spells; the vocabulary's own name of one that is part of a character, ``<id 7>`` of one without a name."""
    names: dict[int, str] = {}
    for token in {int(token) for token in ids}:
        names[token] = _name(model.tokenizer, token)
    return tuple(names[int(token)] for token in ids)


def _name(tokenizer: Any, token: int) -> str:
    if tokenizer is None or token >= len(tokenizer):
        return f"<id {token}>"
    alone = tokenizer.decode([token])
    twice = tokenizer.decode([token, token])
    # Some tokenizers leave the space before the first word of a text away.
    text: str = twice[len(alone) :] if twice.startswith(alone) else alone
    if not text or _UNFINISHED in text:
        return str(tokenizer.convert_ids_to_tokens(token))
    return text
