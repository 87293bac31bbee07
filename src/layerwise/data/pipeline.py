"""The JSON of the EleutherAGI probing pipeline: ``{"data": {"sentences": …, "labels": …}, "task": …, "labels": …, …}``.

Sentences and labels are lists, or dicts by row number as pandas wrote them. Shipped files in the second form had lost rows
through repeated numbers; what is left is read, and the count that was promised is compared with it in a note.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.data.table import Table, by_index
from layerwise.errors import UserError


def is_pipeline(value: Any) -> bool:
    """Whether a JSON value has the pipeline's form."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("data"), dict)
        and {"sentences", "labels"} <= set(value["data"])
    )


def pipeline_table(value: dict[str, Any], file: str) -> Table:
    """The table in a JSON value for which ``is_pipeline`` holds.

    Raises:
        UserError: when sentences and labels do not belong together row by row.
    """
    columns = {}
    for name in ("sentences", "labels"):
        column = value["data"][name]
        columns[name] = by_index(column) if isinstance(column, dict) else pd.Series(column, dtype=object)
    sentences, labels = columns["sentences"], columns["labels"]
    if len(sentences) != len(labels) or (sentences.index != labels.index).any():
        raise UserError(f"{file}: {len(sentences)} sentences but {len(labels)} labels, or their row numbers differ.")
    frame = pd.DataFrame({"text": sentences.to_numpy(), "label": labels.to_numpy()})
    notes = []
    size = value.get("size")
    if isinstance(size, int | float) and int(size) != len(frame):
        notes.append(f"{file} promises {int(size)} rows and holds {len(frame)}.")
    names = {}
    described = value.get("labels")
    regression = str(value.get("task", "")).lower().startswith("regr")
    if regression:
        frame["label"] = pd.to_numeric(frame["label"], errors="coerce").astype(float)
    elif isinstance(described, dict) and described and all(str(key).isdigit() for key in described):
        ids = sorted(described, key=int)
        if [int(key) for key in ids] == list(range(len(ids))):
            names["label"] = tuple(str(described[key]) for key in ids)
    return Table(
        frame, names=names, notes=tuple(notes),
        chosen={"text": "text", "label": "label", **({"task": "regression"} if regression else {})},
        source=str(value.get("link") or value.get("name") or file),
    )  # fmt: skip
