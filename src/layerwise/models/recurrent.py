"""GRU and LSTM nets written out step by step, their gates submodules that hooks can read and write.

torch's fused ``nn.GRU`` and ``nn.LSTM`` run all steps in one kernel, which no hook sees into. These compute the same
numbers, slower. A gate module is called once for each step, so a hook on it fires once a step, with (batch, hidden).

GRU                         LSTM
└── layers.0                └── layers.0
    ├── reset                   ├── input
    ├── update                  ├── forget
    ├── new                     ├── cell
    └── state                   ├── output
                                ├── memory
                                └── state
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from layerwise.errors import UserError


class Gate(nn.Module):
    """``activation(W x + b + U h + c)``: x (batch, input), h (batch, hidden) → (batch, hidden)."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.from_input = nn.Linear(input_size, hidden_size, bias=bias)
        self.from_hidden = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.activation = activation

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return self.activation(self.from_input(x) + self.from_hidden(h))


class NewGate(Gate):
    """The GRU's candidate, ``tanh(W x + b + r ⊙ (U h + c))``: the reset gate acts after the recurrent product, as in torch."""

    def forward(self, x: Tensor, h: Tensor, reset: Tensor | None = None) -> Tensor:
        recurrent = self.from_hidden(h)
        return self.activation(self.from_input(x) + (recurrent if reset is None else reset * recurrent))


class GRUCell(nn.Module):
    """One step of a gated recurrent unit (Cho et al. 2014, in torch's form); ``state`` passes the new hidden state on."""

    gates = ("reset", "update", "new")  # in the order torch stacks their weights

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__()
        self.reset = Gate(input_size, hidden_size, bias, torch.sigmoid)
        self.update = Gate(input_size, hidden_size, bias, torch.sigmoid)
        self.new = NewGate(input_size, hidden_size, bias, torch.tanh)
        self.state = nn.Identity()

    def forward(self, x: Tensor, carried: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """x: (batch, input); carried: (h,) of (batch, hidden) → the next (h,)."""
        (h,) = carried
        reset, update = self.reset(x, h), self.update(x, h)
        new = self.new(x, h, reset)
        return (self.state((1 - update) * new + update * h),)


class LSTMCell(nn.Module):
    """One step of long short-term memory (Hochreiter & Schmidhuber 1997, with forget gates).

    ``memory`` passes on the new memory c, ``state`` the new hidden state h.
    """

    gates = ("input", "forget", "cell", "output")  # in the order torch stacks their weights

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__()
        self.input = Gate(input_size, hidden_size, bias, torch.sigmoid)
        self.forget = Gate(input_size, hidden_size, bias, torch.sigmoid)
        self.cell = Gate(input_size, hidden_size, bias, torch.tanh)
        self.output = Gate(input_size, hidden_size, bias, torch.sigmoid)
        self.memory = nn.Identity()
        self.state = nn.Identity()

    def forward(self, x: Tensor, carried: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """x: (batch, input); carried: (h, c) of (batch, hidden) → the next (h, c)."""
        h, c = carried
        c = self.memory(self.forget(x, h) * c + self.input(x, h) * self.cell(x, h))
        return self.state(self.output(x, h) * torch.tanh(c)), c


class _Unrolled(nn.Module):
    """Layers of cells run step by step over (batch, tokens, input)."""

    cell: type[GRUCell] | type[LSTMCell]
    carried = 1

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(self.cell(size, hidden_size, bias) for size in sizes)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x: (batch, tokens, input) → outputs (batch, tokens, hidden) of the last layer, and for each carried tensor
        (h; for the LSTM h and c) its last value in every layer, (layers, batch, hidden)."""
        last: list[tuple[Tensor, ...]] = []
        for layer in self.layers:
            carried = tuple(x.new_zeros(x.shape[0], self.hidden_size) for _ in range(self.carried))
            steps = []
            for step in x.unbind(dim=1):
                carried = layer(step, carried)
                steps.append(carried[0])
            x = torch.stack(steps, dim=1)
            last.append(carried)
        return x, tuple(torch.stack(values) for values in zip(*last, strict=True))

    @classmethod
    def of(cls, fused: nn.RNNBase) -> Self:
        """The same net as a fused one of torch, its weights copied.

        The result takes (batch, tokens, input) whatever ``batch_first`` was, and drops nothing out between layers.
        Raises UserError for bidirectional nets and for LSTMs with projections.
        """
        if fused.bidirectional or fused.proj_size:
            raise UserError("only nets that run in one direction and have no projection can be unrolled.")
        net = cls(fused.input_size, fused.hidden_size, fused.num_layers, fused.bias)
        net.to(next(fused.parameters()))
        with torch.no_grad():
            for index, layer in enumerate(net.layers):
                for kind in ("weight", "bias") if fused.bias else ("weight",):
                    for side, linear in (("ih", "from_input"), ("hh", "from_hidden")):
                        stacked = getattr(fused, f"{kind}_{side}_l{index}")
                        for gate, part in zip(cls.cell.gates, stacked.chunk(len(cls.cell.gates)), strict=True):
                            layer.get_parameter(f"{gate}.{linear}.{kind}").copy_(part)
        return net


class GRU(_Unrolled):
    """A gated recurrent net in the open; equal to ``nn.GRU`` with the same weights."""

    cell = GRUCell


class LSTM(_Unrolled):
    """A long short-term memory net in the open; equal to ``nn.LSTM`` with the same weights."""

    cell = LSTMCell
    carried = 2


def unrolled(fused: nn.RNNBase) -> GRU | LSTM:
    """The unrolled net with the weights of torch's ``nn.GRU`` or ``nn.LSTM``; UserError for anything else."""
    if isinstance(fused, nn.GRU):
        return GRU.of(fused)
    if isinstance(fused, nn.LSTM):
        return LSTM.of(fused)
    raise UserError(f"only torch's GRU and LSTM can be unrolled, got {type(fused).__name__}.")
