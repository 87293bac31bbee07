"""Cases over small nets that are no transformers: a GRU at its time steps and a feed-forward net, in pyvene's classes and in ours.

pyvene's cell keeps its three gates' weights in one matrix, reset, update, new; ours has a layer for each. Time steps of a
recurrent net are right in pyvene 0.1.8 only where all of them are written, one example at a time; the others are its cells run by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pyvene_cases import SWAP, TURN, Case, formula
from torch import Tensor, nn

WIDTH, STEPS, LAYERS = 4, 5, 2
EVERY = list(range(STEPS))
BY_HAND = ("gru_one_step", "gru_several_steps")  # pyvene writes zeros at every time step that is not named


@dataclass(frozen=True)
class Net:
    """family: gru or mlp."""

    family: str
    case: Case


def _gru(component: str, site: str, source: list[int], base: list[int], layer: int = 0) -> Net:
    """From time steps of the source to those of the base; ``site`` has # for the step."""
    steps = [
        {"operation": "interchange", "read": site.replace("#", str(there)), "sites": site.replace("#", str(here))}
        for there, here in zip(source, base, strict=True)
    ]
    places = ([[source] * 2], [[base] * 2])
    item = {"layer": layer, "component": component, "unit": "t", "max_number_of_units": len(base), "type": SWAP}
    return Net("gru", Case([item], steps, {"sources->base": places}))


def _mlp(kind: Any, component: str, site: str, class_name: str, layer: int = 0, **more: Any) -> Net:
    step = {"operation": kind, "sites": site, "positions": 0, "name": "step"}
    places = {"sources->base": ([[[0]] * 2], [[[0]] * 2])}
    theirs = more.pop("theirs", {})
    return Net(
        "mlp", Case([{"layer": layer, "component": component, "type": class_name, **theirs}], [step], places, **more)
    )


NETS = {
    "gru_state": _gru("cell_output", "layers.0.steps.#.state.output", EVERY, EVERY),
    "gru_upper_state": _gru("cell_output", "layers.1.steps.#.state.output", EVERY, EVERY, layer=1),
    "gru_reset_gate": _gru("reset_gate_output", "layers.0.steps.#.reset_gate.output", EVERY, EVERY),
    "gru_update_gate": _gru("update_gate_output", "layers.1.steps.#.update_gate.output", EVERY, EVERY, layer=1),
    "gru_new_gate": _gru("new_gate_output", "layers.0.steps.#.new_gate.output", EVERY, EVERY),
    "gru_one_step": _gru("cell_output", "layers.0.steps.#.state.output", [1], [2]),
    "gru_several_steps": _gru("cell_output", "layers.0.steps.#.state.output", [0, 2], [1, 4]),
    "mlp_block": _mlp("interchange", "block_output", "h.0.output", SWAP),
    "mlp_input": _mlp("interchange", "block_input", "h.1.input", SWAP, 1),
    "mlp_activation": _mlp("add", "mlp_activation", "h.1.act.output", "AdditionIntervention", 1),
    "mlp_numbers": _mlp("interchange", "block_output", "h.0.output", SWAP, subspaces=[[[0, 3]] * 2], subspaces_here={"step": [0, 3]}),
    "mlp_rotation": _mlp("rotation", "block_output", "h.0.output", "RotatedSpaceIntervention", setting=TURN,
                         subspaces=[[[0, 1]] * 2], subspaces_here={"step": [0, 1]}),
    "mlp_low_rank": _mlp({"kind": "low_rank_rotation", "rank": 2}, "block_output", "h.0.output", "LowRankRotatedSpaceIntervention",
                         setting=TURN, theirs={"low_rank_dimension": 2}),
    "mlp_boundless": _mlp({"kind": "boundless", "temperature": 50.0}, "block_output", "h.0.output", "BoundlessRotatedSpaceIntervention",
                          setting=TURN),
}  # fmt: skip


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ff1, self.act = nn.Linear(WIDTH, WIDTH), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.ff1(x))


class Feedforward(nn.Module):
    """(batch, tokens, width) through two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.h = nn.ModuleList(Block() for _ in range(LAYERS))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        for block in self.h:
            x = block(x)
        return (x,)


def inputs(family: str, run: str) -> Tensor:
    """(2, steps, width) of a run; the feed-forward net has one."""
    return formula((2, STEPS if family == "gru" else 1, WIDTH), {"base": 21, "source": 22}[run], 1.5)


def net_of(family: str, pyvene: Any = None) -> nn.Module:
    """The net in pyvene's classes, or without it in ours: the same numbers."""
    if pyvene is not None:
        nets = pyvene.models.gru.modelings_gru if family == "gru" else pyvene.models.mlp.modelings_mlp
        sizes = {"h_dim": WIDTH, "n_layer": LAYERS, "pdrop": 0.0}
        net = nets.GRUModel(nets.GRUConfig(**sizes)) if family == "gru" else nets.MLPModel(nets.MLPConfig(**sizes))
    elif family == "gru":
        from layerwise.models.recurrent import unrolled

        net = unrolled(nn.GRU(WIDTH, WIDTH, num_layers=LAYERS, batch_first=True), steps=STEPS)
    else:
        net = Feedforward()
    with torch.no_grad():
        for layer in range(LAYERS):
            _fill(net, family, layer, ours=pyvene is None)
    return net.eval()


def _fill(net: Any, family: str, layer: int, *, ours: bool) -> None:
    if family == "mlp":
        net.h[layer].ff1.weight.copy_(formula((WIDTH, WIDTH), layer, 0.8))
        net.h[layer].ff1.bias.copy_(formula((WIDTH,), layer + 9))
        return
    weights = {name: formula((3 * WIDTH, WIDTH), salt + layer, 0.8) for name, salt in (("x2h", 30), ("h2h", 40))}
    biases = {name: formula((3 * WIDTH,), salt + layer) for name, salt in (("x2h", 50), ("h2h", 60))}
    for name, half in (("x2h", "from_input"), ("h2h", "from_hidden")):
        if not ours:
            getattr(net.cells[layer], name).weight.copy_(weights[name])
            getattr(net.cells[layer], name).bias.copy_(biases[name])
            continue
        for gate, weight, bias in zip(
            ("reset_gate", "update_gate", "new_gate"), weights[name].chunk(3), biases[name].chunk(3), strict=True
        ):
            linear = getattr(getattr(net.layers[layer].cell, gate), half)
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
