"""Texts in a person's files and folders: lines, whole documents, rows of tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets

from layerwise.data.columns import split_of
from layerwise.data.folders import is_data
from layerwise.data.reading import TEXT_SUFFIXES, read_table, read_text
from layerwise.errors import UserError, nearest
from layerwise.training.data_config import FilesData
from layerwise.training.hub_texts import text_of

# The builders of ``datasets`` that stream a suffix.
_BUILDERS = {".txt": "text", ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


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


def file_texts(data: FilesData, notes: list[str]) -> dict[str, Callable[[], Iterator[str]]]:
    """The parts, each a function that begins its samples anew, in the order of the files; blank lines are no samples.

    Files named train, validation and test are these parts where all are named so; else all are training files.
    ``notes`` takes what is to be said about their reading.
    """
    files = find_files(data.path)
    for file in files:
        if not file.stat().st_size:
            raise UserError(f"{file} is empty: there is nothing to train on.")
    named = {file: split_of(file.stem) for file in files}
    by_name = len(files) > 1 and all(named.values()) and "train" in named.values()
    parts: dict[str, list[Path]] = {}
    for file in files:
        parts.setdefault(str(named[file]) if by_name else "train", []).append(file)
    read = _streamed if data.streaming else _whole
    return {part: read(inside, data, notes) for part, inside in parts.items()}


def _whole(files: list[Path], data: FilesData, notes: list[str]) -> Callable[[], Iterator[str]]:
    def samples() -> Iterator[str]:
        for file in files:
            found, said = _samples(file, data)
            notes.extend(said)
            yield from found

    return samples


def _samples(file: Path, data: FilesData) -> tuple[list[str], tuple[str, ...]]:
    if file.suffix.lower() not in TEXT_SUFFIXES:
        table = read_table(file, (data.text,))
        rows: list[dict[Any, Any]] = table.frame.to_dict("records")
        found = [text_of(row, data.text, str(file)) for row in rows]
        return [text for text in found if text.strip()], table.notes
    text, notes = read_text(file)
    if not text.strip():
        raise UserError(f"{file} is empty: there is nothing to train on.")
    if data.sample == "document":
        return [text], notes
    return [line.rstrip("\r") for line in text.split("\n") if line.strip()], notes


def _streamed(files: list[Path], data: FilesData, notes: list[str]) -> Callable[[], Iterator[str]]:
    """The samples read by ``datasets``, a piece of a file at a time; workers share the files among themselves."""
    suffixes = {file.suffix.lower() for file in files}
    if len(suffixes) > 1 or not suffixes <= set(_BUILDERS):
        raise UserError(
            f"a stream reads files of one kind, out of {', '.join(_BUILDERS)}; got {', '.join(sorted(suffixes))}."
        )
    builder = _BUILDERS[suffixes.pop()]
    options = {"sample_by": data.sample} if builder == "text" else {}
    rows = datasets.load_dataset(
        builder, data_files={"train": [str(file) for file in files]}, split="train", streaming=True, **options
    )
    column = "text" if builder == "text" else data.text

    def samples() -> Iterator[str]:
        try:
            texts = (text_of(row, column, str(files[0])) for row in rows)
            yield from (text for text in texts if text.strip())
        except (datasets.exceptions.DatasetsError, UnicodeDecodeError) as error:
            cause = error.__cause__ or error
            raise UserError(f"cannot read {files[0]} as a stream: {str(cause).splitlines()[0]}") from error

    return samples
