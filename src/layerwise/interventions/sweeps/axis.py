"""The positions of a map: which tokens of each prompt one of its columns means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layerwise.errors import UserError
from layerwise.interventions.sweeps.asked import AskedPairs, Columns, Side

SIDES: tuple[Side, Side] = ("clean", "corrupted")


@dataclass(frozen=True)
class Place:
    """One column of a map: its label, and by side the tokens that it means in each prompt, none where a prompt has none."""

    label: str
    columns: dict[Side, Columns]


def fitting(asked: AskedPairs, positions: Sequence[str]) -> AskedPairs:
    """The pairs that have equally many tokens in both prompts at each place that positions name; the others are left out, with a note.

    Raises UserError where none is left, and for a position beyond a prompt.
    """
    rows = _fitting(asked, positions)
    if rows.all():
        return asked
    row = int(np.flatnonzero(~rows)[0])
    return asked.select(
        np.flatnonzero(rows),
        f"{int((~rows).sum())} of {len(rows)} pairs are left out, whose two prompts have different numbers of tokens at "
        f"{' or '.join(positions)}: {asked.pairs.clean[row][:70]!r} and {asked.pairs.corrupted[row][:70]!r}.",
    )


def places(asked: AskedPairs, positions: Sequence[str]) -> list[Place]:
    """The places that positions name, of pairs that fit. Raises UserError for ``tokens`` where prompts differ in length."""
    return [place for position in positions for place in _places(asked, position)]


def subject_places(asked: AskedPairs, part: str) -> list[Place]:
    """The places of causal tracing: first, middle and last token of a part, the one after it, those after that, the last one.

    Tokens before the part see none of what is done to it.
    """
    found: dict[str, dict[Side, list[tuple[int, ...]]]] = {}
    for side in SIDES:
        inside = asked.columns(side, f"part:{part}")
        for columns, length in zip(inside, asked.lengths(side), strict=True):
            last, end = columns[-1], int(length) - 1
            after = range(last + 1, end)
            named = {
                f"{part} 1st": columns[:1] if len(columns) > 1 else (),
                f"{part} mid": columns[1:-1],
                f"{part} end": (last,),
                "next": tuple(after[:1]),
                "further": tuple(after[1:]),
                "last": (end,) if end > last else (),
            }
            for label, meant in named.items():
                found.setdefault(label, {}).setdefault(side, []).append(tuple(meant))
    order = [f"{part} 1st", f"{part} mid", f"{part} end", "next", "further", "last"]
    made = [Place(label, {side: tuple(rows) for side, rows in found[label].items()}) for label in order]
    return [place for place in made if any(place.columns["clean"])]


def _fitting(asked: AskedPairs, positions: Sequence[str]) -> np.ndarray:
    """(n,) True for the pairs whose prompts have equally many tokens at each place."""
    fits = np.ones(len(asked), dtype=bool)
    for position in positions:
        if position == "tokens":
            fits &= asked.lengths("clean") == asked.lengths("corrupted")
            continue
        for place in _parts(asked) if position == "parts" else [_typed(asked, position)]:
            both = zip(place.columns["clean"], place.columns["corrupted"], strict=True)
            fits &= np.array([len(one) == len(other) for one, other in both])
    return fits


def _places(asked: AskedPairs, position: str) -> list[Place]:
    if position == "tokens":
        return _tokens(asked)
    return _parts(asked) if position == "parts" else [_typed(asked, position)]


def _typed(asked: AskedPairs, position: str) -> Place:
    return Place(position, {side: asked.columns(side, position) for side in SIDES})


def _tokens(asked: AskedPairs) -> list[Place]:
    lengths = np.unique(asked.lengths("clean"))
    if len(lengths) > 1:
        raise UserError(
            f"positions: tokens needs prompts of one length, and those of {asked.pairs.name} have {lengths[0]} to {lengths[-1]} tokens.\n"
            "Say positions: parts, or name some, such as part:subject:last or last."
        )
    found = []
    parts = {name: asked.columns("clean", f"part:{name}")[0] for name in asked.pairs.parts[0]}
    words = [asked.words("clean", row) for row in range(len(asked))]
    for column in range(int(lengths[0])):
        own = {row[column] for row in words}
        names = [name for name, columns in parts.items() if column in columns]
        word = words[0][column].strip() if len(own) == 1 else names[0] if names else "·"
        found.append(Place(f"{column} {word}", dict.fromkeys(SIDES, ((column,),) * len(asked))))
    return found


def _parts(asked: AskedPairs) -> list[Place]:
    """Named parts in the order of the first prompt, what stands behind each of them, and the last token by itself."""
    names = sorted(asked.pairs.parts[0], key=lambda name: asked.pairs.parts[0][name])
    if not names:
        raise UserError(
            f"the prompts of {asked.pairs.name} have no named parts.\nSay positions: tokens, last, or a number; or name parts in the data."
        )
    labels = ["before", *(label for name in names for label in (name, f"after {name}")), "last"]
    found: dict[str, dict[Side, list[tuple[int, ...]]]] = {label: {side: [] for side in SIDES} for label in labels}
    for side in SIDES:
        inside = {name: asked.columns(side, f"part:{name}") for name in names}
        for row, length in enumerate(asked.lengths(side)):
            of = {column: name for name in names for column in inside[name][row]}
            meant: dict[str, list[int]] = {label: [] for label in labels}
            behind = "before"
            for column in range(int(length) - 1):
                if column in of:
                    behind = f"after {of[column]}"
                meant[of.get(column, behind)].append(column)
            meant["last"].append(int(length) - 1)
            for label in labels:
                found[label][side].append(tuple(meant[label]))
    made = [Place(label, {side: tuple(rows) for side, rows in found[label].items()}) for label in labels]
    return [place for place in made if any(place.columns["clean"])]
