"""The one form that all pairs of prompts take."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from layerwise.errors import UserError
from layerwise.files import canonical_json

Spans = Mapping[str, tuple[int, int]]


@dataclass(frozen=True, eq=False)
class PromptPairs:
    """``n`` pairs of prompts that differ in what decides the answer.

    Attributes:
        name: for people; not part of the digest.
        clean, corrupted: ``n`` prompts each.
        answers, corrupted_answers: what follows each, its leading space included (`` Mary``).
        parts, corrupted_parts: per prompt, by name, start and end character of its parts; one pair has the same names in both.
        groups: ``(n,)`` strings; pairs of one group are not independent (the same sentence the other way round).
        notes: what a person should know; not part of the digest.
        source, licence: where they come from; not part of the digest.

    Raises UserError for columns of unequal length, an empty prompt or answer, two answers that are the same, and a part beyond its prompt.
    """

    name: str
    clean: tuple[str, ...]
    corrupted: tuple[str, ...]
    answers: tuple[str, ...]
    corrupted_answers: tuple[str, ...]
    parts: tuple[Spans, ...] = ()
    corrupted_parts: tuple[Spans, ...] = ()
    groups: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    source: str | None = None
    licence: str | None = None

    def __post_init__(self) -> None:
        n = len(self.clean)
        for name in ("parts", "corrupted_parts"):
            if not getattr(self, name):
                object.__setattr__(self, name, ({},) * n)
        for name, column in self._columns().items():
            if len(column) != n:
                raise UserError(f"pairs {self.name!r}: {n} clean prompts but {len(column)} {name}.")
        if not n:
            raise UserError(f"pairs {self.name!r}: there is none.")
        for row in range(n):
            self._check(row)

    def _check(self, row: int) -> None:
        where = f"pair {row} of {self.name!r}"
        for name in ("clean", "corrupted", "answers", "corrupted_answers"):
            if not getattr(self, name)[row].strip():
                raise UserError(f"{where}: {name.removesuffix('s')} is empty.")
        if self.answers[row] == self.corrupted_answers[row]:
            raise UserError(
                f"{where}: both prompts have the answer {self.answers[row]!r}, so nothing tells them apart."
            )
        if set(self.parts[row]) != set(self.corrupted_parts[row]):
            raise UserError(f"{where}: its two prompts must have parts of the same names.")
        for text, parts in ((self.clean[row], self.parts[row]), (self.corrupted[row], self.corrupted_parts[row])):
            for name, (start, end) in parts.items():
                if not 0 <= start < end <= len(text):
                    raise UserError(
                        f"{where}: part {name!r} is characters {start} to {end} of {len(text)}: {text[:60]!r}."
                    )

    def _columns(self) -> dict[str, Sequence[Any] | np.ndarray]:
        names = ("clean", "corrupted", "answers", "corrupted_answers", "parts", "corrupted_parts", "groups")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def __len__(self) -> int:
        return len(self.clean)

    def select(self, indices: Sequence[int] | np.ndarray) -> PromptPairs:
        """The pairs at ``indices``, in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        chosen: dict[str, Any] = {
            name: column[rows] if isinstance(column, np.ndarray) else tuple(column[row] for row in rows)
            for name, column in self._columns().items()
        }
        return replace(self, **chosen)

    def reversed(self) -> PromptPairs:
        """Corrupted and clean prompts exchanged, their answers with them."""
        return replace(
            self,
            clean=self.corrupted, corrupted=self.clean, answers=self.corrupted_answers, corrupted_answers=self.answers,
            parts=self.corrupted_parts, corrupted_parts=self.parts,
        )  # fmt: skip

    def digest(self) -> str:
        """sha256 (64 hex digits) over the content: everything but name, notes, source and licence."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        content = {
            name: column.tolist() if isinstance(column, np.ndarray) else column
            for name, column in self._columns().items()
        }
        return hashlib.sha256(canonical_json(content).encode("utf-8", "surrogatepass")).hexdigest()
