"""Pairs of prompts as the tiny model sees them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # sweeps_pairs.py


@pytest.fixture(scope="session")
def asked(speaking):
    """Four pairs of two lengths."""
    from sweeps_pairs import make_pairs

    from layerwise.interventions.sweeps.asked import ask

    return ask(speaking, make_pairs())
