"""From label values, as files have them, to class ids or targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from layerwise.data.config import LabelsConfig, parse_class_rule
from layerwise.data.dataset import Task
from layerwise.data.table import row_name
from layerwise.errors import UserError

MOST_INTEGER_CLASSES = 50


@dataclass(frozen=True)
class Labels:
    """``values``: ``(n,)`` int64 class ids or float64 targets."""

    values: np.ndarray
    task: Task
    names: tuple[str, ...]


def is_missing(value: Any) -> bool:
    """Whether a cell holds no label: None, NaN, or blank text."""
    return (
        value is None
        or (isinstance(value, float) and np.isnan(value))
        or (isinstance(value, str) and not value.strip())
        or value is pd.NA
    )


def is_unlabelled(value: Any) -> bool:
    """Whether a label's cell holds none: missing, or ``NaN`` written out as a text file has it."""
    return is_missing(value) or (isinstance(value, str) and value.strip().lower() == "nan")


def read_labels(frame: pd.DataFrame, column: str, rules: LabelsConfig, known_names: tuple[str, ...] = ()) -> Labels:
    """The labels in ``column``.

    Words and truth values are classes, in the order of ``rules.names`` or alphabetical. Whole numbers are classes (up to 50
    different ones) in rising order, named by ``known_names`` or ``rules.names`` where these have a name for every id.
    Other numbers are targets. ``rules.task`` overrules, ``rules.classes`` makes classes of numbers.

    Raises:
        UserError: for a missing label (with its row), values that do not fit the task, names that do not fit the values.
    """
    values = frame[column]
    for position, value in enumerate(values):
        if is_unlabelled(value):
            shown = "no label" if is_missing(value) and not isinstance(value, float) else f"label {value}"
            raise UserError(
                f"{row_name(frame, position)} has {shown} (column {column!r}). Fill it in, or let `prepare` drop such rows."
            )
        if isinstance(value, list | dict | np.ndarray):
            raise UserError(
                f"{row_name(frame, position)}: the label (column {column!r}) is a {type(value).__name__}, not one value.\n"
                "For a label per word name the columns with columns.words and columns.tags, or columns.token_spans."
            )
    numbers = _numbers(values)
    if rules.classes is not None or rules.task == "regression":
        if numbers is None:
            wanted = f"labels.classes={rules.classes}" if rules.classes else "a regression"
            raise UserError(f"{wanted} needs numbers, but column {column!r} holds {_examples(_words_in(values))}.")
        if not np.isfinite(numbers).all():
            raise UserError(
                f"{row_name(frame, int(np.flatnonzero(~np.isfinite(numbers))[0]))} has an infinite label (column {column!r})."
            )
        return (
            Labels(numbers, "regression", ())
            if rules.classes is None
            else into_classes(numbers, rules.classes, rules.names)
        )
    if numbers is None:
        return _named_classes(values.astype(str).str.strip(), column, rules.names)
    whole = bool((numbers % 1 == 0).all())
    if not whole and rules.task == "classification":
        raise UserError(
            f"column {column!r} holds fractions ({_examples(values)}), not classes.\n"
            "Use labels.task=regression, or make classes with labels.classes=quantiles:2 (or round, thresholds:0.5)."
        )
    if not whole or (rules.task is None and len(np.unique(numbers)) > MOST_INTEGER_CLASSES):
        return Labels(numbers, "regression", ())
    return _numbered_classes(numbers.astype(np.int64), column, tuple(rules.names or known_names))


def into_classes(targets: np.ndarray, rule: str, names: list[str] | None = None) -> Labels:
    """Targets ``(n,)`` turned into classes by ``round`` (halves up), ``quantiles:K`` or ``thresholds:A+B`` (A belongs above).

    Classes that no target falls into do not exist. Names are the rounded values or the intervals, or ``names``.
    """
    kind, numbers = parse_class_rule(rule)
    if kind == "round":
        rounded, ids = np.unique(np.floor(targets + 0.5), return_inverse=True)
        found = tuple(f"{value:g}" for value in rounded)
    else:
        count = int(numbers[0]) if kind == "quantiles" else 0
        edges = np.unique(np.quantile(targets, np.arange(1, count) / count) if count else np.array(numbers))
        bins = np.searchsorted(edges, targets, side="right")
        occupied, ids = np.unique(bins, return_inverse=True)
        if count and len(occupied) < count:
            raise UserError(
                f"labels.classes={rule}: so many targets are equal that only {len(occupied)} of {count} bins have rows. Use fewer bins or thresholds."
            )
        bounds = ["-inf", *(f"{edge:.4g}" for edge in edges), "inf"]
        found = tuple(f"[{bounds[place]}, {bounds[place + 1]})".replace("[-inf", "(-inf") for place in occupied)
    if names is not None and len(names) != len(found):
        raise UserError(f"labels.names has {len(names)} names for {len(found)} classes ({', '.join(found)}).")
    return Labels(ids.astype(np.int64), "classification", tuple(names or found))


def _numbers(values: pd.Series) -> np.ndarray | None:
    """``(n,)`` float64, or None where some value is not a number. Truth values are no numbers."""
    if values.map(lambda value: isinstance(value, bool | np.bool_)).any():
        return None
    numbers = pd.to_numeric(values, errors="coerce")
    return None if numbers.isna().any() else numbers.to_numpy(dtype=np.float64)


def _words_in(values: pd.Series) -> pd.Series:
    """Those values that are no numbers; all where that is not what is wrong with them."""
    words = values[pd.to_numeric(values, errors="coerce").isna()]
    return words if len(words) else values


def _named_classes(words: pd.Series, column: str, names: list[str] | None) -> Labels:
    if set(words.unique()) <= {"True", "False"}:
        words = words.str.lower()
    order = list(names) if names is not None else sorted(words.unique())
    place = {name: index for index, name in enumerate(order)}
    strangers = [word for word in words.unique() if word not in place]
    if strangers:
        raise UserError(
            f"column {column!r} holds {strangers[0]!r}, which is not among labels.names ({', '.join(order)})."
        )
    if len(order) > max(MOST_INTEGER_CLASSES, len(words) // 2):
        raise UserError(
            f"column {column!r} holds {len(order)} different values in {len(words)} rows, which are no classes: {_examples(words)}."
        )
    return Labels(words.map(place).to_numpy(dtype=np.int64), "classification", tuple(order))


def _numbered_classes(ids: np.ndarray, column: str, names: tuple[str, ...]) -> Labels:
    if names and set(ids.astype(str)) <= set(names):  # the names are numbers: they are the values, not their positions
        return _named_classes(pd.Series(ids.astype(str)), column, list(names))
    if names:
        if ids.min() < 0 or ids.max() >= len(names):
            raise UserError(
                f"column {column!r} holds class id {int(ids.max() if ids.min() >= 0 else ids.min())}, but there are {len(names)} names ({', '.join(names)})."
            )
        return Labels(ids, "classification", names)
    found, dense = np.unique(ids, return_inverse=True)
    return Labels(dense.astype(np.int64), "classification", tuple(str(value) for value in found))


def _examples(values: pd.Series) -> str:
    return ", ".join(repr(value) for value in values.unique()[:3])
