"""GELU, written out for torch.compile on a CPU: what the compiler makes of the error function is slower, and an operation it leaves whole stands alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def gelu(neurons: Tensor) -> Tensor:
    """``x · Φ(x)`` (Hendrycks & Gimpel 2016), exactly."""
    if torch.compiler.is_compiling() and neurons.device.type == "cpu":
        made: Tensor = _left_whole(neurons)
        return made
    return functional.gelu(neurons)


@torch.library.custom_op("layerwise::gelu", mutates_args=())
def _left_whole(neurons: Tensor) -> Tensor:
    return functional.gelu(neurons)


@torch.library.custom_op("layerwise::gelu_backward", mutates_args=())
def _backward(gradient: Tensor, neurons: Tensor) -> Tensor:
    made: Tensor = torch.ops.aten.gelu_backward(gradient, neurons)
    return made


@_left_whole.register_fake
def _(neurons: Tensor) -> Tensor:
    return torch.empty_like(neurons)


@_backward.register_fake
def _(gradient: Tensor, neurons: Tensor) -> Tensor:
    return torch.empty_like(neurons)


def _keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, gradient: Tensor) -> Tensor:
    made: Tensor = _backward(gradient, *ctx.saved_tensors)
    return made


_left_whole.register_autograd(_gradient, setup_context=_keep)
