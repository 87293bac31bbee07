"""GELU, written out for torch.compile on a CPU: what the compiler makes of the error function is slower, and an operation it leaves whole costs its calls."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def gelu(neurons: Tensor) -> Tensor:
    """``x · Φ(x)`` (Hendrycks & Gimpel 2016), to float32's own precision."""
    if torch.compiler.is_compiling() and neurons.device.type == "cpu" and neurons.dtype == torch.float32:
        written: Tensor = _WrittenOut.apply(neurons)
        return written
    return functional.gelu(neurons)


class _WrittenOut(torch.autograd.Function):
    """Sums and products and one exponential, which value and slope share; the compiler runs them with what stands beside them."""

    @staticmethod
    def forward(ctx: Any, neurons: Tensor) -> Tensor:
        ctx.save_for_backward(neurons)
        return neurons * _normal(neurons)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        [neurons] = ctx.saved_tensors
        below, density = _normal(neurons)
        return gradient * (below + neurons * density)


def _normal(x: Tensor) -> tuple[Tensor, Tensor]:
    """Φ(x), within 8e-8, and its slope: the standard normal distribution and density (Abramowitz & Stegun 1964, 7.1.26)."""
    bell = torch.exp(-0.5 * x * x)
    t = 1.0 / (1.0 + 0.3275911 / math.sqrt(2.0) * x.abs())
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = 0.5 * series * bell
    return torch.where(x < 0, tail, 1.0 - tail), bell / math.sqrt(2.0 * math.pi)
