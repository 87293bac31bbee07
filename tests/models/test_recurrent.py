"""The unrolled recurrent nets give what torch's fused ones give, with every gate in sight of hooks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layerwise.errors import UserError
from layerwise.models.module import wrap
from layerwise.models.recurrent import unrolled


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


def test_gates_are_seen_once_a_step_and_obey_the_equations() -> None:
    net = unrolled(nn.GRU(3, 4))
    cell = net.layers[0]
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in (*cell.gates, "state")}
    for name, values in seen.items():
        cell.get_submodule(name).register_forward_hook(lambda _module, _args, out, values=values: values.append(out))
    outputs, _ = net(torch.randn(2, 6, 3))
    assert {name: len(values) for name, values in seen.items()} == dict.fromkeys(seen, 6)
    before = torch.zeros(2, 4)
    for step in range(6):
        update, new = seen["update"][step], seen["new"][step]
        torch.testing.assert_close(seen["state"][step], (1 - update) * new + update * before)
        before = seen["state"][step]
        torch.testing.assert_close(outputs[:, step], before)


def test_writing_a_gate_changes_later_steps_only(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    net = unrolled(kind(3, 4))
    x = torch.randn(2, 6, 3)
    plain, _ = net(x)
    calls = iter(range(6))
    gate = net.layers[0].get_submodule(net.layers[0].gates[0])
    handle = gate.register_forward_hook(lambda _module, _args, out: torch.zeros_like(out) if next(calls) == 3 else out)
    written, _ = net(x)
    handle.remove()
    torch.testing.assert_close(written[:, :3], plain[:, :3])
    assert (written[:, 3:] - plain[:, 3:]).abs().amax(dim=(0, 2)).min() > 0


def test_lstm_with_open_forget_gate_and_closed_input_keeps_its_memory() -> None:
    net = unrolled(nn.LSTM(3, 4))
    cell = net.layers[0]
    memories: list[torch.Tensor] = []
    cell.memory.register_forward_hook(lambda _module, _args, out: memories.append(out))
    steps = iter(range(100))
    cell.forget.register_forward_hook(lambda _module, _args, out: torch.ones_like(out))
    cell.input.register_forward_hook(lambda _module, _args, out: out if next(steps) == 0 else torch.zeros_like(out))
    net(torch.randn(1, 5, 3))
    assert all(torch.equal(memory, memories[0]) for memory in memories)
    assert memories[0].abs().sum() > 0


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
