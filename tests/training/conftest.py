"""A task so small that a training takes a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layerwise.training.build import build_model
from layerwise.training.config import CheckpointConfig, EvaluationConfig, FitConfig, TrainingConfig
from layerwise.training.data_config import Characters, TaskData
from layerwise.training.model_config import BuiltModel
from layerwise.training.prepared import PreparedData, prepare_data

CONTEXT = 12
SMALL = BuiltModel(n_layers=2, n_heads=2, width=16)


@pytest.fixture(scope="session")
def copying(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Rows of different lengths, so that batches are padded and hold different numbers of counted tokens."""
    data = TaskData("copy", {"max_length": 4, "letters": 5}, train=200, validation=24, test=8)
    return prepare_data(data, Characters(), CONTEXT, cache=tmp_path_factory.mktemp("prepared"), quiet=True)


def small_model(data: PreparedData, options: BuiltModel = SMALL, seed: int = 0) -> Any:
    return build_model(options, data.tokenizer, CONTEXT, seed)


def settings(steps: int = 8, **fields: Any) -> FitConfig:
    """A training of few steps that evaluates only where it must."""
    given: dict[str, Any] = {
        "training": TrainingConfig(steps=steps, batch_size=8, device="cpu"),
        "evaluation": EvaluationConfig(every=steps, answers=0, texts=0, log_every=1),
        "checkpoints": CheckpointConfig(every=0),
    }
    return FitConfig(**{**given, **fields})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"
