"""The feed-forward piece: plain or gated neurons, or a mixture of several feed-forwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import relu, silu
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from layerwise.errors import UserError
from layerwise.models.transformer.config import LayerwiseConfig
from layerwise.models.transformer.gelu import gelu
from layerwise.models.transformer.linear import IntoResidual

Activation = Callable[[Tensor], Tensor]


def gelu_tanh(neurons: Tensor) -> Tensor:
    """The approximation of GELU by tanh that GPT-2 was trained with."""
    return functional.gelu(neurons, approximate="tanh")


def relu_squared(neurons: Tensor) -> Tensor:
    """So et al. 2021, Primer."""
    return relu(neurons).square()


PLAIN: dict[str, Activation] = {"gelu": gelu, "gelu_tanh": gelu_tanh, "relu": relu, "relu_squared": relu_squared}
GATED: dict[str, Activation] = {"swiglu": silu, "geglu": gelu}  # Shazeer 2020


class FeedForward(nn.Module):
    """Up, activation, down: (batch, tokens, width) → the same. ``function`` of a person's own is the activation, of
    neurons (batch, tokens, neurons)."""

    def __init__(self, config: LayerwiseConfig, function: Any = None) -> None:
        super().__init__()
        self.gated, self.squared = config.feed_forward in GATED, config.square_feed_forward
        self.activation: Activation = function or (PLAIN | GATED)[config.feed_forward]
        self.up_proj = nn.Linear(
            config.width, config.neurons * (2 if self.gated else 1), bias=config.bias
        )  # gates first
        self.down_proj = IntoResidual(config.neurons, config.width, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        neurons = self.up_proj(hidden)
        if self.gated:
            gates, neurons = neurons.chunk(2, dim=-1)
            neurons = self.activation(gates) * neurons
        else:
            neurons = self.activation(neurons)
        output = self.down_proj(neurons)
        return self.dropout(output.square() if self.squared else output)


class Router(nn.Linear):
    """Logits of experts, (batch, tokens, experts): a class of its own so that transformers can record its output."""


class Mixture(nn.Module):
    """The few feed-forwards a router picks for each token, weighed by its softmax over them (Jiang et al. 2024, Mixtral)."""

    def __init__(self, config: LayerwiseConfig) -> None:
        super().__init__()
        self.top, self.squared = config.experts_per_token, config.square_feed_forward
        self.router = Router(config.width, config.experts, bias=False)
        self.experts = Experts(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        logits, chosen = self.router(hidden).flatten(0, 1).topk(self.top, dim=-1)
        weights = logits.softmax(-1, dtype=torch.float32).to(hidden.dtype)
        output = self.experts(hidden.flatten(0, 1), chosen, weights).view_as(hidden)
        return self.dropout(output.square() if self.squared else output)


class Experts(nn.Module):
    """The weights of all experts, stacked, named and laid out as transformers' grouped products expect them."""

    has_post_expert_norm = is_transposed = _is_expert_parallel = False
    is_concatenated = True

    def __init__(self, config: LayerwiseConfig) -> None:
        super().__init__()
        self.config, self.num_experts = config, config.experts
        self.has_gate, self.has_bias = config.feed_forward in GATED, config.bias
        self.act_fn: Activation = (PLAIN | GATED)[config.feed_forward]
        up, width, neurons = "gate_up_proj" if self.has_gate else "up_proj", config.width, config.neurons
        first = neurons * (2 if self.has_gate else 1)
        self.register_parameter(up, nn.Parameter(torch.zeros(config.experts, first, width)))
        self.down_proj = nn.Parameter(torch.zeros(config.experts, width, neurons))
        if config.bias:
            self.register_parameter(f"{up}_bias", nn.Parameter(torch.zeros(config.experts, first)))
            self.down_proj_bias = nn.Parameter(torch.zeros(config.experts, width))

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """(tokens, width), the experts chosen and their weights, (tokens, experts_per_token) → (tokens, width)."""
        mix = ALL_EXPERTS_FUNCTIONS.get_interface(self.config._experts_implementation, grouped_mm_experts_forward)
        output: Tensor = mix(self, hidden, chosen, weights)
        return output

    def _apply_gate(self, neurons: Tensor) -> Tensor:
        gates, neurons = neurons.chunk(2, dim=-1)
        return self.act_fn(gates) * neurons


def build_feed_forward(config: LayerwiseConfig, layer: int) -> nn.Module:
    """The feed-forward of a layer. Of a person's own: a class made as ``Mine(config, layer)``, or a function: the activation."""
    if config.feed_forward in PLAIN | GATED:
        return Mixture(config) if config.experts else FeedForward(config)
    found = config.find_code(config.feed_forward)
    if not isinstance(found, type):
        return FeedForward(config, found)
    if not issubclass(found, nn.Module):
        raise UserError(f"{config.feed_forward} is neither a torch.nn.Module nor a function.")
    return found(config, layer)
