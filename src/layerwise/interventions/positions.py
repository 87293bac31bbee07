"""Positions: which tokens of a text are meant, in words, and where they are in a padded batch.

    all                every real token, special ones included, never padding
    first, last        the first, the last real token
    5, -1              a token by its number among the real ones, negatives from the end
    2-5                tokens 2 to 5, both included
    0,2-4,-1           several of these
    chars:10-14        tokens that overlap these characters of the text, the end excluded
    part:subject       tokens of a named part of the prompt; part:subject:first and part:subject:last one of them
    each               a list per text, handed over at run time

Numbers count real tokens of each text, so padding, on either side, never moves them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerwise.errors import UserError, nearest

if TYPE_CHECKING:
    from layerwise.interventions.prompts import Prompts

_NUMBERS = re.compile(r"-?\d+|\d+-\d+")
_CHARS = re.compile(r"chars:(\d+)-(\d+)")
_PART = re.compile(r"part:([^:]+)(?::(first|last))?")
FORMS = "all, first, last, 5, -1, 2-5, 0,2-4, chars:10-14, part:NAME, part:NAME:last, each"

PerText = Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True)
class Positions:
    """Positions as typed, checked for their form; ``of`` finds them in a text."""

    text: str

    def __post_init__(self) -> None:
        text = self.text.strip()
        object.__setattr__(self, "text", text)
        chars = _CHARS.fullmatch(text)
        words = text in ("all", "first", "last", "each") or chars or _PART.fullmatch(text)
        if chars and int(chars[1]) >= int(chars[2]):
            raise UserError(f"the characters in {text!r} end where they begin or before.")
        if not words:
            parts = [part.strip() for part in text.split(",")]
            odd = [part for part in parts if not _NUMBERS.fullmatch(part)]
            if odd:
                raise UserError(f"cannot read the positions {text!r}.\nWrite one of: {FORMS}.")
            for part in parts:
                ends = _ends(part)
                if len(ends) == 2 and ends[0] > ends[1]:
                    raise UserError(f"the range {part} in the positions {text!r} runs backwards.")

    def of(self, index: int, length: int, prompts: Prompts) -> list[int]:
        """Which of the ``length`` real tokens of text ``index`` are meant, in order.

        Raises UserError for a number beyond the text, and for characters or a part that the text does not have.
        """
        if self.text == "all":
            return list(range(length))
        if self.text == "each":
            raise UserError(
                "positions 'each' are a list for every text: hand them over with positions={step: [[0, 3], …]}."
            )
        if chars := _CHARS.fullmatch(self.text):
            return _overlapping(index, int(chars[1]), int(chars[2]), prompts, self.text)
        if part := _PART.fullmatch(self.text):
            found = _overlapping(index, *_part(index, part[1], prompts), prompts, self.text)
            return {"first": found[:1], "last": found[-1:]}.get(part[2] or "", found)
        if self.text in ("first", "last"):
            return [0 if self.text == "first" else length - 1]
        numbers = [number for part in self.text.split(",") for number in _range(_ends(part.strip()))]
        return checked(numbers, index, length)


def checked(numbers: Sequence[int], index: int, length: int) -> list[int]:
    """Token numbers of one text, negatives counted from its end. Raises UserError for one beyond it or named twice."""
    for number in numbers:
        if not -length <= number < length:
            raise UserError(
                f"position {number} is beyond text {index}, which has {length} tokens: 0 to {length - 1} (or -{length} to -1)."
            )
    found = [int(number) % length for number in numbers]
    if len(set(found)) != len(found):
        raise UserError(f"the positions of text {index} name a token twice: {', '.join(map(str, numbers))}.")
    return found


def per_text(given: PerText, n: int, step: str) -> list[list[int]]:
    """A list of positions for each of ``n`` texts; one flat list of numbers is for all of them."""
    rows: list[Any] = list(given)
    if rows and all(isinstance(item, (int, np.integer)) for item in rows):
        rows = [rows] * n
    lists = [[int(number) for number in row] for row in rows]
    if len(lists) != n:
        raise UserError(f"{step}: {len(lists)} lists of positions for {n} texts.")
    return lists


def _ends(part: str) -> list[int]:
    return [int(part)] if re.fullmatch(r"-?\d+", part) else [int(end) for end in part.split("-")]


def _range(ends: list[int]) -> list[int]:
    return list(range(ends[0], ends[-1] + 1)) if len(ends) == 2 else ends


def _overlapping(index: int, start: int, end: int, prompts: Prompts, text: str) -> list[int]:
    if prompts.offsets is None:
        raise UserError(
            f"positions {text!r} need the texts themselves, not a batch of ids: give texts or make prompts(…)."
        )
    places = prompts.offsets[index]
    found = np.flatnonzero((places[:, 0] < end) & (places[:, 1] > start) & (places[:, 0] >= 0))
    if not len(found):
        raise UserError(f"positions {text!r}: no token of text {index} lies there (was the text cut?).")
    return [int(number) for number in found]


def _part(index: int, name: str, prompts: Prompts) -> tuple[int, int]:
    parts: Mapping[str, tuple[int, int]] = prompts.parts[index] if prompts.parts else {}
    if name not in parts:
        has = (
            f"It has: {', '.join(parts)}."
            if parts
            else "Name them: 'parts' of each row of a file of pairs, in Python prompts(model, texts, parts=[{'subject': (4, 9)}, …])."
        )
        raise UserError(f"text {index} has no part {name!r}.{nearest(name, parts)}\n{has}")
    start, end = parts[name]
    return int(start), int(end)
