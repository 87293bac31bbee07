"""A dataset in a folder, as ``prepare`` leaves it: rows in one file per split, everything about them in ``card.json``.

Reading it back gives the same dataset, bit for bit: the digest in the card is checked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from layerwise.data.dataset import SPLITS, TextDataset
from layerwise.data.json_files import read_json_lines
from layerwise.data.reading import read_text
from layerwise.errors import UserError

CARD = "card.json"
FORMAT = "layerwise dataset 1"
WHOLE = "data"


def is_saved(folder: Path) -> bool:
    """Whether ``folder`` was written by ``write_rows`` with its card."""
    card = folder / CARD
    return card.is_file() and FORMAT in card.read_text(encoding="utf-8", errors="replace")


def write_rows(dataset: TextDataset, folder: Path, format: str) -> dict[str, dict[str, Any]]:
    """Write one file per split (``data`` where there are none) and return, by split, its file and its row numbers.

    The row numbers are what puts the rows back in order.
    """
    rows = _records(dataset)
    splits = dataset.split if dataset.split is not None else np.full(len(dataset), WHOLE)
    parts: dict[str, dict[str, Any]] = {}
    for name in (*SPLITS, WHOLE):
        places = np.flatnonzero(splits == name)
        if not len(places):
            continue
        file = folder / f"{name}.{format}"
        chosen = [rows[place] for place in places]
        if format == "parquet":
            pd.DataFrame(chosen).to_parquet(file, index=False)
        else:
            with file.open("w", encoding="utf-8") as handle:
                handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
        contiguous = len(places) == places[-1] - places[0] + 1
        order = [int(places[0]), int(places[-1]) + 1] if contiguous else places.tolist()
        parts[name] = {"file": file.name, "rows": len(places), "range" if contiguous else "order": order}
    return parts


def restore(folder: Path) -> TextDataset:
    """The dataset in ``folder``. Raises UserError when a file is missing or damaged, or the content is not what was written."""
    card = read_card(folder)
    try:
        rows: list[dict[str, Any] | None] = [None] * card["rows"]
        for part in card["parts"].values():
            for place, row in zip(_places(part), _read_part(folder / part["file"]), strict=True):
                rows[place] = row
        dataset = _from_records([row for row in rows if row is not None], card)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise UserError(f"{folder} is damaged: its files do not fit its card ({error}). Prepare it again.") from None
    if dataset.digest() != card["digest"]:
        raise UserError(
            f"{folder} was changed after it was written: its content is not what {CARD} says.\n"
            f"Prepare it again, or remove {CARD} to read the files as they are."
        )
    return dataset


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a dataset that was written. Raises UserError when it is damaged."""
    try:
        card: dict[str, Any] = json.loads(read_text(folder / CARD)[0])
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / CARD} is damaged (line {error.lineno}). Prepare the dataset again.") from None
    return card


def _places(part: dict[str, Any]) -> list[int]:
    return list(range(*part["range"])) if "range" in part else part["order"]


def _read_part(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".parquet":
        try:
            frame = pd.read_parquet(file)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {file} as Parquet: {str(error).splitlines()[0]}") from None
        return [dict(zip(map(str, frame.columns), row, strict=True)) for row in frame.itertuples(index=False)]
    rows = read_json_lines(file, read_text(file)[0]).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def _records(dataset: TextDataset) -> list[dict[str, Any]]:
    """One dict per row. Class ids are written with their names beside, so that the files make sense by themselves."""
    rows: list[dict[str, Any]] = []
    for place, text in enumerate(dataset.texts):
        row: dict[str, Any] = {"text": text}
        if dataset.pairs is not None:
            row["pair"] = dataset.pairs[place]
        if dataset.labels is not None:
            row["label"] = dataset.labels[place].item()
            if dataset.task == "classification":
                row["label_name"] = dataset.label_names[row["label"]]
        if dataset.token_labels is not None:
            row["tokens"] = [list(piece) for piece in dataset.token_labels[place]]
        if dataset.groups is not None:
            row["group"] = dataset.groups[place].item()
        if dataset.contrast is not None:
            row["contrast"] = list(dataset.contrast[place])
        if dataset.spans is not None:
            row["span"] = dataset.spans[place].tolist()
        if dataset.ids is not None:
            row["id"] = dataset.ids[place]
        if dataset.templates is not None:
            row["template"] = dataset.templates[place].item()
        rows.append(row)
    return rows


def _from_records(rows: list[dict[str, Any]], card: dict[str, Any]) -> TextDataset:
    """The inverse of ``_records``; splits come from the card."""

    def column(name: str) -> list[Any] | None:
        return [row[name] for row in rows] if rows and name in rows[0] else None

    tokens, contrast, labels, groups, spans = (
        column(name) for name in ("tokens", "contrast", "label", "group", "span")
    )
    split = None
    if WHOLE not in card["parts"]:
        split = np.empty(len(rows), dtype="<U10")
        for name, part in card["parts"].items():
            split[_places(part)] = name
    return TextDataset(
        name=card["name"],
        texts=tuple(row["text"] for row in rows),
        labels=None if labels is None else np.array(labels),
        task=card["task"],
        label_names=tuple(card["label_names"]),
        pairs=None if (pairs := column("pair")) is None else tuple(pairs),
        split=split,
        groups=None if groups is None else np.array(groups),
        contrast=None if contrast is None else tuple((str(first), str(second)) for first, second in contrast),
        token_labels=None
        if tokens is None
        else tuple(tuple((int(a), int(b), int(c)) for a, b, c in row) for row in tokens),
        spans=None if spans is None else np.array([list(span) for span in spans]),
        ids=None if (ids := column("id")) is None else tuple(ids),
        templates=None if (templates := column("template")) is None else np.array(templates, dtype=str),
        notes=tuple(card["notes"]),
        source=card["source"],
        licence=card["licence"],
    )
