"""The one form every dataset takes: texts with labels, and what belongs to each text.

How it is read from files lives in the readers, how it is divided in ``splits``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from layerwise.errors import UserError
from layerwise.files import canonical_json

Task = Literal["classification", "regression", "tokens", "unlabelled"]
TokenLabels = tuple[tuple[int, int, int], ...]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class TextDataset:
    """``n`` texts, their labels, and what belongs to each of them.

    Attributes:
        name: for people; not part of the digest.
        texts: ``n`` texts.
        labels: ``(n,)`` int64 class ids, or float64 targets; None for ``tokens`` and ``unlabelled``.
        task: what the labels are.
        label_names: class names by class id (``classification`` and ``tokens``).
        pairs: the second text of each text pair.
        split: ``(n,)`` of ``train``, ``validation``, ``test``.
        groups: ``(n,)`` strings or int64; rows of one group never cross a split or fold.
        contrast: per row (statement, its negation), for contrast-consistent search.
        token_labels: per text, ``(start character, end character, class id)`` of its labelled pieces.
        spans: ``(n, 2)`` int64 character span of each text, for the span pooler.
        ids: a name for each row, none repeated.
        templates: ``(n,)`` strings, the wording each text is in; rows of one wording have the same.
        notes: what the reader had to do that a person should know; not part of the digest.
        source, licence: where it comes from and under which licence, where known; not part of the digest.
    """

    name: str
    texts: tuple[str, ...]
    labels: np.ndarray | None = None
    task: Task = "unlabelled"
    label_names: tuple[str, ...] = ()
    pairs: tuple[str, ...] | None = None
    split: np.ndarray | None = None
    groups: np.ndarray | None = None
    contrast: tuple[tuple[str, str], ...] | None = None
    token_labels: tuple[TokenLabels, ...] | None = None
    spans: np.ndarray | None = None
    ids: tuple[str, ...] | None = None
    templates: np.ndarray | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)
    source: str | None = field(default=None, compare=False)
    licence: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        def fix(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        fix("texts", tuple(self.texts))
        fix("label_names", tuple(str(name) for name in self.label_names))
        if self.labels is not None:
            fix("labels", np.asarray(self.labels, dtype=np.int64 if self.task == "classification" else np.float64))
        if self.groups is not None:
            groups = np.asarray(self.groups)
            fix("groups", groups.astype(np.int64) if groups.dtype.kind in "iub" else groups.astype(str))
        if self.split is not None:
            fix("split", np.asarray(self.split).astype("<U10"))
        if self.templates is not None:
            fix("templates", np.asarray(self.templates).astype(str))
        if self.spans is not None:
            fix("spans", np.asarray(self.spans, dtype=np.int64).reshape(-1, 2))
        for name in ("pairs", "contrast", "token_labels", "ids"):
            if getattr(self, name) is not None:
                fix(name, tuple(getattr(self, name)))
        self._check()

    def _check(self) -> None:
        for name, column in self._columns().items():
            if len(column) != len(self.texts):
                raise UserError(f"dataset {self.name!r}: {len(self.texts)} texts but {len(column)} {name}.")
        if self.task in ("classification", "regression") and self.labels is None:
            raise UserError(f"dataset {self.name!r}: a {self.task} task needs labels.")
        if self.task == "tokens" and self.token_labels is None:
            raise UserError(f"dataset {self.name!r}: a tokens task needs labelled spans (token_labels).")
        if self.task == "classification" and self.labels is not None and len(self.labels):
            low, high = int(self.labels.min()), int(self.labels.max())
            if low < 0 or high >= len(self.label_names):
                raise UserError(
                    f"dataset {self.name!r}: class ids {low} to {high} do not fit {len(self.label_names)} label names."
                )
        if self.split is not None and (wrong := set(self.split.tolist()) - set(SPLITS)):
            raise UserError(
                f"dataset {self.name!r}: unknown split {sorted(wrong)[0]!r}. Splits are {', '.join(SPLITS)}."
            )

    def _columns(self) -> dict[str, Sequence[Any] | np.ndarray]:
        """Everything that has one entry per text."""
        names = ("labels", "pairs", "split", "groups", "contrast", "token_labels", "spans", "ids", "templates")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def n_classes(self) -> int:
        """How many classes there are; 0 for regression and unlabelled texts."""
        return len(self.label_names)

    def select(self, indices: Sequence[int] | np.ndarray) -> TextDataset:
        """The rows at ``indices`` (or where a boolean mask is true), in that order."""
        picked = np.asarray(indices)
        rows = np.flatnonzero(picked) if picked.dtype == bool else picked.astype(np.int64)
        if len(rows) and (rows.min() < -len(self) or rows.max() >= len(self)):
            raise UserError(
                f"dataset {self.name!r} has {len(self)} rows; row {int(rows[np.abs(rows).argmax()])} was asked for."
            )
        chosen: dict[str, Any] = {
            name: column[rows] if isinstance(column, np.ndarray) else tuple(column[row] for row in rows)
            for name, column in self._columns().items()
        }
        return replace(self, texts=tuple(self.texts[row] for row in rows), **chosen)

    def digest(self) -> str:
        """sha256 (64 hex digits) over the content: everything but the name, the notes, the source and the licence.

        Two datasets have equal digests exactly when texts, labels (bit for bit), names, splits, spans, ids and
        templates are equal and rows are grouped alike, whatever the groups are called.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        content: dict[str, Any] = {"task": self.task, "texts": self.texts, "label_names": self.label_names}
        for name, column in self._columns().items():
            content[name] = column.tolist() if isinstance(column, np.ndarray) else column
        if self.labels is not None and self.task == "regression":
            content["labels"] = [float(label).hex() for label in self.labels]
        if self.groups is not None:
            _, first, codes = np.unique(self.groups, return_index=True, return_inverse=True)
            content["groups"] = np.argsort(np.argsort(first))[codes].tolist()
        return hashlib.sha256(canonical_json(content).encode("utf-8", "surrogatepass")).hexdigest()
