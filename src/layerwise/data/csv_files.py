"""CSV and TSV, with or without a header. Cells stay text; what they mean is decided where labels are read."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import pandas as pd

from layerwise.errors import UserError


def read_separated(path: Path, text: str, wanted: Collection[str]) -> pd.DataFrame:
    """The rows of a CSV or TSV file, all cells text; columns without a header are called ``column_1``, ``column_2``, ….

    Args:
        wanted: column names the config asks for; they tell a header from a first row.
    """
    first_line = text.lstrip().split("\n", 1)[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first_line.count)
    csv.field_size_limit(2**31 - 1)
    rows = [
        row
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=_quoting(separator, text))
        if row
    ]
    header = rows.pop(0) if _has_header(rows, wanted) else [f"column_{place}" for place in range(1, len(rows[0]) + 1)]
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise UserError(
                f"{path}, row {number}: {len(row)} cells where {len(header)} are wanted ({', '.join(header)}).\n"
                "A cell that contains the separator or a line break must stand in double quotes."
            )
    if len(set(header)) < len(header):
        raise UserError(f"{path}: two columns have the same name: {', '.join(header)}.")
    if not rows:
        raise UserError(f"{path} has a header ({', '.join(header)}) and no rows.")
    return pd.DataFrame(rows, columns=header, dtype=object)


def _quoting(separator: str, text: str) -> Literal[0, 3]:
    """Whether quotes mean anything: always in CSV; in TSV only where every quoted cell also ends in a quote, for there a
    quote is more often a mark inside a message."""
    if separator != "\t":
        return csv.QUOTE_MINIMAL
    cells = [cell for line in text.split("\n") for cell in line.rstrip("\r").split("\t") if cell.startswith('"')]
    return (
        csv.QUOTE_MINIMAL if cells and all(len(cell) > 1 and cell.endswith('"') for cell in cells) else csv.QUOTE_NONE
    )


def _has_header(rows: list[list[str]], wanted: Collection[str]) -> bool:
    """Whether the first row names columns: short distinct words that do not come back below."""
    first, below = rows[0], rows[1:200]
    if any(cell in wanted for cell in first):
        return True
    if any(
        not cell or len(cell) > 40 or len(cell.split()) > 3 or cell.replace(".", "", 1).lstrip("-").isdigit()
        for cell in first
    ):
        return False
    if any(name.startswith("column_") for name in wanted) or len(set(first)) < len(first):
        return False
    return not any(cell == row[place] for place, cell in enumerate(first) for row in below if place < len(row))
