"""Rows as they were read, before any column has a meaning: what every reader returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass
class Table:
    """Rows as they were read, before any column has a meaning.

    Attributes:
        frame: one row per text. The index tells where a row was: its number, or (file, number), from 0.
        names: class names by class id, for columns whose values are ids.
        notes: what a person should know about the reading.
        chosen: columns the source itself assigns, by role (``text``, ``label``, …); a config's own choice wins.
    """

    frame: pd.DataFrame
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    chosen: dict[str, str] = field(default_factory=dict)
    source: str | None = None
    licence: str | None = None


def row_name(frame: pd.DataFrame, position: int) -> str:
    """Where the row at ``position`` came from: ``row 7`` or ``row 7 of train.jsonl``, counted from 1."""
    label: Any = frame.index[position]
    return f"row {int(label[1]) + 1} of {label[0]}" if isinstance(label, tuple) else f"row {int(label) + 1}"


def by_index(column: dict[str, Any]) -> pd.Series:
    """A column written as ``{"0": first, "1": second}``, in the order of its index, whatever the order it was written in."""
    series = pd.Series(column, dtype=object)
    if all(key.isdigit() for key in column):
        series.index = pd.Index([int(key) for key in column])
        series = series.sort_index()
    return series
