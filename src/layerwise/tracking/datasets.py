"""A text dataset as MLflow records it: name, digest, source and what is in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from mlflow.entities import Dataset

from layerwise.data.dataset import TextDataset
from layerwise.data.pairs.pairs import PromptPairs

if TYPE_CHECKING:
    from layerwise.comparison.items import Items

DIGEST_LENGTH = 36  # the column of MLflow's database


def dataset_entity(dataset: TextDataset | Items | PromptPairs) -> Dataset:
    """MLflow's record of a dataset, of items or of pairs of prompts; its digest is the first 36 hex digits of ours."""
    if isinstance(dataset, PromptPairs):
        return _pairs_entity(dataset)
    if not isinstance(dataset, TextDataset):
        return _items_entity(dataset)
    profile: dict[str, object] = {"texts": len(dataset), "task": dataset.task}
    if dataset.labels is not None and dataset.task == "classification":
        counts = np.bincount(dataset.labels, minlength=len(dataset.label_names))
        profile["classes"] = {str(name): int(count) for name, count in zip(dataset.label_names, counts, strict=False)}
    if dataset.notes:
        profile["notes"] = list(dataset.notes)
    source = {"source": dataset.source or dataset.name, "digest": dataset.digest(), "licence": dataset.licence}
    columns = [
        "text",
        *(["pair"] if dataset.pairs is not None else []),
        *(["label"] if dataset.labels is not None else []),
    ]
    return Dataset(
        name=dataset.name[:500],
        digest=dataset.digest()[:DIGEST_LENGTH],
        source_type="layerwise",
        source=json.dumps(source, ensure_ascii=False),
        schema=json.dumps({"columns": columns}),
        profile=json.dumps(profile, ensure_ascii=False)[:16000],
    )


def _items_entity(items: Items) -> Dataset:
    options = sorted({len(options) for options in items.options})
    profile: dict[str, object] = {"items": len(items), "options": options, "truth_known": items.truth is not None}
    if items.notes:
        profile["notes"] = list(items.notes)
    source = {"source": items.name, "digest": items.digest(), "licence": items.licence}
    columns = ["prompt", "options", *(["truth"] if items.truth is not None else []), *items.columns]
    return Dataset(
        name=items.name[:500],
        digest=items.digest()[:DIGEST_LENGTH],
        source_type="layerwise",
        source=json.dumps(source, ensure_ascii=False),
        schema=json.dumps({"columns": columns}, ensure_ascii=False),
        profile=json.dumps(profile, ensure_ascii=False)[:16000],
    )


def _pairs_entity(pairs: PromptPairs) -> Dataset:
    profile: dict[str, object] = {"pairs": len(pairs), "parts": sorted(pairs.parts[0])}
    if pairs.notes:
        profile["notes"] = list(pairs.notes)
    source = {"source": pairs.source or pairs.name, "digest": pairs.digest(), "licence": pairs.licence}
    return Dataset(
        name=pairs.name[:500],
        digest=pairs.digest()[:DIGEST_LENGTH],
        source_type="layerwise",
        source=json.dumps(source, ensure_ascii=False),
        schema=json.dumps({"columns": ["clean", "corrupted", "answer", "corrupted_answer"]}),
        profile=json.dumps(profile, ensure_ascii=False)[:16000],
    )
