"""The same numbers as pyvene, for what both express: pyvene_reference.py says how the reference was made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pyvene_cases import CASES, REFERENCE, model
from pyvene_nets import LAYERS, NETS, STEPS, inputs, net_of
from pyvene_runs import batch, laid_over, result, run_case
from safetensors.torch import load_file
from torch import nn

from layerwise.interventions.intervened import Intervened
from layerwise.interventions.plan import Plan
from layerwise.models.batch import Batch
from layerwise.models.model import LanguageModel
from layerwise.models.module import wrap


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(REFERENCE)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def loaded(request: pytest.FixtureRequest) -> LanguageModel:
    return LanguageModel(model(request.param), None, request.param)


@pytest.mark.parametrize("name", CASES)
def test_it_gives_what_pyvene_gives(
    loaded: LanguageModel, expected: dict[str, torch.Tensor], name: str, tmp_path: Path
) -> None:
    case, wanted = CASES[name], expected[f"{loaded.name}/{name}"]
    intervened = laid_over(loaded, name, case, tmp_path)
    found = result(run_case(intervened, case), case)
    if case.generate is not None:
        assert torch.equal(found, wanted)
        return
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    if "collect" not in name:
        with torch.no_grad():
            assert (found - intervened.clean(batch("base")).logits).abs().max() > 1e-3  # it does something


def test_a_trained_operation_gets_pyvenes_gradient(
    loaded: LanguageModel, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    intervened = laid_over(loaded, "mask", CASES["mask"], tmp_path)
    logits = intervened(batch("base"), {"source": batch("source")}).logits
    (logits**2).sum().backward()
    [gradient] = [parameter.grad for name, parameter in intervened.named_parameters() if name.endswith("mask")]
    assert gradient is not None
    torch.testing.assert_close(gradient, expected[f"{loaded.name}/gradient"], atol=1e-2, rtol=1e-3)
    assert all(parameter.grad is None for parameter in loaded.module.parameters())


@pytest.mark.parametrize("name", NETS)
def test_nets_that_are_no_transformers(expected: dict[str, torch.Tensor], name: str, tmp_path: Path) -> None:
    net = NETS[name]
    tokens = STEPS if net.family == "gru" else 1

    def values(run: str) -> Batch:
        return Batch({"x": inputs(net.family, run)}, torch.ones(2, tokens, dtype=torch.bool), torch.full((2,), tokens))

    wrapped = wrap(net_of(net.family), net.family)
    intervened = laid_over(wrapped, name, net.case, tmp_path, values("base"))
    with torch.no_grad():
        found = intervened(values("base"), {"source": values("source")}, subspaces=net.case.subspaces_here).output[0]
        plain = wrapped.module(inputs(net.family, "base"))[0]
    torch.testing.assert_close(found, expected[f"net/{name}"], atol=1e-5, rtol=1e-4)
    assert (found - plain).abs().max() > 1e-4


def test_the_reference_has_every_case(expected: dict[str, torch.Tensor]) -> None:
    outputs = {key for key in expected if not key.startswith("saved/") and not key.endswith("/gradient")}
    assert outputs == {f"{family}/{case}" for family in ("gpt2", "llama") for case in CASES} | {
        f"net/{case}" for case in NETS
    }
    assert len(CASES) + len(NETS) >= 50


def test_a_chain_whose_first_link_has_two_steps() -> None:
    """pyvene keeps the last of them alone. By hand: the middle run's pass with both values in it, written with plain hooks."""
    loaded = LanguageModel(model("gpt2"), None, "gpt2")
    layers: list[nn.Module] = [block.mlp for block in loaded.module.transformer.h]
    assert len(layers) == LAYERS
    first = {"operation": "interchange", "source": "a", "into": "b"}
    steps = [
        first | {"sites": "mlp_out.0", "positions": 1},
        first | {"sites": "mlp_out.1", "positions": 3},
        {"operation": "interchange", "source": "b", "sites": "resid_post.1", "positions": 5},
    ]
    with torch.no_grad():
        found = Intervened(loaded, Plan.of({"steps": steps}))(batch("base"), {"a": batch("a"), "b": batch("b")}).logits

        def hooked(run: str, column: dict[int, tuple[int, torch.Tensor]]) -> torch.Tensor:
            handles = []
            for index, (place, rows) in column.items():

                def hook(
                    module: nn.Module, args: object, output: torch.Tensor, place: int = place, rows: torch.Tensor = rows
                ) -> torch.Tensor:
                    output = output.clone()
                    output[:, place] = rows
                    return output

                handles.append(
                    (layers[index] if index < LAYERS else loaded.module.transformer.h[1]).register_forward_hook(hook)
                )
            hidden = loaded.module(**batch(run).inputs, output_hidden_states=True)
            for handle in handles:
                handle.remove()
            return hidden

        kept: dict[int, torch.Tensor] = {}
        handles = [
            layer.register_forward_hook(lambda _m, _a, output, index=index: kept.update({index: output}))
            for index, layer in enumerate(layers)
        ]
        loaded.module(**batch("a").inputs)
        for handle in handles:
            handle.remove()
        last: dict[str, torch.Tensor] = {}
        handle = loaded.module.transformer.h[1].register_forward_hook(lambda _m, _a, output: last.update(value=output))
        hooked("b", {0: (1, kept[0][:, 1]), 1: (3, kept[1][:, 3])})
        handle.remove()
        value = last["value"] if isinstance(last["value"], torch.Tensor) else last["value"][0]
        expected = hooked("base", {LAYERS: (5, value[:, 5])}).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
