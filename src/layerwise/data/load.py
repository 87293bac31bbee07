"""From a config or a name to a dataset."""

from __future__ import annotations

from layerwise.data.config import DatasetConfig
from layerwise.data.dataset import TextDataset
from layerwise.data.generators.cities import cities
from layerwise.errors import unknown

BUNDLED = {"cities": lambda: cities(), "cities_negated": lambda: cities(negated=True)}


def load_dataset(config: DatasetConfig | str) -> TextDataset:
    """Read the dataset that ``config`` (or its name alone) describes."""
    if isinstance(config, str):
        config = DatasetConfig(name=config)
    if config.name not in BUNDLED:
        raise unknown("dataset", config.name, BUNDLED)
    return BUNDLED[config.name]()
