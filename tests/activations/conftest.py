"""A cascade: tiny model → texts → what plain transformers says of each text alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from layerwise.models.config import ModelConfig
from layerwise.models.loading import load_model
from layerwise.models.model import LanguageModel

TEXTS = [
    "the city of paris is in france .",
    "rome",
    "one is larger than two and three is not smaller than one .",
    "the dog sleeps",
    "madrid is not in italy .",
    "a good movie",
    "london is in england and not in spain",
]


@pytest.fixture(scope="session")
def model(tiny_model_folder: Path) -> LanguageModel:
    return load_model(ModelConfig(name=str(tiny_model_folder), device="cpu"))


@pytest.fixture(scope="session")
def blocks(model: LanguageModel) -> list[list[np.ndarray]]:
    """By text, by layer: the output of the block, (tokens, width), each text read alone by plain transformers."""
    found = []
    for text in TEXTS:
        outputs: list[np.ndarray] = []
        hooks = [
            layer.register_forward_hook(
                lambda _m, _a, output, outputs=outputs: outputs.append(
                    (output if isinstance(output, torch.Tensor) else output[0])[0].numpy()
                )
            )
            for layer in model.module.model.layers
        ]
        with torch.no_grad():
            model.module(**model.tokenizer(text, return_tensors="pt"))
        for hook in hooks:
            hook.remove()
        found.append(outputs)
    return found
