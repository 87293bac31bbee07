"""Folders as pyvene 0.1.8 saved them give here what pyvene gave, and those that cannot be read say why."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the cases beside pyvene

from families import tiny
from pyvene_cases import CASES, REFERENCE, model
from pyvene_runs import result, run_case
from safetensors import safe_open

from layerwise.errors import UserError
from layerwise.interventions.exchange.pyvene import read_pyvene
from layerwise.interventions.exchange.reading import read
from layerwise.models.model import LanguageModel

with safe_open(REFERENCE, framework="pt") as opened:
    SAVED = [name.removeprefix("saved/") for name in opened.metadata()]


def folder_of(case: str, folder: Path) -> Path:
    """The folder that pyvene saved for a case, made of the same configuration and tensors."""
    folder.mkdir()
    with safe_open(REFERENCE, framework="pt") as opened:
        (folder / "config.json").write_text(opened.metadata()[f"saved/{case}"])
        files: dict[str, dict[str, torch.Tensor]] = {}
        for name in set(opened.keys()):
            if name.startswith(f"saved/{case}/"):
                file, key = name.removeprefix(f"saved/{case}/").split("/")
                files.setdefault(file, {})[key] = opened.get_tensor(name)
    for file, state in files.items():
        torch.save(state, folder / file)
    return folder


@pytest.fixture(scope="module")
def gpt2() -> LanguageModel:
    return LanguageModel(model("gpt2"), None, "gpt2")


@pytest.mark.parametrize("name", sorted(SAVED))
def test_a_saved_folder_gives_what_pyvene_gives(gpt2: LanguageModel, name: str, tmp_path: Path) -> None:
    """At each call come, as in pyvene, positions, sources and subspaces; the rest is the folder's."""
    case = CASES[name]
    when = str(case.steps[0].get("when", "prompt"))
    intervened = read_pyvene(
        folder_of(name, tmp_path / "saved"), gpt2, heads="1" if name == "a_head" else "", when=when
    )
    positions: dict[str, Any] = {}
    subspaces = {}
    for number, (step, said) in enumerate(zip(intervened.plan.steps, case.steps, strict=True)):
        base = said["positions"]
        if base == "all":
            continue
        if base == "each":
            positions[step.name] = case.positions["step"]
        else:
            positions[step.name] = {"base": str(base), "source": str(said.get("source_positions", base))}
        chosen = case.subspaces_here.get(said.get("name", ""))
        if chosen is not None:
            subspaces[intervened.plan.steps[number].name] = chosen
    found = result(run_case(intervened, case, positions=positions, subspaces=subspaces), case)
    with safe_open(REFERENCE, framework="pt") as opened:
        torch.testing.assert_close(found, opened.get_tensor(f"gpt2/{name}"), atol=1e-4, rtol=1e-4)


def test_it_is_read_by_what_it_is(gpt2: LanguageModel, tmp_path: Path) -> None:
    plan = read(folder_of("shared_weights", tmp_path / "saved"), gpt2).plan
    assert [step.weights for step in plan.steps] == ["link_0"] * 2
    assert plan.order() == ["source_0", "source_1"]
    assert len(SAVED) >= 20


def config(folder: Path, **changes: Any) -> None:
    described = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(described))


def test_other_objects_than_tensors_are_not_read(gpt2: LanguageModel, tmp_path: Path) -> None:
    folder = folder_of("rotation", tmp_path / "saved")
    [file] = folder.glob("*.bin")
    torch.save({"rotate_layer": Path("x")}, file)
    with pytest.raises(UserError, match="holds objects besides tensors, which could run code: nothing was read"):
        read_pyvene(folder, gpt2)
    file.write_bytes(b"no")
    with pytest.raises(UserError, match="is damaged, or holds objects"):
        read_pyvene(folder, gpt2)
    config(folder, sorted_keys=["/../../secret"])
    with pytest.raises(UserError, match="names a file outside its folder"):
        read_pyvene(folder, gpt2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"intervention_types": ["<class '__main__.MyOwn'>"]},
            "MyOwn is a class of someone's own, which no folder holds",
        ),
        (
            {"intervention_types": ["<class 'pyvene.models.interventions.NoiseIntervention'>"]},
            "saves a NoiseIntervention without its noise",
        ),
        ({"intervention_types": []}, "is no configuration that pyvene saved"),
        ({"representations": [[0, "block_output"]]}, "lists 2 fields of an intervention, and pyvene 0.1.8 has 14"),
        ({"representations": [[9, "block_output", "pos", 1, *[None] * 10]]}, "layer 9: this model has layers 0 to 1"),
        (
            {"representations": [[0, "cell_output", "t", 1, *[None] * 10]]},
            "counts 't', which only pyvene's own nets have",
        ),
        (
            {"representations": [[0, "sense_network_output", "pos", 1, *[None] * 10]]},
            "is no part that can be found in GPT2LMHeadModel",
        ),
        ({"representations": [[0, "head_query_output", "h.pos", 1, *[None] * 10]]}, "say heads='3' or heads='0-2'"),
        (
            {"representations": [[0, "block_output", "pos", 1, *[None] * 6, 3, None, None, None]]},
            "acts inside an expert",
        ),
    ],
)
def test_folders_that_say_something_else(
    gpt2: LanguageModel, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = folder_of("interchange", tmp_path / "saved")
    config(folder, **changes)
    with pytest.raises(UserError, match=message):
        read_pyvene(folder, gpt2)


def test_a_folder_for_another_architecture(tmp_path: Path) -> None:
    wide = LanguageModel(tiny("gpt2").module, None, "gpt2")
    folder = folder_of("mask", tmp_path / "saved")
    config(folder, representations=[[0, "mlp_activation", "pos", 1, *[None] * 10]])
    with pytest.raises(UserError, match="does not fit this model: mask was saved with the shape"):
        read_pyvene(folder, wide)
    with pytest.raises(UserError, match="pyvene saved nothing there"):
        read_pyvene(tmp_path, wide)
    with pytest.raises(UserError, match="holds no intervention"):
        read(tmp_path, wide)
    with pytest.raises(UserError, match="no folder or file nothing"):
        read("nothing", wide)
