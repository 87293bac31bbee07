"""A text dataset as MLflow records it: name, digest, source and what is in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from mlflow.entities import Dataset

if TYPE_CHECKING:
    from layerwise.data.dataset import TextDataset

DIGEST_LENGTH = 36  # the column of MLflow's database


def dataset_entity(dataset: TextDataset) -> Dataset:
    """MLflow's record of a dataset; its digest is the first 36 hex digits of ours."""
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
