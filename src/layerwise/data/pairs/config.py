"""Which pairs of prompts, and how many of them. Imports nothing heavy: ``--help`` reads this module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from layerwise.errors import UserError, check_seed


@dataclass(frozen=True)
class PairsConfig:
    """Pairs of prompts: a clean one, a corrupted one, and what follows each.

    name: bundled pairs (``ioi``, ``agreement``, ``facts``, ``arithmetic``); a CSV, JSON, JSON Lines or Parquet file with the columns clean,
        corrupted, answer, corrupted_answer and, if it names parts of prompts, parts and corrupted_parts (name to text); or a loader as
        ``file.py:function`` that returns such a table.
    limit: keep at most so many pairs, drawn with ``seed``.
    seed: of the draw.
    """

    shorthand: ClassVar[str] = "name"

    name: str = "ioi"
    limit: int | None = 16
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not self.name.strip():
            raise UserError("the name of the pairs is empty: name bundled pairs (ioi) or a file.")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"pairs.limit must be at least 1, got {self.limit}.")
