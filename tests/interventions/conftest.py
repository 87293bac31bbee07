"""Fixtures of the intervention tests: tiny models of the architecture families, and one with a tokenizer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))  # families.py: one set of tiny models for all tests
sys.path.insert(0, str(Path(__file__).parent / "sweeps"))  # sweeps_pairs.py


@pytest.fixture(scope="session")
def speaking(tiny_model_folder: Path):
    """A tiny Llama with its tokenizer, as load_model gives it."""
    from layerwise.models.config import ModelConfig
    from layerwise.models.loading import load_model

    return load_model(ModelConfig(name=str(tiny_model_folder)))


@pytest.fixture(scope="session")
def asked(speaking):
    """Four pairs of two lengths, as the tiny model sees them."""
    from sweeps_pairs import make_pairs

    from layerwise.interventions.sweeps.asked import ask

    return ask(speaking, make_pairs())
