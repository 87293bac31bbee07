"""From settings to the module that does the operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.errors import UserError
from layerwise.interventions.operations.ablation import AddedNoise, ResampleAblation, SetTo, ZeroAblation
from layerwise.interventions.operations.adaptors import LowRankAdaptor, LowRankReFT
from layerwise.interventions.operations.autoencoder import LatentSwap
from layerwise.interventions.operations.base import Operation
from layerwise.interventions.operations.custom import OwnOperation, find
from layerwise.interventions.operations.directions import Clamped, Erased, Moved, ProjectedOut, Scaled
from layerwise.interventions.operations.rotations import BoundlessSwap, MaskedSwap, RotatedSwap
from layerwise.interventions.operations.swaps import Interchanged, Kept, PrincipalSwap, Skipped
from layerwise.interventions.settings import (
    PCA,
    SAE,
    Add,
    Boundless,
    Clamp,
    Collect,
    Constant,
    Custom,
    Erase,
    Interchange,
    LoRA,
    LowRankRotation,
    Mask,
    Mean,
    Noise,
    OperationSettings,
    ProjectOut,
    ReFT,
    Resample,
    Rotation,
    Scale,
    Skip,
    Subtract,
    Zero,
)
from layerwise.interventions.tensors import read_vector

Given = Tensor | np.ndarray | Mapping[str, Tensor] | Callable[..., Any] | nn.Module


def build(
    settings: OperationSettings,
    width: int | None,
    *,
    inputs: int | None = None,
    given: Given | None = None,
    trust_code: bool = True,
) -> Operation:
    """The module that does an operation at a place of ``width`` numbers (None: not known beforehand).

    inputs: how wide the module's input is there. given: the vector, function or weights that the settings call ``given``.
    trust_code: whether code named by path may run. Raises UserError for what does not fit.
    """
    match settings:
        case Zero():
            return ZeroAblation(settings, width)
        case Mean() | Constant():
            return SetTo(settings, width, _vector(settings, width, given))
        case Resample():
            return ResampleAblation(settings, width)
        case Noise():
            return AddedNoise(settings, width)
        case Add() | Subtract():
            return Moved(settings, width, _vector(settings, width, given))
        case Scale():
            return Scaled(settings, width, _vector(settings, width, given))
        case ProjectOut():
            return ProjectedOut(settings, width, _needed(settings, width, given))
        case Erase():
            return Erased(settings, width, _needed(settings, width, given))
        case Clamp():
            return Clamped(settings, width, _needed(settings, width, given))
        case Interchange():
            return Interchanged(settings, width)
        case Skip():
            return Skipped(settings, width)
        case Collect():
            return Kept(settings, width)
        case PCA():
            return PrincipalSwap(settings, width)
        case Rotation() | LowRankRotation():
            return RotatedSwap(settings, width)
        case Boundless():
            return BoundlessSwap(settings, width)
        case Mask():
            return MaskedSwap(settings, width)
        case SAE():
            return LatentSwap(settings, width, given if isinstance(given, Mapping) else None)
        case LoRA():
            return LowRankAdaptor(settings, width, inputs)
        case ReFT():
            return LowRankReFT(settings, width)
        case Custom():
            return OwnOperation(settings, width, _function(settings, given, trust_code))


def _function(settings: Custom, given: Given | None, trust_code: bool) -> Callable[..., Any]:
    if settings.path != "given":
        if not trust_code:
            raise UserError(
                f"this plan would run the code {settings.path}.\nLook at it, then allow it with trust_code."
            )
        return find(settings.path)
    if not callable(given) or isinstance(given, Tensor):
        raise UserError("a custom operation needs a path, or a function given for its step.")
    return given


def _vector(settings: Any, width: int | None, given: Given | None) -> Tensor | None:
    """The vector (width,), or directions as rows (k, width), that the settings name; None where they name none."""
    if settings.vector in ("", "fit"):
        return None
    if settings.vector != "given":
        vector = read_vector(settings.vector)
    elif isinstance(given, (Tensor, np.ndarray)):
        vector = torch.as_tensor(given)
    else:
        raise UserError(f"{settings.kind} needs a vector: name a safetensors file, or give one for its step.")
    vector = vector.detach().to(torch.promote_types(vector.dtype, torch.float32)).clone()
    if vector.dtype not in (torch.float32, torch.float64):
        raise UserError(f"a vector holds numbers, got {vector.dtype}.")
    rows = isinstance(settings, Scale | ProjectOut | Erase)
    if vector.dim() not in ((1, 2) if rows else (1,)):
        raise UserError(
            f"{settings.kind} takes {'directions as rows' if rows else 'one vector'}, got {tuple(vector.shape)}."
        )
    if width is not None and vector.shape[-1] != width:
        raise UserError(f"the vector of {settings.kind} has {vector.shape[-1]} numbers, and its site has {width}.")
    return vector.float()


def _needed(settings: Any, width: int | None, given: Given | None) -> Tensor:
    vector = _vector(settings, width, given)
    if vector is None:
        raise UserError(f"{settings.kind} needs a vector: name a safetensors file, or give one for its step.")
    return vector
