"""repeng's GGUF files: written here as repeng 0.4 writes them, and compared with what its ``set_control`` does."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from families import texts, tiny, traces

from layerwise.errors import UserError
from layerwise.interventions.exchange.control_vectors import read_control_vector, read_directions
from layerwise.interventions.exchange.reading import read
from layerwise.models.batch import make_batch
from layerwise.models.taps import run


def write(path: Path, directions: dict[int, np.ndarray], architecture: str = "controlvector") -> Path:
    """As repeng's ``ControlVector.export_gguf`` does it."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string(f"{architecture}.model_hint", "llama")
    writer.add_uint32(f"{architecture}.layer_count", len(directions))
    for layer, direction in directions.items():
        writer.add_tensor(f"direction.{layer}", direction)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    return write(tmp_path / "vector.gguf", {layer: draw.normal(size=16).astype(np.float32) for layer in (1, 0)})


def test_every_layer_gets_its_direction(file: Path) -> None:
    model = tiny("llama")
    before, batch = traces(model.module), make_batch(tiny("llama"), texts(5, 3), range(2), "left")
    directions = read_directions(file)
    assert list(directions) == [0, 1]
    with torch.no_grad():
        found = read_control_vector(file, model, strength=1.5)(batch).logits
        writes = {
            f"resid_post.{layer}": (lambda value, layer=layer: value + 1.5 * directions[layer]) for layer in (0, 1)
        }
        expected = run(model, batch, {}, writes, logits=True)["logits"]
        one = read_control_vector(file, model, layers="1")
    torch.testing.assert_close(found[batch.mask], expected[batch.mask], atol=1e-5, rtol=1e-4)
    assert [step.name for step in one.plan.steps] == ["direction_1"]
    assert traces(model.module) == before
    assert [step.name for step in read(file, model).plan.steps] == ["direction_0", "direction_1"]


def test_files_that_do_not_fit(file: Path, tmp_path: Path) -> None:
    model = tiny("llama")
    with pytest.raises(UserError, match="layer 7 in 'layers=7' is out of range"):
        read_control_vector(file, model, layers="7")
    deep = write(tmp_path / "deep.gguf", {5: np.zeros(16, dtype=np.float32)})
    with pytest.raises(UserError, match="a direction for layer 5, and the model has layers 0 to 1"):
        read_control_vector(deep, model)
    with pytest.raises(UserError, match="no direction for layer 0; it has: 5"):
        read_control_vector(deep, model, layers="0")
    wide = write(tmp_path / "wide.gguf", {0: np.ones(12, dtype=np.float32)})
    with pytest.raises(UserError, match="direction_0: the vector of add has 12 numbers, and its site has 16"):
        read_control_vector(wide, model)
    none = write(tmp_path / "none.gguf", {}, "llama")
    with pytest.raises(UserError, match="a llama file holds no direction"):
        read_directions(none)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="no GGUF file, or a damaged one"):
        read_directions(tmp_path / "broken.gguf")
    with pytest.raises(UserError, match="no file"):
        read_directions(tmp_path / "absent.gguf")
