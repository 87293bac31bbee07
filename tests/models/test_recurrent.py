"""The unrolled recurrent nets give what torch's fused ones give, with every gate in sight of hooks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layerwise.errors import UserError
from layerwise.models.module import wrap
from layerwise.models.recurrent import GRUCell, unrolled
from layerwise.models.taps import tapped


@pytest.fixture(params=["GRU", "LSTM"])
def kind(request: pytest.FixtureRequest) -> type[nn.RNNBase]:
    return getattr(nn, request.param)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_equal_to_torch(kind: type[nn.RNNBase], layers: int, bias: bool, batch_first: bool) -> None:
    torch.manual_seed(0)
    fused = kind(5, 7, num_layers=layers, bias=bias, batch_first=batch_first)
    x = torch.randn(4, 9, 5)
    expected, last = fused(x if batch_first else x.transpose(0, 1))
    found, states = unrolled(fused)(x)
    torch.testing.assert_close(found, expected if batch_first else expected.transpose(0, 1), atol=1e-6, rtol=0)
    for state, value in zip(states, last if isinstance(last, tuple) else (last,), strict=True):
        torch.testing.assert_close(state, value, atol=1e-6, rtol=0)


def test_gradients_equal_torch(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    fused = kind(3, 4, num_layers=2, batch_first=True)
    net = unrolled(fused)
    x, y = (torch.randn(2, 5, 3).requires_grad_() for _ in range(2))
    y.data.copy_(x.data)
    fused(x)[0].square().sum().backward()
    net(y)[0].square().sum().backward()
    torch.testing.assert_close(y.grad, x.grad, atol=1e-6, rtol=1e-5)


def test_double_precision_is_kept(kind: type[nn.RNNBase]) -> None:
    net = unrolled(kind(3, 4).double())
    assert net(torch.randn(1, 2, 3, dtype=torch.float64))[0].dtype == torch.float64


def test_gates_are_seen_over_all_steps_and_obey_the_equations() -> None:
    net = unrolled(nn.GRU(3, 4))
    x = torch.randn(2, 6, 3)
    with tapped(wrap(net, "gru"), reads={f"layers.0.{name}.output": None for name in GRUCell.shown}) as seen:
        outputs, _ = net(x)
    update, new, state = (seen[f"layers.0.{name}.output"] for name in ("update_gate", "new_gate", "state"))
    assert state.shape == (2, 6, 4)
    before = torch.cat([torch.zeros(2, 1, 4), state[:, :-1]], dim=1)
    torch.testing.assert_close(state, (1 - update) * new + update * before)
    torch.testing.assert_close(outputs, state)


def test_writing_a_gate_at_a_step_changes_later_steps_only(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    net = unrolled(kind(3, 4), steps=5)
    x = torch.randn(2, 6, 3)
    plain, _ = net(x)
    site = f"layers.0.steps.3.{net.cell.gates[0]}.output"
    with tapped(wrap(net, "net"), writes={site: torch.zeros_like}):
        written, _ = net(x)
    torch.testing.assert_close(written[:, :3], plain[:, :3])
    assert (written[:, 3:] - plain[:, 3:]).abs().amax(dim=(0, 2)).min() > 0
    torch.testing.assert_close(net(x)[0], plain)


def test_steps_show_what_the_whole_shows(kind: type[nn.RNNBase]) -> None:
    net = unrolled(kind(3, 4), steps=3)
    for name in net.cell.shown:
        sites = [f"layers.0.{name}.output", *(f"layers.0.steps.{step}.{name}.output" for step in range(3))]
        with tapped(wrap(net, "net"), reads=dict.fromkeys(sites)) as seen:
            net(torch.randn(2, 5, 3))
        for step in range(3):
            torch.testing.assert_close(seen[sites[step + 1]], seen[sites[0]][:, step])


def test_writing_a_gate_over_all_steps_is_refused(kind: type[nn.RNNBase]) -> None:
    net = unrolled(kind(3, 4))
    for write in (torch.zeros_like, lambda value: value.zero_()):
        handle = (
            net.layers[0]
            .get_submodule(net.cell.gates[0])
            .register_forward_hook(lambda _m, _a, out, write=write: write(out))
        )
        with torch.no_grad(), pytest.raises(UserError, match=r"can be read only.*\n.*steps\.0\."):
            net(torch.randn(1, 2, 3))
        handle.remove()


def test_writing_the_state_reaches_the_layer_above(kind: type[nn.RNNBase]) -> None:
    net = unrolled(kind(3, 4, num_layers=2))
    with tapped(wrap(net, "net"), writes={"layers.0.state.output": torch.zeros_like}):
        zeroed, _ = net(torch.randn(2, 5, 3))
    torch.testing.assert_close(zeroed, net.layers[1](torch.zeros(2, 5, 4))[0])


def test_lstm_with_open_forget_gate_and_closed_input_keeps_its_memory() -> None:
    net = unrolled(nn.LSTM(3, 4), steps=5)
    writes = {f"layers.0.steps.{step}.forget_gate.output": torch.ones_like for step in range(1, 5)}
    writes |= {f"layers.0.steps.{step}.input_gate.output": torch.zeros_like for step in range(1, 5)}
    with tapped(wrap(net, "lstm"), reads={"layers.0.memory.output": None}, writes=writes) as seen:
        net(torch.randn(1, 5, 3))
    memory = seen["layers.0.memory.output"]
    assert torch.equal(memory, memory[:, :1].expand_as(memory))
    assert memory.abs().sum() > 0


@pytest.mark.parametrize("fused", [nn.GRU(2, 2, bidirectional=True), nn.LSTM(2, 4, proj_size=2), nn.RNN(2, 2)])
def test_what_cannot_be_unrolled_says_so(fused: nn.RNNBase) -> None:
    with pytest.raises(UserError, match="unrolled"):
        unrolled(fused)


def test_wrapped_module_has_what_a_model_has() -> None:
    model = wrap(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), "mlp")
    assert model.num_parameters == 26
    assert model.device == torch.device("cpu")
    assert model.dtype == torch.float32
    assert repr(model) == "TorchModel mlp: Sequential, 26 parameters on cpu"
    bare = wrap(nn.ReLU(), "relu")
    assert (bare.num_parameters, bare.device) == (0, torch.device("cpu"))
    with pytest.raises(UserError, match=r"wrap takes a torch\.nn\.Module, got str"):
        wrap("mlp", "mlp")  # type: ignore[arg-type]


def test_wrapped_fingerprint_follows_weights_and_structure() -> None:
    def made(inplace: bool = False) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace), nn.Linear(4, 2))

    model = wrap(made(), "one")
    before = model.fingerprint
    assert before == wrap(made(), "two").fingerprint
    assert before != wrap(made(inplace=True), "one").fingerprint
    with torch.no_grad():
        model.module[0].weight[0, 0] += 1e-3
    assert model.fingerprint != before
