"""Prompts and what may follow them as token ids: where the prompt ends, and which tokens count.

The whole text is tokenized at once, and the continuation begins behind the longest beginning of its tokens that the
prompt's own tokens have too. Spaces at the end of a prompt belong to the continuation (``the answer is`` + `` yes``), as
lm-evaluation-harness has it; other white space stays with the prompt. Where a tokenizer joins the end of the prompt and the
beginning of the continuation into one token, that token belongs to the continuation.

Tokens that the tokenizer or a chat template adds are read and never scored; those that end a text are not read. A text
that nothing stands before is read behind the tokenizer's beginning (or end) token, so that its first token counts too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerwise.errors import UserError
from layerwise.models.chat import ChatFrame
from layerwise.models.model import LanguageModel
from layerwise.models.tokens import Tokens, tokenize

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
_AS_IT_IS = ChatFrame("", "", trims=False)  # a text that holds its special tokens already


@dataclass(frozen=True)
class Continuation:
    """One text that a model scores.

    ids: (tokens,) of the whole text. begins: the number of the continuation's first token. scored: (tokens,) True where a
    token is of the text itself. source: what an encoder reads, in an encoder-decoder; ``ids`` are then the decoder's.
    """

    ids: Ints
    begins: int
    scored: Bools
    source: Ints | None = None


def encode(model: LanguageModel, contexts: Sequence[str], texts: Sequence[Sequence[str]]) -> list[list[Continuation]]:
    """Per context its texts, each of which begins with it, as token ids; in the model's chat frame, if it has one.

    A context in a chat is the user's message, and what follows it in the text is the answer.
    Raises UserError for a model without a tokenizer, a text longer than the model takes, an empty continuation.
    """
    if model.tokenizer is None:
        raise UserError(f"{model.name} has no tokenizer: name one with model.tokenizer.")
    if model.is_encoder_decoder:
        return _for_decoders(model, contexts, texts)
    messages = contexts
    if model.frame is not None:
        contexts, texts = _framed(model.frame, contexts, texts)
    flat = [text for row in texts for text in row]
    whole = _tokens(model, flat)
    if model.frame is not None:
        of_text = [message for message, row in zip(messages, texts, strict=True) for _ in row]
        _mark_frames(model.frame, whole, of_text)
    before = _context_ids(model, contexts)
    found, at = [], 0
    for context, row in zip(before, texts, strict=True):
        found.append([_continuation(model, whole, at + place, context, text) for place, text in enumerate(row)])
        at += len(row)
    return found


def _framed(
    frame: ChatFrame, contexts: Sequence[str], texts: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """The same with each context as a user's message; an answer follows it behind one space, or none after white space."""
    rendered = [frame.render(context)[0] for context in contexts]
    answers = []
    for context, whole, row in zip(contexts, rendered, texts, strict=True):
        if not context.strip():
            raise UserError(
                f"a chat needs a message, and nothing stands before {row[0][:40]!r}: load the model without chat_template."
            )
        between = "" if whole[-1:].isspace() else " "
        answers.append([whole + between + text[len(context) :].strip() for text in row])
    return rendered, answers


def _mark_frames(frame: ChatFrame, whole: Tokens, messages: Sequence[str]) -> None:
    """Marks as special what a chat template adds to each text: all but the message and the answer."""
    for places, special, message in zip(whole.need_offsets(), whole.special, messages, strict=True):
        rendered, begin = frame.render(message)
        end, answer = len(rendered) - len(frame.suffix), len(rendered)
        in_message = (places[:, 0] < end) & (places[:, 1] > begin)
        special |= ~in_message & (places[:, 1] <= answer)


def _tokens(model: LanguageModel, texts: list[str]) -> Tokens:
    frame = _AS_IT_IS if model.frame is not None else None
    return tokenize(model.tokenizer, texts, frame=frame, vocabulary=model.vocabulary_size)


def _context_ids(model: LanguageModel, contexts: Sequence[str]) -> list[Ints]:
    """The tokens of each context without those that end it; of an empty one those alone that begin every text."""
    texts = [context.rstrip(" ") for context in contexts]
    filled = [row for row, text in enumerate(texts) if text.strip()]
    distinct = list(dict.fromkeys(texts[row] for row in filled))
    coded = _tokens(model, distinct)
    known = {
        text: coded.ids[place] if model.frame is not None else coded.ids[place][: own_end(coded.special[place])]
        for place, text in enumerate(distinct)
    }
    return [known.get(text, np.zeros(0, dtype=np.int64)) for text in texts]


def own_end(special: Bools) -> int:
    """Behind which token a text's own tokens end, and those begin that end every text."""
    return int(np.flatnonzero(~special)[-1]) + 1


def _continuation(model: LanguageModel, whole: Tokens, place: int, context: Ints, text: str) -> Continuation:
    end = own_end(whole.special[place])
    ids, own = whole.ids[place][:end], ~whole.special[place][:end]
    shared = min(len(context), len(ids))
    differ = np.flatnonzero(ids[:shared] != context[:shared])
    begins = max(int(differ[0]) if len(differ) else shared, int(np.argmax(own)))
    if begins >= len(ids):
        raise UserError(f"nothing follows the prompt in {text[-60:]!r}: its tokens are all the prompt's.")
    if begins == 0:
        first = first_token(model, text)
        ids, own, begins = np.concatenate([[first], ids]), np.concatenate([[False], own]), 1
    _check_length(model, len(ids) - 1, text)
    return Continuation(ids, begins, own)


def _check_length(model: LanguageModel, tokens: int, text: str) -> None:
    """``tokens``: how many are read; the last one of a text is only predicted."""
    if model.max_length is not None and tokens > model.max_length:
        raise UserError(
            f"{model.name} reads {model.max_length} tokens, and a text has {tokens}: {text[:60]!r}…\n"
            "Leave out the items that are too long, or take a model that reads more."
        )


def first_token(model: LanguageModel, text: str) -> int:
    """The token read before a text that nothing stands before: the beginning token, else the one that ends texts."""
    for token in (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id):
        if token is not None and token < model.vocabulary_size:
            return int(token)
    raise UserError(
        f"nothing stands before {text[:40]!r}, and this tokenizer has no token that begins or ends a text, so the first "
        "token has no likelihood.\nGive the items a prompt."
    )


def _for_decoders(
    model: LanguageModel, contexts: Sequence[str], texts: Sequence[Sequence[str]]
) -> list[list[Continuation]]:
    """For an encoder-decoder: the encoder reads the context, with the tokens that end it, the decoder what follows."""
    if model.frame is not None:
        raise UserError(f"{model.name} is an encoder-decoder, which has no chat: load it without chat_template.")
    found = []
    empty = next((row for row, context in enumerate(contexts) if not context.strip()), None)
    if empty is not None:
        raise UserError(
            f"{model.name} is an encoder-decoder: its encoder needs a prompt, and nothing stands before "
            f"{texts[empty][0][:40]!r}."
        )
    sources = tokenize(model.tokenizer, list(contexts), vocabulary=model.vocabulary_size)
    answers = [
        [text[len(context.rstrip(" ")) :].strip() for text in row] for context, row in zip(contexts, texts, strict=True)
    ]
    coded = tokenize(model.tokenizer, [text for row in answers for text in row], vocabulary=model.vocabulary_size)
    at = 0
    for source, row in zip(sources.ids, answers, strict=True):
        targets = [coded.ids[at + place][~coded.special[at + place]] for place in range(len(row))]
        _check_length(model, max(len(source), *map(len, targets)), max(row, key=len))
        found.append([Continuation(ids, 0, np.ones(len(ids), dtype=bool), source) for ids in targets])
        at += len(row)
    return found
