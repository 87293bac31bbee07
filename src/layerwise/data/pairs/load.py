"""From a config to pairs: bundled, from a file, or from a person's own loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from layerwise.data.custom import as_table, call_loader, names_loader
from layerwise.data.pairs.bundled import BUNDLED, generate
from layerwise.data.pairs.config import PairsConfig
from layerwise.data.pairs.pairs import PromptPairs, Spans
from layerwise.errors import UserError, nearest, unknown

COLUMNS = ("clean", "corrupted", "answer", "corrupted_answer")
_READERS = {".csv": pd.read_csv, ".json": pd.read_json, ".jsonl": pd.read_json, ".parquet": pd.read_parquet}


def load_pairs(config: PairsConfig) -> PromptPairs:
    """The pairs that a config describes. Raises UserError for a name, a file or a row that is wrong."""
    found = _find(config.name)
    if config.limit is not None and config.limit < len(found):
        drawn = np.random.default_rng(config.seed).permutation(len(found))[: config.limit]
        found = found.select(np.sort(drawn))
    return found


def _find(name: str) -> PromptPairs:
    path = Path(name).expanduser()
    if name in BUNDLED:
        return generate(name)
    if path.is_file():
        return table_pairs(_read(path), path.stem)
    if names_loader(name) and path.suffix not in _READERS:
        value = call_loader(name)
        return value if isinstance(value, PromptPairs) else table_pairs(as_table(value, name).frame, name)
    if "/" in name or path.suffix:
        raise UserError(f"no file {path}.\nBundled pairs: {', '.join(BUNDLED)}.")
    raise unknown("pairs", name, BUNDLED)


def _read(path: Path) -> pd.DataFrame:
    reader: Any = _READERS.get(path.suffix)
    if reader is None:
        raise UserError(f"pairs are read from {', '.join(_READERS)}, got {path.name}.")
    options: dict[str, Any] = {"lines": True} if path.suffix == ".jsonl" else {}
    if path.suffix == ".csv":
        options = {"dtype": str, "keep_default_na": False}
    try:
        frame: pd.DataFrame = reader(path, **options)
    except (ValueError, OSError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())[:200]}") from None
    return frame


def table_pairs(frame: pd.DataFrame, name: str) -> PromptPairs:
    """Pairs from a table with the columns clean, corrupted, answer, corrupted_answer, and perhaps parts, corrupted_parts, group."""
    for column in COLUMNS:
        if column not in frame:
            raise UserError(
                f"{name} has no column {column!r}.{nearest(column, map(str, frame))}\nIts columns: {', '.join(map(str, frame))}."
            )
    texts = {column: tuple(frame[column].astype(str)) for column in COLUMNS}
    parts = {
        column: tuple(_parts(text, given, name) for text, given in zip(texts[of], frame[column], strict=True))
        if column in frame
        else ()
        for column, of in (("parts", "clean"), ("corrupted_parts", "corrupted"))
    }
    groups = frame["group"].astype(str).to_numpy() if "group" in frame else None
    return PromptPairs(
        name, texts["clean"], texts["corrupted"], texts["answer"], texts["corrupted_answer"], parts["parts"], parts["corrupted_parts"], groups
    )  # fmt: skip


def _parts(text: str, given: Any, name: str) -> Spans:
    """Named parts of a text, given as their words (a mapping, or JSON of one)."""
    try:
        named = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        raise UserError(f"{name}: parts are a mapping of names to the words of the prompt, got {given!r}.") from None
    found = {}
    for part, words in (named or {}).items():
        if words is None:
            continue
        if not words or text.count(words) != 1:
            times = text.count(words) if words else 0
            raise UserError(f"{name}: part {part!r} is {words!r}, which stands {times} times in {text[:60]!r}.")
        found[part] = (text.index(words), text.index(words) + len(words))
    return found
