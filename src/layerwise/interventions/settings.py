"""Which operation, and its settings: one frozen dataclass per kind. Nothing here imports more than the standard library.

``operations/build.py`` makes the module that does it. A ``vector`` is a file, ``direction.safetensors``, ``direction.npy`` or
``directions.safetensors#name``, or ``given``: handed over in Python when the plan meets its model.
"""

from __future__ import annotations

from layerwise.interventions.settings_fixed import (
    Add,
    Clamp,
    Collect,
    Constant,
    Erase,
    Interchange,
    Mean,
    Noise,
    ProjectOut,
    Resample,
    Scale,
    Skip,
    Subtract,
    Zero,
)
from layerwise.interventions.settings_learned import (
    PCA,
    SAE,
    Boundless,
    Custom,
    LoRA,
    LowRankRotation,
    Mask,
    ReFT,
    Rotation,
)

OperationSettings = (
    Zero | Mean | Resample | Constant | Noise | Add | Subtract | Scale | ProjectOut | Erase | Clamp | Interchange | Skip | Collect
    | PCA | Rotation | LowRankRotation | Boundless | Mask | SAE | LoRA | ReFT | Custom
)  # fmt: skip

KINDS: dict[str, type[OperationSettings]] = {settings.kind: settings for settings in OperationSettings.__args__}
