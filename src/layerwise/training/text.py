"""Texts to train on, read from a person's files and split into training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from layerwise.data.columns import split_of
from layerwise.data.folders import is_data
from layerwise.data.reading import TEXT_SUFFIXES, read_table, read_text
from layerwise.errors import UserError, nearest
from layerwise.training.data_config import FilesData

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Texts:
    """The samples of each part, and notes on how they were read."""

    parts: dict[str, Sequence[str]]
    notes: tuple[str, ...] = ()


def find_files(path: str | tuple[str, ...]) -> list[Path]:
    """The data files that are named or lie in the folders that are named, in order. Raises UserError where there are none."""
    found: list[Path] = []
    for name in (path,) if isinstance(path, str) else path:
        place = Path(name).expanduser()
        if place.is_dir():
            inside = [file for file in sorted(place.rglob("*")) if is_data(file)]
            if not inside:
                raise UserError(f"{place} holds no text or table files.")
            found += inside
        elif place.is_file():
            found.append(place)
        else:
            there = [entry.name for entry in place.parent.iterdir()] if place.parent.is_dir() else []
            raise UserError(f"no file or folder {place} (data.path).{nearest(place.name, there)}")
    return found


def read_files(data: FilesData) -> Texts:
    """The samples in the files, in their order; blank lines are none.

    Raises UserError for an empty or binary file, a missing column, and texts too few to be split.
    """
    files = find_files(data.path)
    named = {file: split_of(file.stem) for file in files}
    has_parts = len(files) > 1 and all(named.values()) and "train" in named.values()
    parts: dict[str, list[str]] = {name: [] for name in PARTS}
    notes: list[str] = []
    for file in files:
        texts, said = read_samples(file, data)
        parts[(named[file] or "train") if has_parts else "train"] += texts
        notes += said
    return split_texts({name: texts for name, texts in parts.items() if texts}, data, notes)


def read_samples(file: Path, data: FilesData) -> tuple[list[str], tuple[str, ...]]:
    """The samples of one file, and notes."""
    if file.suffix.lower() not in TEXT_SUFFIXES:
        table = read_table(file, (data.text,))
        if data.text not in table.frame.columns:
            columns = [str(name) for name in table.frame.columns]
            raise UserError(f"{file} has no column {data.text!r} (data.text). Columns: {', '.join(columns)}.")
        return [str(text) for text in table.frame[data.text] if isinstance(text, str) and text.strip()], table.notes
    text, notes = read_text(file)
    if not text.strip():
        raise UserError(f"{file} is empty: there is nothing to train on.")
    if data.sample == "document":
        return [text], notes
    return [line for line in text.splitlines() if line.strip()], notes


def split_texts(parts: dict[str, list[str]], data: FilesData, notes: Sequence[str] = ()) -> Texts:
    """Training, validation and test: as given, or cut from the end of the training samples by their shares, in order.

    A single sample is itself cut, by characters.
    """
    train = parts.get("train", [])[: data.limit]
    said = list(notes)
    held: dict[str, Sequence[str]] = {name: parts[name][: data.limit] for name in PARTS[1:] if name in parts}
    for name, share in (("test", data.test), ("validation", data.validation)):
        if name in held or not share:
            continue
        whole = 1 - (data.test if name == "validation" and "test" not in parts else 0.0)
        train, held[name] = _cut(train, share / whole, name)
    if "validation" not in held:
        raise UserError("there are no validation texts: set data.validation above 0, or give a file named validation.")
    return Texts({"train": train, **{name: held[name] for name in PARTS[1:] if name in held}}, tuple(said))


def _cut(samples: list[str], share: float, name: str) -> tuple[list[str], list[str]]:
    if len(samples) == 1:
        text = samples[0]
        place = int(len(text) * (1 - share))
        first, second = [text[:place]], [text[place:]]
    else:
        place = int(len(samples) * (1 - share))
        first, second = samples[:place], samples[place:]
    if not (first and first[0]) or not (second and second[0]):
        raise UserError(
            f"{len(samples)} sample{'' if len(samples) == 1 else 's'} are too few to hold out {share:.0%} for {name}. "
            f"Give more text, or another data.{name}."
        )
    return first, second
