"""One file read into a table, by its suffix: JSON, JSON lines, CSV, TSV, Parquet, CoNLL-U and plain text."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pandas as pd

from layerwise.data.conllu import read_conllu
from layerwise.data.csv_files import read_separated
from layerwise.data.json_files import read_json, read_json_lines
from layerwise.data.table import Table
from layerwise.errors import UserError, nearest

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".conllu", ".txt")
TEXT_SUFFIXES = (".txt", ".pos", ".neg")


def read_text(path: Path) -> tuple[str, tuple[str, ...]]:
    """A text file and notes on its encoding: UTF-8 (or UTF-16 by its mark), else Windows-1252, else Latin-1.

    Raises UserError when it is missing, a folder, unreadable, or binary.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        there = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"no file {path}.{nearest(path.name, there)}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace"), (f"{path.name} is UTF-16.",)
    if b"\0" in data:
        raise UserError(f"{path} is a binary file, not text. Readable: {', '.join(SUFFIXES)}.")
    try:
        return data.decode("utf-8-sig"), ()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
    for encoding, known_as in (("cp1252", "Windows-1252"), ("latin-1", "Latin-1")):
        try:
            return data.decode(encoding), (f"{path.name} is not UTF-8 (line {line}); read as {known_as}.",)
        except UnicodeDecodeError:
            continue
    raise AssertionError("Latin-1 decodes any bytes")


def read_table(path: Path, wanted: Collection[str] = (), label: str | None = None) -> Table:
    """One file as a table, by its suffix.

    Args:
        wanted: column names the config asks for; they tell a header from a first row.
        label: what CoNLL-U should give as label.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return Table(_read_parquet(path))
    if suffix not in SUFFIXES + TEXT_SUFFIXES and path.exists():
        raise UserError(f"cannot tell what {path} holds from its suffix {suffix!r}. Readable: {', '.join(SUFFIXES)}.")
    text, notes = read_text(path)
    if not text.strip():
        raise UserError(f"{path} is empty.")
    if suffix in (".csv", ".tsv"):
        table = Table(read_separated(path, text, wanted))
    elif suffix in (".jsonl", ".ndjson"):
        table = Table(read_json_lines(path, text))
    elif suffix == ".json":
        table = read_json(path, text)
    elif suffix == ".conllu":
        table = read_conllu(path, text, label)
    else:
        table = Table(pd.DataFrame({"text": [line.strip() for line in text.split("\n") if line.strip()]}))
    return replace(table, notes=notes + table.notes)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"no file {path}.") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"cannot read {path} as Parquet: {str(error).splitlines()[0]}") from None
