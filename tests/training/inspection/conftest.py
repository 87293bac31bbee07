"""A tiny real model with its tokenizer, loaded once."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerwise.models.loading import load_model
from layerwise.models.model import LanguageModel


@pytest.fixture(scope="session")
def model(tiny_model_folder: Path) -> LanguageModel:
    return load_model(str(tiny_model_folder))
