"""From a table and a config to a dataset: every check of the data itself is here, with the row it found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from layerwise.data.columns import SPLIT_NAMES, choose_columns
from layerwise.data.config import DatasetConfig
from layerwise.data.dataset import TextDataset
from layerwise.data.labels import is_missing, is_unlabelled, read_labels
from layerwise.data.subset import matching, shrink
from layerwise.data.table import Table, row_name
from layerwise.data.templates import in_wordings
from layerwise.data.token_labels import Piece, from_spans, from_words, read_spans, tag_classes
from layerwise.errors import UserError, unknown


def from_frame(
    frame: pd.DataFrame | Mapping[str, Any], config: DatasetConfig | None = None, name: str = "frame"
) -> TextDataset:
    """A dataset from a pandas frame, or from columns as a dict of lists.

    >>> from_frame({"text": ["good film", "bad film"], "label": [1, 0]}).labels
    array([1, 0])
    """
    rows = frame.reset_index(drop=True) if isinstance(frame, pd.DataFrame) else pd.DataFrame(dict(frame))
    return build(Table(rows), config or DatasetConfig(name=name))


def build(table: Table, config: DatasetConfig, drop_incomplete: bool = False) -> TextDataset:
    """The dataset a table holds, checked.

    Args:
        drop_incomplete: leave out rows without a text or label, and count them in a note, instead of refusing them.

    Raises:
        UserError: for a column that is missing or unclear, an empty text, a missing or unfit label, one class only, a repeated
            id, a group in two given splits; with the row where there is one.
    """
    columns = choose_columns(table, config)
    frame = matching(table.frame, config.where)
    notes = list(table.notes)
    if drop_incomplete:
        whole = ~np.logical_or.reduce(
            [frame[columns[role]].map(missing).to_numpy(bool) for role, missing in _MISSING.items() if role in columns]
            or [np.zeros(len(frame), bool)]
        )
        if not whole.all():
            notes.append(f"{int((~whole).sum())} rows without a text or label were dropped.")
        frame = frame[whole]
    if "split" in columns:
        frame = _named_splits(frame, columns["split"])
    if frame.empty:
        raise UserError(f"dataset {config.name!r} has no rows{' that match' if config.where else ''}.")
    dataset = only_splits(_assemble(table, frame, columns, config, notes), config.split)
    dataset = shrink(dataset, config.limit, config.balance, config.seed)
    check(dataset)
    return in_wordings(dataset, config.templates)


def _assemble(
    table: Table, frame: pd.DataFrame, columns: dict[str, str], config: DatasetConfig, notes: list[str]
) -> TextDataset:
    """The dataset of the rows in ``frame``, each column in its role."""

    def texts_of(role: str) -> tuple[str, ...] | None:
        return tuple(_texts(frame, columns[role])) if role in columns else None

    content: dict[str, Any] = {}
    pieces: list[list[Piece]] | None = None
    if "words" in columns:
        texts, pieces = from_words(frame, columns["words"], columns["tags"])
        known = table.names.get(columns["tags"], ())
    else:
        texts = _texts(frame, columns["text"])
        if "token_spans" in columns:
            pieces = from_spans(frame, columns["token_spans"], texts)
        known = table.names.get(columns.get("token_spans", ""), ())
    if pieces is not None:
        content["token_labels"], content["label_names"] = tag_classes(pieces, config.labels.names, known)
        content["task"] = "tokens"
    elif "label" in columns:
        rules = config.labels
        if table.chosen.get("task") and rules.task is None and rules.classes is None:
            rules = type(rules)(task=table.chosen["task"], names=rules.names)
        labels = read_labels(frame, columns["label"], rules, table.names.get(columns["label"], ()))
        content |= {"labels": labels.values, "task": labels.task, "label_names": labels.names}
    elif config.labels.task not in (None, "unlabelled"):
        raise UserError(
            f"labels.task={config.labels.task} needs labels; name their column with label=…, or columns.words and columns.tags."
        )
    if "negation" in columns:
        content["contrast"] = tuple(zip(texts, _texts(frame, columns["negation"]), strict=True))
    if "span" in columns:
        content["spans"] = read_spans(frame, columns["span"], texts)
    if "group" in columns:
        content["groups"] = _named(frame, columns["group"], "group")
    if "template" in columns:
        content["templates"] = _named(frame, columns["template"], "template")
    if "id" in columns:
        content["ids"] = _ids(frame, columns["id"])
    if "split" in columns:
        content["split"] = frame[columns["split"]].to_numpy(dtype=str)
    return TextDataset(
        name=short_name(config.name), texts=tuple(texts), pairs=texts_of("pair"), notes=tuple(notes),
        source=table.source or config.name, licence=table.licence, **content,
    )  # fmt: skip


def short_name(name: str) -> str:
    """What a person calls the dataset: the name without the folders it lies in, without ``hub:`` and without a suffix."""
    if name.startswith("hub:"):
        return name.removeprefix("hub:")
    path = Path(name)
    return (path.stem if path.is_file() else path.name) or path.resolve().name


def check(dataset: TextDataset) -> None:
    """Raise UserError where a dataset cannot be probed: one class only, constant targets, a group in two given splits."""
    if dataset.task in ("classification", "tokens"):
        if dataset.labels is not None:
            found = np.unique(dataset.labels)
        else:
            found = np.unique([label for row in dataset.token_labels or () for _, _, label in row])
        if len(found) < 2:
            only = f" ({dataset.label_names[int(found[0])]!r})" if len(found) else ""
            raise UserError(
                f"dataset {dataset.name!r} has only one class{only} in its {len(dataset)} rows; a probe needs at least two."
            )
    if dataset.task == "regression" and dataset.labels is not None and np.ptp(dataset.labels) == 0:
        raise UserError(
            f"dataset {dataset.name!r}: every target is {dataset.labels[0]:g}; a probe needs targets that differ."
        )
    if dataset.groups is not None and dataset.split is not None:
        pairs = pd.DataFrame({"group": dataset.groups, "split": dataset.split}).drop_duplicates()
        crossing = pairs[pairs["group"].duplicated(keep=False)]
        if len(crossing):
            group = crossing["group"].iloc[0]
            inside = ", ".join(crossing.loc[crossing["group"] == group, "split"])
            raise UserError(
                f"dataset {dataset.name!r}: group {group!s} is in several given splits ({inside}); "
                f"{crossing['group'].nunique()} groups are.\nLeave out the group column, or the splits."
            )


def only_splits(dataset: TextDataset, wanted: str | None) -> TextDataset:
    """The rows of the given splits that ``wanted`` names, joined by commas; all for None. Raises UserError for one without rows."""
    if wanted is None:
        return dataset
    if dataset.split is None:
        raise UserError(
            f"dataset {dataset.name!r} names no splits, so split={wanted!r} cannot be read. Leave it out, or name columns.split."
        )
    names = [SPLIT_NAMES.get(part.strip().lower(), part.strip()) for part in wanted.split(",")]
    for name in names:
        if name not in dataset.split:
            raise unknown("split", name, set(dataset.split.tolist()))
    return dataset.select(np.isin(dataset.split, names))


def _no_text(value: Any) -> bool:
    return not isinstance(value, list | dict | np.ndarray) and is_missing(value)


def _no_label(value: Any) -> bool:
    return not isinstance(value, list | dict | np.ndarray) and is_unlabelled(value)


_MISSING = {"text": _no_text, "label": _no_label, "pair": _no_text}


def _texts(frame: pd.DataFrame, column: str) -> list[str]:
    texts = frame[column].tolist()
    for position, text in enumerate(texts):
        if _no_text(text):
            raise UserError(
                f"{row_name(frame, position)} has an empty text (column {column!r}). Fill it in, or let `prepare` drop such rows."
            )
        if not isinstance(text, str):
            raise UserError(
                f"{row_name(frame, position)}: column {column!r} should hold text, got {type(text).__name__} {str(text)[:40]}."
            )
    return texts


def _named_splits(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """``frame`` with the usual names in its split column."""
    names = frame[column].map(lambda value: SPLIT_NAMES.get(str(value).strip().lower()))
    if names.isna().any():
        position = int(np.flatnonzero(names.isna())[0])
        raise UserError(
            f"{row_name(frame, position)}: {frame[column].iloc[position]!r} is no split (column {column!r}). Known: {', '.join(sorted(SPLIT_NAMES))}."
        )
    return frame.assign(**{column: names})


def _named(frame: pd.DataFrame, column: str, what: str) -> np.ndarray:
    for position, value in enumerate(frame[column]):
        if is_missing(value):
            raise UserError(f"{row_name(frame, position)} has no {what} (column {column!r}).")
    return frame[column].astype(str).to_numpy(dtype=str)


def _ids(frame: pd.DataFrame, column: str) -> tuple[str, ...]:
    ids = frame[column].astype(str)
    if ids.duplicated().any():
        position = int(np.flatnonzero(ids.duplicated())[0])
        raise UserError(
            f"{row_name(frame, position)} repeats the id {ids.iloc[position]!r} (column {column!r}); {int(ids.duplicated().sum())} ids are repeated."
        )
    return tuple(ids)
