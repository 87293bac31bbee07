"""Small networks that exist many times over: every parameter has a leading axis of members, trained side by side.

``x: (members, rows, width) → (members, rows, outputs)``. All members begin with the same weights, so that a difference
between them comes from their data alone.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
}


class Standardise(nn.Module):
    """(x − mean) / scale with each member's own mean and scale, (members, 1, width) both."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


class StackedLinear(nn.Module):
    """``members`` linear layers side by side: weight (members, inputs, outputs), bias (members, 1, outputs)."""

    def __init__(self, members: int, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = inputs**-0.5  # as torch's own linear layer begins
        weight = torch.empty(1, inputs, outputs).uniform_(-bound, bound, generator=generator)
        bias = torch.empty(1, 1, outputs).uniform_(-bound, bound, generator=generator)
        self.weight = nn.Parameter(weight.repeat(members, 1, 1))
        self.bias = nn.Parameter(bias.repeat(members, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class StackedMLP(nn.Module):
    """1 layer: linear. 2 layers: linear, ReLU, linear. 3 layers: one hidden layer more."""

    def __init__(
        self, members: int, width: int, hidden: int, outputs: int, layers: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        sizes = [width, *[hidden] * (layers - 1), outputs]
        self.layers = nn.ModuleList(StackedLinear(members, *pair, generator) for pair in pairwise(sizes))

        if layers == 1:  # convex: begin where the classes are equally likely, not at random
            for parameter in self.layers[0].parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = nn.functional.relu(layer(x))
        return self.layers[-1](x)


class StackedGLU(nn.Module):
    """Gated linear unit, then a linear layer: ``W₃ (f(W₁x) ⊙ σ(W₂x))``, f the identity or an activation.

    Dauphin et al. 2017, "Language Modeling with Gated Convolutional Networks".
    """

    def __init__(
        self, members: int, width: int, hidden: int, outputs: int, activation: str | None, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.value = StackedLinear(members, width, hidden, generator)
        self.gate = StackedLinear(members, width, hidden, generator)
        self.out = StackedLinear(members, hidden, outputs, generator)
        self.activation = ACTIVATIONS[activation] if activation else None

    def forward(self, x: Tensor) -> Tensor:
        value = self.value(x)
        return self.out((self.activation(value) if self.activation else value) * torch.sigmoid(self.gate(x)))
