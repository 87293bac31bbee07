"""Cleaning: spaces around texts, repeated rows, rows that contradict each other; with a count of everything that went."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, replace

import numpy as np

from layerwise.data.dataset import SPLITS, TextDataset


@dataclass(frozen=True)
class CleaningReport:
    """Rows before and after, and what became of the others."""

    rows_before: int
    stripped: int
    empty: int
    duplicates: int
    across_splits: int
    conflicting: int
    rows_after: int

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def clean(dataset: TextDataset) -> tuple[TextDataset, CleaningReport]:
    """The dataset without what spoils a measurement, and the report.

    Spaces around texts go (spans move along). Rows without text go. Of rows equal in text, pair and label the first stays; where
    they stand in several splits, one in the test part stays (then validation, then train), so that nothing tested was trained
    on. Rows equal in text and pair with different labels all go: nobody can say which is right.
    """
    stripped = _strip(dataset)
    changed = sum(before != after for before, after in zip(dataset.texts, stripped.texts, strict=True))
    filled = stripped.select([row for row, text in enumerate(stripped.texts) if text])
    keep, repeated, across, conflicting = _distinct(filled)
    result = filled.select(keep)
    return result, CleaningReport(
        rows_before=len(dataset), stripped=changed, empty=len(dataset) - len(filled), duplicates=repeated,
        across_splits=across, conflicting=conflicting, rows_after=len(result),
    )  # fmt: skip


def _strip(dataset: TextDataset) -> TextDataset:
    lead = [len(text) - len(text.lstrip()) for text in dataset.texts]
    spans, tokens = dataset.spans, dataset.token_labels
    texts = tuple(text.strip() for text in dataset.texts)
    if spans is not None:
        spans = np.clip(spans - np.array(lead)[:, None], 0, np.array([len(text) for text in texts])[:, None])
    if tokens is not None:
        tokens = tuple(
            tuple((start - by, end - by, label) for start, end, label in row)
            for row, by in zip(tokens, lead, strict=True)
        )
    pairs = None if dataset.pairs is None else tuple(pair.strip() for pair in dataset.pairs)
    contrast = (
        None
        if dataset.contrast is None
        else tuple((first.strip(), second.strip()) for first, second in dataset.contrast)
    )
    return replace(dataset, texts=texts, pairs=pairs, spans=spans, token_labels=tokens, contrast=contrast)


def _distinct(dataset: TextDataset) -> tuple[np.ndarray, int, int, int]:
    """Rows to keep, ascending; how many repeat a row of their own split, of another split, and contradict another."""
    same: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, text in enumerate(dataset.texts):
        same[text, dataset.pairs[row] if dataset.pairs is not None else ""].append(row)
    keep, repeated, across, conflicting = [], 0, 0, 0
    for rows in same.values():
        if len({_label(dataset, row) for row in rows}) > 1:
            conflicting += len(rows)
            continue
        best = max(rows, key=lambda row: (_rank(dataset, row), -row))
        keep.append(best)
        inside = sum(_rank(dataset, row) == _rank(dataset, best) for row in rows) - 1
        repeated += inside
        across += len(rows) - 1 - inside
    return np.sort(np.array(keep, dtype=np.int64)), repeated, across, conflicting


def _label(dataset: TextDataset, row: int) -> object:
    label = dataset.labels[row].item() if dataset.labels is not None else None
    return label, dataset.token_labels[row] if dataset.token_labels is not None else None


def _rank(dataset: TextDataset, row: int) -> int:
    return SPLITS.index(str(dataset.split[row])) if dataset.split is not None else 0
