"""Labels for pieces of a text: a tag for each word, or spans of characters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from layerwise.data.dataset import TokenLabels
from layerwise.data.labels import is_missing
from layerwise.data.table import row_name
from layerwise.errors import UserError

IGNORED = (-100, "-100", "_")
Piece = tuple[int, int, Any]


def listed(frame: pd.DataFrame, position: int, column: str) -> list[Any]:
    """A cell that holds a list: as such, as an array, or as JSON text (CSV). Raises UserError for anything else."""
    value = frame[column].iloc[position]
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise UserError(
                f"{row_name(frame, position)}: column {column!r} is not a JSON list: {value[:40]}…"
            ) from None
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise UserError(
            f"{row_name(frame, position)}: column {column!r} must hold a list, got {type(value).__name__} {str(value)[:40]!r}."
        )
    return [item.tolist() if isinstance(item, np.ndarray) else item for item in value]


def join_words(words: Sequence[Any]) -> tuple[str, list[tuple[int, int]]]:
    """The words joined by single spaces, and the characters of each.

    >>> join_words(["It", "rains"])
    ('It rains', [(0, 2), (3, 8)])
    """
    places, at = [], 0
    for word in words:
        places.append((at, at + len(str(word))))
        at += len(str(word)) + 1
    return " ".join(map(str, words)), places


def from_words(frame: pd.DataFrame, words: str, tags: str) -> tuple[list[str], list[list[Piece]]]:
    """Texts and their tagged pieces, from a column of word lists and one of tag lists of equal length."""
    texts, pieces = [], []
    for position in range(len(frame)):
        row_words, row_tags = listed(frame, position, words), listed(frame, position, tags)
        if len(row_words) != len(row_tags):
            raise UserError(
                f"{row_name(frame, position)}: {len(row_words)} words (column {words!r}) but {len(row_tags)} tags (column {tags!r})."
            )
        text, places = join_words(row_words)
        texts.append(text)
        pieces.append([(start, end, tag) for (start, end), tag in zip(places, row_tags, strict=True)])
    return texts, pieces


def from_spans(frame: pd.DataFrame, column: str, texts: Sequence[str]) -> list[list[Piece]]:
    """The pieces in a column of ``[[start, end, label], …]``; characters count from 0, ``end`` is one past the last."""
    pieces = []
    for position, text in enumerate(texts):
        row: list[Piece] = []
        for item in listed(frame, position, column):
            if isinstance(item, dict):
                item = [item.get("start"), item.get("end"), item.get("label")]
            if len(item) != 3 or not _inside(item[0], item[1], text):
                raise UserError(
                    f"{row_name(frame, position)}: {item} in column {column!r} is no [start, end, label] "
                    f"within its text of {len(text)} characters."
                )
            row.append((int(item[0]), int(item[1]), item[2]))
        pieces.append(row)
    return pieces


def read_spans(frame: pd.DataFrame, column: str, texts: Sequence[str]) -> np.ndarray:
    """``(n, 2)`` characters to pool over, from [start, end], or from the piece of text itself, which must occur once."""
    spans = []
    for position, text in enumerate(texts):
        value = frame[column].iloc[position]
        if isinstance(value, str) and not value.lstrip().startswith("["):
            if not value or text.count(value) != 1:
                raise UserError(
                    f"{row_name(frame, position)}: {value!r} (column {column!r}) occurs {text.count(value) if value else 0} times "
                    "in its text, and must occur once. Give [start, end] instead."
                )
            spans.append((text.index(value), text.index(value) + len(value)))
            continue
        pair = listed(frame, position, column)
        if len(pair) != 2 or not _inside(pair[0], pair[1], text):
            raise UserError(
                f"{row_name(frame, position)}: {pair} in column {column!r} is no [start, end] within its text of {len(text)} characters."
            )
        spans.append((int(pair[0]), int(pair[1])))
    return np.array(spans, dtype=np.int64)


def _inside(start: Any, end: Any, text: str) -> bool:
    numbers = all(isinstance(place, int | np.integer) and not isinstance(place, bool) for place in (start, end))
    return numbers and 0 <= start < end <= len(text)


def tag_classes(
    rows: Iterable[Sequence[Piece]], names: Sequence[str] | None, known_names: tuple[str, ...] = ()
) -> tuple[tuple[TokenLabels, ...], tuple[str, ...]]:
    """Tags turned into class ids, and the class names. ``-100``, ``_`` and missing tags carry no label and are left out."""
    kept = [[piece for piece in row if not is_missing(piece[2]) and piece[2] not in IGNORED] for row in rows]
    tags = {tag for row in kept for _, _, tag in row}
    if not tags:
        raise UserError("no word carries a label.")
    numbers = all(isinstance(tag, int | np.integer) and not isinstance(tag, bool) for tag in tags)
    order: tuple[str, ...] = tuple(names or known_names)
    if numbers and order and max(tags) < len(order):
        place = {tag: int(tag) for tag in tags}
    else:
        order = order or tuple(str(tag) for tag in sorted(tags, key=None if numbers else str))
        place = {tag: order.index(str(tag)) for tag in tags if str(tag) in order}
        if strangers := [tag for tag in tags if tag not in place]:
            raise UserError(f"the tag {strangers[0]!r} is not among labels.names ({', '.join(order)}).")
    return tuple(tuple((start, end, place[tag]) for start, end, tag in row) for row in kept), order
