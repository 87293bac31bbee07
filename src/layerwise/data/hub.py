"""Datasets of the Hugging Face hub, and local folders of the same shape, through ``datasets``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pandas as pd

from layerwise.data.columns import SPLIT_NAMES
from layerwise.data.config import DatasetConfig
from layerwise.data.mappings import CONVERTED, MAPPINGS, Mapping
from layerwise.data.table import Table
from layerwise.errors import UserError, unknown

HUB = "hub:"


def find_mapping(config: DatasetConfig) -> Mapping | None:
    """The mapping the config names, or that belongs to its name or repository; none where it names its own columns."""
    if config.mapping is not None:
        if config.mapping not in MAPPINGS:
            raise unknown("hub mapping", config.mapping, MAPPINGS)
        return MAPPINGS[config.mapping]
    if config.name in MAPPINGS:
        return MAPPINGS[config.name]
    if config.text or config.label or config.columns.words:
        return None
    repo = config.name.removeprefix(HUB)
    return next(
        (mapping for mapping in MAPPINGS.values() if mapping.repo == repo and config.name.startswith(HUB)), None
    )


def read_hub(config: DatasetConfig) -> Table:
    """The dataset ``config`` names, from the hub or a local folder, as a table with a ``split`` column.

    Raises:
        UserError: for a dataset, configuration or split that is not there, one that is a script, or no connection.
    """
    mapping = find_mapping(config)
    parts = _load(config, mapping)
    frames, notes = {}, []
    for part, rows in parts.items():
        split = SPLIT_NAMES.get(part.lower()) or (mapping.splits.get(part) if mapping else None)
        if split is None and len(parts) > 1:
            notes.append(f"the part {part!r} ({len(rows)} rows) is no train, validation or test part and is left out.")
        else:
            frames[part] = rows.to_pandas().assign(split=split or "train")
    if not frames:
        raise UserError(f"none of the parts of {config.name} ({', '.join(parts)}) is a train, validation or test part.")
    names = {
        name: found for name, feature in next(iter(parts.values())).features.items() if (found := _class_names(feature))
    }
    table = Table(pd.concat(frames), names=names, notes=tuple(notes), chosen={"split": "split"}, source=config.name)
    return apply(mapping, table, config) if mapping is not None else _labelled(table)


def apply(mapping: Mapping, table: Table, config: DatasetConfig) -> Table:
    """The table with the mapping's columns as text and label, targets computed, rows that it does not keep left out."""
    frame = mapping.reshape(table.frame) if mapping.reshape is not None else table.frame
    wanted = (mapping.text, mapping.label, *(name for name in (mapping.pair, mapping.group) if name))
    if missing := [name for name in wanted if name not in frame.columns]:
        raise UserError(
            f"{config.name} is not of the shape this mapping expects: no column {missing[0]!r}.\n"
            f"Columns: {', '.join(map(str, frame.columns))}. Name text=… and label=… to read it without the mapping."
        )
    names = mapping.names or table.names.get(mapping.label, ())
    label = frame[mapping.label]
    as_classes = config.labels.task == "classification" or (mapping.formula is None and not mapping.order)
    if names:
        label = label.map(lambda value: _name_of(value, names))
    frame = frame.assign(**{mapping.label: label})
    kept = {column: [_name_of(value, names) for value in values] for column, values in mapping.keep.items()}
    for column, values in kept.items():
        frame = frame[frame[column].isin(values)]
    target = frame[mapping.label]
    task = mapping.task
    order = tuple(name for name in mapping.order or names if name in kept.get(mapping.label, names))
    if not as_classes:
        ranks = {name: rank / max(len(mapping.order) - 1, 1) for rank, name in enumerate(mapping.order)}
        target = target.map(ranks) if mapping.order else mapping.formula(pd.to_numeric(target))  # type: ignore[misc]
        task, order = "regression", ()
    elif order:
        target = target.map({name: place for place, name in enumerate(order)})
    chosen: dict[str, str | None] = {
        "text": mapping.text, "label": mapping.label, "pair": mapping.pair, "group": mapping.group, "split": "split", "task": task,
    }  # fmt: skip
    return replace(
        table,
        frame=frame.assign(**{mapping.label: target}),
        names={**table.names, mapping.label: order},
        chosen={role: name for role, name in chosen.items() if name is not None},
        licence=mapping.licence,
    )


def _labelled(table: Table) -> Table:
    """The table without rows whose class id is -1: the hub's mark for test rows with secret labels."""
    frame, notes = table.frame, list(table.notes)
    for column in table.names:
        numbers = pd.to_numeric(frame[column], errors="coerce")
        if (numbers == -1).any():
            notes.append(f"{int((numbers == -1).sum())} rows without a label ({column} = -1) are left out.")
            frame = frame[(numbers != -1).to_numpy()]
    return replace(table, frame=frame, notes=tuple(notes))


def _load(config: DatasetConfig, mapping: Mapping | None) -> dict[str, datasets.Dataset]:
    """The parts of the dataset by their own names."""
    folder = Path(config.name).expanduser()
    local = folder.is_dir() and not config.name.startswith(HUB)
    repo = (
        str(folder)
        if local
        else config.name.removeprefix(HUB)
        if config.name.startswith(HUB)
        else mapping.repo
        if mapping
        else config.name
    )
    subset = config.config or (mapping.config if mapping and not local else None)
    revision = None if local else config.revision or (mapping.revision if mapping else None)
    try:
        if local and any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(repo)
        elif revision == CONVERTED:  # a plain tree of folders there: configuration, then split
            loaded = datasets.load_dataset(repo, data_dir=subset or "default", revision=revision)
        else:
            loaded = datasets.load_dataset(repo, subset, revision=revision)
    except ConnectionError as error:
        raise UserError(
            f"the hub cannot be reached, and {repo} is not in the local cache ({error}).\n"
            "Connect, or copy the dataset to a folder and give its path as the name"
            f"{f' with mapping={_key(mapping)}' if mapping else ''}."
        ) from None
    except (datasets.exceptions.DatasetsError, FileNotFoundError, ValueError, RuntimeError) as error:
        script = "script" in str(error).lower()
        hint = (
            f"\nIt is a script, which `datasets` runs no more: try revision={CONVERTED}."
            if script and revision != CONVERTED
            else ""
        )
        raise UserError(
            f"cannot load {repo}{f' ({subset})' if subset else ''}: {str(error).splitlines()[0]}{hint}"
        ) from None
    return dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {str(loaded.split or "train"): loaded}


def _key(mapping: Mapping) -> str:
    return next(name for name, known in MAPPINGS.items() if known is mapping)


def _class_names(feature: Any) -> tuple[str, ...]:
    inner = getattr(feature, "feature", feature)
    return tuple(inner.names) if isinstance(inner, datasets.ClassLabel) and inner.names else ()


def _name_of(value: Any, names: tuple[str, ...]) -> Any:
    """The class name of an id (a number, or its digits), of a truth value, or the value itself if it is a name already."""
    if value in names:
        return value
    try:
        place = int(value)
    except (TypeError, ValueError):
        return value
    return names[place] if 0 <= place < len(names) else value
