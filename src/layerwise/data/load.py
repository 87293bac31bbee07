"""From a config or a name to a dataset."""

from __future__ import annotations

from layerwise.data.config import DatasetConfig
from layerwise.data.dataset import TextDataset
from layerwise.data.generators.catalogue import generate


def load_dataset(config: DatasetConfig | str) -> TextDataset:
    """Read the dataset that ``config`` (or its name alone) describes."""
    if isinstance(config, str):
        config = DatasetConfig(name=config)
    return generate(config.name, config.config)
