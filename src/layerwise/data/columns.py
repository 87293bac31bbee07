"""Which column is the text, which the label: what the config names, what the source says, or what only one can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import pandas as pd

from layerwise.data.config import ColumnsConfig, DatasetConfig
from layerwise.data.table import Table
from layerwise.errors import UserError, nearest

TEXTS = (
    "text",
    "sentence",
    "sentences",
    "statement",
    "content",
    "review",
    "tweet",
    "headline",
    "message",
    "comment",
    "document",
)
LABELS = ("label", "labels", "target", "class", "category", "sentiment", "topic", "score", "rating", "y")
PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("question", "sentence"),
    ("text1", "text2"), ("text_a", "text_b"), ("text", "pair"),
)  # fmt: skip
MOST_CLASSES = 50


def choose_columns(table: Table, config: DatasetConfig) -> dict[str, str]:
    """The column for each role: ``text``, ``label``, ``group``, and those of ``ColumnsConfig``.

    Raises:
        UserError: for a named column that is not there, or where it is unclear which is the text or the label; both list
            the columns.
    """
    frame = table.frame
    named = {role: getattr(config, role) for role in ("text", "label", "group")}
    named |= {field.name: getattr(config.columns, field.name) for field in fields(ColumnsConfig)}
    columns = {role: name for role, name in table.chosen.items() if role != "task"}
    columns |= {role: name for role, name in named.items() if name is not None}
    if "token_spans" in table.chosen and config.label == table.chosen["token_spans"]:
        del columns["label"]  # CoNLL-U: the label asked for is the one each word has
    for role, name in columns.items():
        if name not in frame.columns:
            what = (
                "column"
                if role in ("text", "label")
                else f"column for columns.{role}"
                if hasattr(config.columns, role)
                else f"{role} column"
            )
            raise UserError(f"no {what} {name!r}.{nearest(name, list(frame.columns))}\n{_listing(frame)}")
    if "split" not in columns and "split" in frame.columns and _looks_like_splits(frame["split"]):
        columns["split"] = "split"
    if "text" not in columns and "words" not in columns:
        columns |= _find_text(frame, columns)
    per_token = "words" in columns or "token_spans" in columns
    if "label" not in columns and not per_token and config.labels.task != "unlabelled":
        columns |= _find_label(frame, columns, config)
    if config.labels.task == "unlabelled":
        columns.pop("label", None)
    return columns


def _find_text(frame: pd.DataFrame, taken: dict[str, str]) -> dict[str, str]:
    free = _free(frame, taken)
    lower = {str(name).lower(): name for name in free}
    if "pair" not in taken:
        for first, second in PAIRS:
            if first in lower and second in lower:
                return {"text": lower[first], "pair": lower[second]}
    by_name = [lower[name] for name in TEXTS if name in lower and _is_text(frame[lower[name]])]
    candidates = by_name or [name for name in free if _is_text(frame[name]) and _is_prose(frame[name])]
    if len(candidates) == 1:
        return {"text": candidates[0]}
    found = f"could be {' or '.join(map(repr, candidates))}" if candidates else "was not found"
    raise UserError(f"which column holds the text is unclear: it {found}. Name it with text=….\n{_listing(frame)}")


def _find_label(frame: pd.DataFrame, taken: dict[str, str], config: DatasetConfig) -> dict[str, str]:
    free = [name for name in _free(frame, taken) if name not in config.where]
    lower = {str(name).lower(): name for name in free}
    by_name = [lower[name] for name in LABELS if name in lower]
    candidates = by_name or [name for name in free if _is_label(frame[name])]
    if len(candidates) == 1:
        return {"label": candidates[0]}
    if not free:
        return {}
    found = f"could be {' or '.join(map(repr, candidates))}" if candidates else "was not found"
    raise UserError(
        f"which column holds the label is unclear: it {found}. Name it with label=…, "
        f"or set labels.task=unlabelled.\n{_listing(frame)}"
    )


def _free(frame: pd.DataFrame, taken: dict[str, str]) -> list[str]:
    return [name for name in frame.columns if name not in taken.values()]


def _is_text(column: pd.Series) -> bool:
    values = column.dropna().head(200)
    return len(values) > 0 and all(isinstance(value, str) for value in values)


def _is_prose(column: pd.Series) -> bool:
    """Mostly different values, some of several words: not a class name and not an identifier."""
    values = column.dropna().astype(str)
    return values.nunique() > 0.5 * len(values) and values.head(200).str.contains(r"\s").mean() > 0.5


def _is_label(column: pd.Series) -> bool:
    values = column.dropna()
    if len(values) == 0 or not all(isinstance(value, str | int | float | bool) for value in values.head(200)):
        return False
    numbers = pd.to_numeric(values, errors="coerce")
    few = 2 <= values.nunique() <= min(MOST_CLASSES, max(2, len(values) // 2))
    return bool(few or (numbers.notna().all() and (numbers % 1 != 0).any()))


def _looks_like_splits(column: pd.Series) -> bool:
    return {str(value).lower() for value in column.unique()} <= set(SPLIT_NAMES)


SPLIT_NAMES = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "development": "validation", "test": "test", "testing": "test",
}  # fmt: skip


def split_of(file_or_value: str) -> str | None:
    """The split a file name or a value speaks of, or None.

    >>> split_of("en_ewt-ud-dev")
    'validation'
    """
    words = "".join(letter if letter.isalnum() else " " for letter in file_or_value.lower()).split()
    found = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def _listing(frame: pd.DataFrame) -> str:
    return f"Columns: {', '.join(_described(frame[name], str(name)) for name in frame.columns)}."


def _described(column: pd.Series, name: str) -> str:
    values: Sequence[object] = column.dropna().head(1).tolist()
    example = str(values[0]) if values else "empty"
    return f"{name} ({example[:24] + '…' if len(example) > 25 else example})"
