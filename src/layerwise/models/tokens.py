"""Texts into token ids, each token's place in the text kept, nothing cut in silence.

No padding and no tensors here: batches are formed later, by length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from layerwise.errors import UserError
from layerwise.models.chat import ChatFrame

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
_PIECE = 2048  # texts tokenized at once: bounds memory, still parallel


@dataclass(frozen=True)
class Tokens:
    """n tokenized texts, ragged.

    ids[i]: (length_i,) token ids, special and template tokens included.
    special[i]: (length_i,) True where a token is not of the user's text: added by the tokenizer or a chat template.
    offsets[i]: (length_i, 2) start and end character in the user's text (of a pair: in the text the token is from);
        (-1, -1) for special tokens. None for tokenizers that cannot tell.
    type_ids[i]: (length_i,) segment ids, where the model takes them.
    lengths: (n,) token counts; truncated: (n,) True where tokens were cut; dropped: how many tokens in all.
    """

    ids: list[Ints]
    special: list[Bools]
    offsets: list[Ints] | None
    type_ids: list[Ints] | None
    truncated: Bools
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> Ints:
        return np.fromiter((len(row) for row in self.ids), dtype=np.int64, count=len(self.ids))

    @property
    def report(self) -> str | None:
        """One line on what was cut; None where nothing was."""
        cut = int(self.truncated.sum())
        if not cut:
            return None
        share = 100 * self.dropped / (self.dropped + int(self.lengths.sum()))
        return f"{cut:,} of {len(self):,} texts were cut to the longest length, losing {self.dropped:,} tokens ({share:.1f} % of all)"

    def need_offsets(self) -> list[Ints]:
        """``offsets``; UserError where the tokenizer has none."""
        if self.offsets is None:
            raise UserError(
                "this tokenizer cannot tell where in the text a token stands, which spans and per-token labels need.\n"
                "Name a fast tokenizer with model.tokenizer."
            )
        return self.offsets


def tokenize(
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int | None = None,
    frame: ChatFrame | None = None,
    vocabulary: int | None = None,
    truncation: Literal["report", "error"] = "report",
) -> Tokens:
    """Tokenize ``texts`` (with ``pairs`` as second texts), cutting the end of a text that has over ``max_length`` tokens.

    What the tokenizer or the chat template adds is never cut: the user's text is, from its end (of a pair, the longer
    of the two). ``vocabulary`` is the number of rows of the model's embedding.
    Raises UserError for a text without tokens of its own, a token the model has no embedding for, a pair in a chat, and,
    with ``truncation="error"``, a text that is too long.
    """
    _check_texts(texts, pairs, frame)
    encode = _encode_fast if tokenizer.is_fast else _encode_slow
    rows: list[_Row] = []
    truncated, dropped = np.zeros(len(texts), dtype=bool), 0
    for start in range(0, len(texts), _PIECE):
        piece = slice(start, start + _PIECE)
        for row in encode(tokenizer, texts[piece], None if pairs is None else pairs[piece], frame):
            index = len(rows)
            _check_row(index, texts[index], row, tokenizer, vocabulary)
            excess = 0 if max_length is None else len(row.ids) - max_length
            if excess > 0:
                if truncation == "error":
                    raise UserError(f"text {index} has {len(row.ids)} tokens, {max_length} fit: {texts[index][:60]!r}…")
                row = _cut(row, excess, index)
                truncated[index], dropped = True, dropped + excess
            rows.append(row)
    return Tokens(
        ids=[row.ids for row in rows],
        special=[row.special for row in rows],
        offsets=[row.places for row in rows if row.places is not None] if tokenizer.is_fast else None,
        type_ids=[row.types for row in rows] if "token_type_ids" in tokenizer.model_input_names else None,
        truncated=truncated,
        dropped=dropped,
    )


def _check_texts(texts: Sequence[str], pairs: Sequence[str] | None, frame: ChatFrame | None) -> None:
    if isinstance(texts, str):
        raise UserError("tokenize takes a list of texts, got one text: put it in a list.")
    for what, values in (("text", texts), ("second text", pairs or ())):
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise UserError(f"{what} {index} is not text but {type(value).__name__}: {value!r}")
    if pairs is not None and len(pairs) != len(texts):
        raise UserError(f"{len(texts)} texts, but {len(pairs)} second texts.")
    if pairs is not None and frame is not None:
        raise UserError(
            "text pairs do not go into a chat template: join each pair into one text, or leave the template out."
        )


@dataclass(frozen=True)
class _Row:
    """One tokenized text; ``sides``: which text of a pair a token is from."""

    ids: Ints
    special: Bools
    places: Ints | None
    types: Ints
    sides: Ints


def _encode_fast(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, frame: ChatFrame | None
) -> Iterator[_Row]:
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # a tokenizer.json may switch these on
    backend.no_padding()
    rendered = [frame.render(text)[0] for text in texts] if frame else texts
    inputs = list(rendered) if pairs is None else list(zip(rendered, pairs, strict=True))
    # A chat template writes its own special tokens, the one that begins a text among them.
    for text, coded in zip(texts, backend.encode_batch(inputs, add_special_tokens=frame is None), strict=True):
        special = np.asarray(coded.special_tokens_mask, dtype=bool)
        places = np.asarray(coded.offsets, dtype=np.int64).reshape(-1, 2)
        if frame:
            places, special = _inside(places, frame, text)
        places[special] = -1
        ids, types = np.asarray(coded.ids, dtype=np.int64), np.asarray(coded.type_ids, dtype=np.int64)
        sides = (
            np.zeros_like(ids)
            if pairs is None
            else np.asarray([side or 0 for side in coded.sequence_ids], dtype=np.int64)
        )
        yield _Row(ids, special, places, types, sides)


def _encode_slow(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, frame: ChatFrame | None
) -> Iterator[_Row]:
    if frame is not None:
        raise UserError(
            "a chat template needs a fast tokenizer, to tell the text from the template: name one with model.tokenizer."
        )
    for index, text in enumerate(texts):
        coded = tokenizer(
            text,
            None if pairs is None else pairs[index],
            return_token_type_ids=True,
            return_special_tokens_mask=True,
            verbose=False,
        )
        types = np.asarray(coded["token_type_ids"], dtype=np.int64)
        special = np.asarray(coded["special_tokens_mask"], dtype=bool)
        yield _Row(np.asarray(coded["input_ids"], dtype=np.int64), special, None, types, types)


def _inside(places: Ints, frame: ChatFrame, text: str) -> tuple[Ints, Bools]:
    """Places in the rendered text → places in the user's text, and which tokens lie wholly outside it."""
    whole, begin = frame.render(text)
    end = len(whole) - len(frame.suffix)
    outside = (places[:, 1] <= begin) | (places[:, 0] >= end)
    return np.clip(places, begin, end) - begin + frame.shift(text), outside


def _check_row(index: int, text: str, row: _Row, tokenizer: Any, vocabulary: int | None) -> None:
    if row.special.all():
        raise UserError(f"text {index} has no tokens: {text[:60]!r}. Leave empty texts out of the data.")
    largest = int(row.ids.max())
    if vocabulary is not None and largest >= vocabulary:
        raise UserError(
            f"text {index} has the token {tokenizer.convert_ids_to_tokens(largest)!r} (id {largest}), and the model embeds "
            f"{vocabulary} tokens only.\nThe tokenizer does not belong to this model: check model.tokenizer."
        )


def _cut(row: _Row, excess: int, index: int) -> _Row:
    """The row without ``excess`` of the user's own tokens, from the end; of a pair, always from the side that is longer."""
    own = np.flatnonzero(~row.special)
    if excess >= len(own):
        length = len(row.ids)
        raise UserError(
            f"a longest length of {length - excess} leaves no room for text {index} beside its {length - len(own)} special tokens."
        )
    first, second = own[row.sides[own] == 0], own[row.sides[own] == 1]
    most = max(len(first), len(second))
    short = min(len(first), len(second))
    level = max(excess - (most - short), 0)  # what is left to cut once both sides are equally long, from both in turn
    lost = {True: min(excess, most - short) + (level + 1) // 2, False: level // 2}
    kept = np.ones(len(row.ids), dtype=bool)
    for side, is_longer in ((first, len(first) >= len(second)), (second, len(second) > len(first))):
        kept[side[len(side) - lost[is_longer] :]] = False
    places = None if row.places is None else row.places[kept]
    return _Row(row.ids[kept], row.special[kept], places, row.types[kept], row.sides[kept])
