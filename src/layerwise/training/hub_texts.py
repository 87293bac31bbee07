"""Texts of the hub and of folders with a copy, through ``datasets``: whole, or streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import constants

from layerwise.data.columns import split_of
from layerwise.data.mappings import CONVERTED
from layerwise.errors import UserError, unknown
from layerwise.models.hub import offline
from layerwise.training.data_config import HubData
from layerwise.training.text_catalogue import CATALOGUE, HubText

Rows = Iterable[Mapping[str, Any]]


def source_of(data: HubData) -> HubText:
    """The source the settings name. Raises UserError for an unknown form, and for a copy or stream that needs more said."""
    if data.form is not None and data.form not in CATALOGUE:
        raise unknown("form (data.form)", data.form, CATALOGUE)
    if data.form is not None and not _folder(data):
        raise UserError(f"data.form says what a folder is a copy of, and {data.name} is no folder.")
    source = CATALOGUE.get(data.form or data.name)
    if source is None:
        if not _folder(data) and "/" not in data.name:
            raise unknown("text", data.name, [*CATALOGUE, "owner/name", "a folder"])
        source = HubText(data.name, by_language=bool(data.languages))
    if data.languages and not source.by_language:
        raise UserError(f"{data.form or data.name} has no languages to choose from (data.languages).")
    if source.large and not (_folder(data) or data.streaming or data.limit):
        raise UserError(
            f"{data.name} has {source.large}: set data.streaming to true, or data.limit to a number of samples."
        )
    return source


def hub_texts(data: HubData) -> dict[str, dict[str, Callable[[], Iterator[str]]]]:
    """For each language ('' where none is chosen) its parts, each a function that begins its documents anew.

    Parts have the names train, validation and test where the source has them.
    Raises UserError for a source, configuration or column that is not there, and where the hub cannot be reached.
    """
    source = source_of(data)
    languages = data.languages or ("",)
    return {language: _language(data, source, language) for language in languages}


def _language(data: HubData, source: HubText, language: str) -> dict[str, Callable[[], Iterator[str]]]:
    streamed = data.streaming or (source.large is not None and not _folder(data))
    parts = _load(data, source, language, streamed)
    found: dict[str, Callable[[], Iterator[str]]] = {}
    for name, rows in parts.items():
        part = split_of(name) or ("train" if len(parts) == 1 else None)
        if part is not None and part not in found:
            found[part] = _documents(rows, data, source)
    if "train" not in found:
        raise UserError(f"{data.name} has no part to train on; its parts: {', '.join(parts)}.")
    return found


def _documents(rows: Rows, data: HubData, source: HubText) -> Callable[[], Iterator[str]]:
    text = data.text or source.text

    def documents() -> Iterator[str]:
        texts = (text_of(row, text, data.name) for row in rows)
        return (document for document in source.tidy(texts) if document.strip())

    return documents


def text_of(row: Mapping[str, Any], text: str | Callable[[Mapping[str, Any]], str], name: str) -> str:
    """The text of a row: a column, a template of columns, or what a function makes of it. Raises UserError for a missing column."""
    try:
        if callable(text):
            return text(row)
        return text.format_map(row) if "{" in text else str(row[text] or "")
    except (KeyError, IndexError, ValueError) as error:
        wanted = repr(text) if isinstance(text, str) else str(error)
        raise UserError(
            f"{name} has not the columns for {wanted} (data.text). Columns: {', '.join(map(str, row))}."
        ) from None


def _folder(data: HubData) -> Path | None:
    place = Path(data.name).expanduser()
    return place if place.is_dir() else None


def _load(data: HubData, source: HubText, language: str, streamed: bool) -> dict[str, Rows]:
    """The parts of one language by the source's own names for them."""
    folder = _folder(data)
    repo, subset = source.repos.get(language, (source.repo, language or data.subset or source.subset))
    named = f"{folder or repo}{f' ({language or subset})' if language or subset else ''}"
    try:
        if folder is not None:
            return _copy(folder / language if language else folder, streamed)
        with _asking_the_cache_alone(offline()):
            if streamed:
                return dict(datasets.load_dataset(repo, subset, revision=source.revision, streaming=True))
            if source.revision == CONVERTED:
                return dict(datasets.load_dataset(repo, data_dir=subset or "default", revision=source.revision))
            return dict(datasets.load_dataset(repo, subset, revision=source.revision))
    except ConnectionError as error:
        raise UserError(
            f"the hub cannot be reached, and {named} is not in its cache ({error}).\n"
            f"Connect, or copy it to a folder: data.name=FOLDER data.form={data.form or data.name}."
        ) from None
    except (datasets.exceptions.DatasetsError, FileNotFoundError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot load {named}: {str(error).splitlines()[0]}") from None


@contextmanager
def _asking_the_cache_alone(yes: bool) -> Iterator[None]:
    """Where there is no way to the hub, it is not asked: that would take half a minute of retries."""
    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    if yes:
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _copy(folder: Path, streamed: bool) -> dict[str, Rows]:
    if not folder.is_dir():
        there = sorted(entry.name for entry in folder.parent.iterdir() if entry.is_dir())
        raise unknown("language (data.languages)", folder.name, there)
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        loaded = datasets.load_from_disk(str(folder))
        parts = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
        return {name: part.to_iterable_dataset() for name, part in parts.items()} if streamed else parts
    return dict(datasets.load_dataset(str(folder), streaming=streamed))
