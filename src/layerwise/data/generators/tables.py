"""The facts the generators are made of: small tab-separated tables beside this file."""

from __future__ import annotations

import csv
from importlib.resources import files


def read_table(name: str) -> list[dict[str, str]]:
    """The rows of ``name``.tsv, each a dict by column name."""
    text = files("layerwise.data.generators").joinpath(f"{name}.tsv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def listed(cell: str) -> list[str]:
    """The entries of a cell that holds several, separated by commas."""
    return [entry.strip() for entry in cell.split(",")]
