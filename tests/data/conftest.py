"""A writer of small files: ``write("name.csv", "a,b\\n1,2")`` gives the path of a file in the test's own folder. And ``full``,
a dataset that has everything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerwise.data.dataset import TextDataset

Write = Callable[[str, Any], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, content: Any) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        else:
            path.write_text(json.dumps(content), encoding="utf-8")
        return str(path)

    return write_file


ROWS = [{"text": f"statement number {i} here", "label": ("no", "yes")[i % 2]} for i in range(8)]


@pytest.fixture
def full() -> TextDataset:
    """A dataset that has everything a dataset can have."""
    return TextDataset(
        "full", ("aa bb", "cc", "dd"), np.array([0, 1, 1]), "classification", ("x", "y"), pairs=("p", "q", "r"),
        split=np.array(["train", "train", "test"]), groups=np.array(["g", "g", "h"]),
        contrast=(("aa bb", "not"), ("cc", "not"), ("dd", "not")), token_labels=(((0, 2, 0), (3, 5, 1)), (), ((0, 2, 1),)),
        spans=np.array([[0, 2], [0, 2], [1, 2]]), ids=("1", "2", "3"),
    )  # fmt: skip
