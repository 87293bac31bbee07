"""Parts of a dataset: rows by their values, equally many of each class, at most so many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from layerwise.data.dataset import TextDataset
from layerwise.errors import UserError, nearest


def matching(frame: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """The rows whose columns have the wanted value, or one of the wanted values; compared as text, so 1 matches ``"1"``.

    Raises:
        UserError: for a column that is not there, or a value that no row has.
    """
    for column, wanted in where.items():
        if column not in frame.columns:
            raise UserError(
                f"where: no column {column!r}.{nearest(column, map(str, frame.columns))}\nColumns: {', '.join(map(str, frame.columns))}."
            )
        values = frame[column].map(_as_text)
        choices = [_as_text(value) for value in (wanted if isinstance(wanted, list | tuple) else [wanted])]
        there = sorted(values.unique())
        for choice in choices:
            if choice not in there:
                raise UserError(
                    f"where: no row has {column}={choice}.{nearest(choice, there)} "
                    f"It is {', '.join(there[:12])}{' …' if len(there) > 12 else ''}."
                )
        frame = frame[values.isin(choices).to_numpy()]
    return frame


def _as_text(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def shrink(dataset: TextDataset, limit: int | None, balance: bool, seed: int) -> TextDataset:
    """Balanced if wanted, then limited if wanted; rows keep their order."""
    rng = np.random.default_rng(seed)
    if balance:
        dataset = dataset.select(_balanced(dataset, rng))
    if limit is not None and limit < len(dataset):
        dataset = dataset.select(_limited(dataset, limit, rng))
    return dataset


def _balanced(dataset: TextDataset, rng: np.random.Generator) -> np.ndarray:
    """Rows with equally many of every class, in each given split by itself."""
    if dataset.task != "classification" or dataset.labels is None:
        raise UserError(
            f"dataset {dataset.name!r}: only classes can be balanced, and its task is {dataset.task}. Leave balance out."
        )
    chosen = []
    splits = dataset.split if dataset.split is not None else np.zeros(len(dataset))
    for split in np.unique(splits):
        inside = splits == split
        rows = [np.flatnonzero(inside & (dataset.labels == label)) for label in np.unique(dataset.labels)]
        fewest = min(map(len, rows))
        chosen += [rng.permutation(of_class)[:fewest] for of_class in rows]
    return np.sort(np.concatenate(chosen))


def _limited(dataset: TextDataset, limit: int, rng: np.random.Generator) -> np.ndarray:
    """``limit`` rows, every class of every given split in proportion (by largest remainder)."""
    labels = (
        dataset.labels if dataset.task == "classification" and dataset.labels is not None else np.zeros(len(dataset))
    )
    splits = dataset.split if dataset.split is not None else np.zeros(len(dataset))
    _, stratum = np.unique(
        np.array([f"{split} {label}" for split, label in zip(splits, labels, strict=True)]), return_inverse=True
    )
    wanted = np.bincount(stratum) * limit / len(dataset)
    sizes = np.floor(wanted).astype(int)
    sizes[np.argsort(sizes - wanted, kind="stable")[: limit - sizes.sum()]] += 1
    rows = [rng.permutation(np.flatnonzero(stratum == number))[:size] for number, size in enumerate(sizes)]
    return np.sort(np.concatenate(rows))
