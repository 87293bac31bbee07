"""JSON and JSON lines: the shapes in which people keep rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from layerwise.data.pipeline import is_pipeline, pipeline_table
from layerwise.data.table import Table, by_index
from layerwise.errors import UserError


def read_json_lines(path: Path, text: str) -> pd.DataFrame:
    """One object a line, blank lines aside. Raises UserError with the number of a line that is something else."""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error.msg} at column {error.colno}).") from None
        if not isinstance(row, dict):
            raise UserError(
                f'{path}, line {number}: each line must be an object like {{"text": …, "label": …}}, got {_kind(row)}.'
            )
        rows.append(row)
    return pd.DataFrame(rows)


def read_json(path: Path, text: str) -> Table:
    """A JSON file: a list of rows or texts, columns, pandas' dict-of-index, one list of rows inside an object, the probing
    pipeline's form, or lines of JSON under the wrong suffix.

    Raises:
        UserError: with the line where the JSON is broken, or what was found where rows were wanted.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return Table(read_json_lines(path, text))
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg} at column {error.colno}).") from None
    if is_pipeline(value):
        return pipeline_table(value, path.name)
    frame = json_frame(value)
    if frame is None:
        raise UserError(
            f'{path}: no rows found in {_kind(value)}. Wanted: a list of objects like {{"text": …, "label": …}},\n'
            'or columns like {"text": [...], "label": [...]}.'
        )
    return Table(frame)


def json_frame(value: Any) -> pd.DataFrame | None:
    """The rows in a JSON value of any of the known shapes, or None. Raises UserError for columns of unequal length."""
    if isinstance(value, list) and value:
        if all(isinstance(row, dict) for row in value):
            return pd.DataFrame(value)
        return pd.DataFrame({"text": value}) if all(isinstance(row, str) for row in value) else None
    if not isinstance(value, dict) or not value:
        return None
    if all(isinstance(column, list) for column in value.values()):
        sizes = {name: len(column) for name, column in value.items()}
        if len(set(sizes.values())) > 1:
            raise UserError(
                f"columns of unequal length: {', '.join(f'{name} {size}' for name, size in sizes.items())}."
            )
        return pd.DataFrame(value)
    if all(isinstance(column, dict) for column in value.values()):
        return pd.DataFrame({name: by_index(column) for name, column in value.items()}).reset_index(drop=True)
    inner = [
        part
        for part in value.values()
        if isinstance(part, list) and part and all(isinstance(row, dict) for row in part)
    ]
    return pd.DataFrame(inner[0]) if len(inner) == 1 else None


def _kind(value: Any) -> str:
    kinds = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "a truth value",
        int: "a number",
        float: "a number",
    }
    return kinds.get(type(value), "nothing")
