"""Directions and autoencoders from files: NumPy arrays, and the names that trainers of autoencoders give their weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import texts, tiny
from safetensors.torch import save_file

from layerwise.errors import UserError
from layerwise.interventions.intervened import Intervened
from layerwise.interventions.plan import Plan
from layerwise.interventions.saving import load, save
from layerwise.interventions.tensors import read_vector
from layerwise.models.batch import make_batch

WIDTH, LATENTS = 16, 24


def weights() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (WIDTH, LATENTS), "W_dec": (LATENTS, WIDTH), "b_enc": (LATENTS,), "b_dec": (WIDTH,)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()} | {
        "threshold": torch.full((LATENTS,), 0.3)
    }


def plan(**settings: Any) -> Plan:
    return Plan.of(
        {"steps": [{"operation": {"kind": "sae", "value": 0.5} | settings, "sites": "resid_post.0", "dims": "0-3"}]}
    )


def logits(intervened: Intervened) -> torch.Tensor:
    with torch.no_grad():
        return intervened(make_batch(tiny("llama"), texts(5, 4), range(2))).logits


def test_directions_from_arrays(tmp_path: Path) -> None:
    one, two = np.arange(4.0), np.ones(4)
    np.save(tmp_path / "one.npy", one)
    np.savez(tmp_path / "two.npz", one=one, two=two)
    assert read_vector(str(tmp_path / "one.npy")).tolist() == one.tolist()
    assert read_vector(f"{tmp_path}/two.npz#two").tolist() == two.tolist()
    with pytest.raises(UserError, match="holds 2 tensors: name one"):
        read_vector(str(tmp_path / "two.npz"))
    with pytest.raises(UserError, match=r"has no tensor 'tow'\. Did you mean 'two'"):
        read_vector(f"{tmp_path}/two.npz#tow")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="holds Python objects, which could run code"):
        read_vector(str(tmp_path / "objects.npy"))
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="holds Python objects, which could run code"):
        read_vector(f"{tmp_path}/objects.npz#a")
    (tmp_path / "broken.npy").write_bytes(b"no")
    with pytest.raises(UserError, match=r"broken\.npy"):
        read_vector(str(tmp_path / "broken.npy"))
    with pytest.raises(UserError, match=r"\.safetensors, \.npz and \.npy files only"):
        read_vector("direction.pt")


def test_a_direction_in_an_array_steers(tmp_path: Path) -> None:
    np.save(tmp_path / "push.npy", np.full(16, 0.5))
    step = {"operation": {"kind": "add", "vector": str(tmp_path / "push.npy")}, "sites": "resid_post.0"}
    given = Plan.of(
        {"steps": [{"operation": {"kind": "add", "vector": "given"}, "sites": "resid_post.0", "name": "push"}]}
    )
    found = logits(Intervened(tiny("llama"), Plan.of({"steps": [step]})))
    assert torch.equal(found, logits(Intervened(tiny("llama"), given, given={"push": torch.full((16,), 0.5)})))


@pytest.mark.parametrize("trainer", ["sparsify", "dictionary_learning", "openai", "pyvene", "gemma scope"])
def test_other_trainers_names(trainer: str, tmp_path: Path) -> None:
    """The same autoencoder under each set of names acts the same."""
    own = weights()
    save_file(own, tmp_path / "own.safetensors")
    expected = logits(Intervened(tiny("llama"), plan(file=str(tmp_path / "own.safetensors"))))
    turned = {"encoder.weight": own["W_enc"].T, "decoder.weight": own["W_dec"].T}
    file = tmp_path / "other.safetensors"
    match trainer:
        case "sparsify":
            other = {
                "encoder.weight": turned["encoder.weight"],
                "encoder.bias": own["b_enc"],
                "W_dec": own["W_dec"],
                "b_dec": own["b_dec"],
            }
        case "dictionary_learning":
            other = turned | {"encoder.bias": own["b_enc"], "bias": own["b_dec"]}
        case "openai":
            other = turned | {"latent_bias": own["b_enc"], "pre_bias": own["b_dec"]}
        case "pyvene":
            layers = {"encoder.0": ("W_enc", "b_enc"), "decoder.0": ("W_dec", "b_dec")}
            other = {f"autoencoder.{layer}.weight": own[name[0]].T for layer, name in layers.items()}
            other |= {f"autoencoder.{layer}.bias": own[name[1]] for layer, name in layers.items()}
        case _:
            file = tmp_path / "params.npz"
            np.savez(file, **{name: value.numpy() for name, value in own.items()})
    if file.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in other.items()}, file)
    assert torch.equal(logits(Intervened(tiny("llama"), plan(file=str(file)))), expected)


def test_a_folder_of_saelens_says_how_it_is_used(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "sae_weights.safetensors")
    said = {
        "architecture": "jumprelu",
        "d_in": WIDTH,
        "d_sae": LATENTS,
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
    }
    described = tmp_path / "cfg.json"
    described.write_text(json.dumps(said))
    fitting = {"file": str(tmp_path), "activation": "jumprelu", "center": True}
    expected = logits(Intervened(tiny("llama"), plan(**fitting)))
    file = str(tmp_path / "sae_weights.safetensors")
    assert torch.equal(logits(Intervened(tiny("llama"), plan(**fitting | {"file": file}))), expected)
    for settings, message in (
        ({"activation": "relu"}, "has activation jumprelu, and the plan says relu"),
        ({"center": False}, r"Set operation\.center=true"),
    ):
        with pytest.raises(UserError, match=message):
            Intervened(tiny("llama"), plan(**fitting | settings))
    for change, message in (
        ({"architecture": "gated"}, "a gated autoencoder is not known here"),
        ({"normalize_activations": "layer_norm"}, "says normalize_activations: layer_norm"),
        ({"architecture": "topk", "k": 5}, "has activation topk"),
    ):
        described.write_text(json.dumps(said | change))
        with pytest.raises(UserError, match=message):
            Intervened(tiny("llama"), plan(**fitting))
    described.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        Intervened(tiny("llama"), plan(**fitting))
    with pytest.raises(UserError, match=r"holds none of sae_weights\.safetensors"):
        Intervened(tiny("llama"), plan(file=str(tmp_path.parent)))


def test_given_weights_are_saved_and_those_of_a_file_only_where_the_folder_stands_alone(tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    save_file(weights(), file)
    from_file = Intervened(tiny("llama"), plan(file=str(file)))
    given = Intervened(tiny("llama"), plan(file="given"), given={"sae_0": weights()})
    expected = logits(from_file)
    assert torch.equal(logits(given), expected)
    save(from_file, tmp_path / "beside")
    save(from_file, tmp_path / "alone", alone=True)
    save(given, tmp_path / "given")
    file.unlink()
    for folder in ("alone", "given"):
        assert torch.equal(logits(load(tmp_path / folder, tiny("llama"))), expected)
    with pytest.raises(UserError, match="no file"):
        load(tmp_path / "beside", tiny("llama"))
    with pytest.raises(UserError, match="sae needs its weights"):
        Intervened(tiny("llama"), plan(file="given"))
