"""A fingerprint is the same for the same model wherever it lies, and another for any change that counts."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from layerwise.errors import UserError
from layerwise.models.config import ModelConfig
from layerwise.models.fingerprint import weights_digest
from layerwise.models.loading import load_model
from layerwise.models.model import LanguageModel


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def fingerprint(folder: Path, **fields: object) -> str:
    return load_model(ModelConfig(name=str(folder), **fields)).fingerprint  # type: ignore[arg-type]


def test_copies_shards_and_models_in_memory_agree(folder: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    module = AutoModelForCausalLM.from_pretrained(folder)
    module.save_pretrained(tmp_path / "shards", max_shard_size="2KB")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    expected = fingerprint(folder)
    assert expected == fingerprint(tiny_model_folder) == fingerprint(tmp_path / "shards")
    assert expected == LanguageModel(module, tokenizer, "in memory").fingerprint


@pytest.mark.parametrize("index", range(21))
def test_one_bit_in_any_weight_changes_it(folder: Path, tiny_model_folder: Path, index: int) -> None:
    state = load_file(folder / "model.safetensors")
    assert len(state) == 21
    name = sorted(state)[index]
    state[name].view(-1).view(torch.int32)[-1] ^= 1
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(folder) != fingerprint(tiny_model_folder)


def test_change_of_the_file_is_seen_though_it_was_remembered(folder: Path) -> None:
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"] *= 2
    time.sleep(0.01)  # the time of change is part of the identity remembered
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(folder) != before


def test_training_in_place_changes_it_and_undoing_restores_it(folder: Path) -> None:
    model = load_model(str(folder))
    state = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    optimizer = torch.optim.SGD(model.module.parameters(), lr=0.1)
    before = model.fingerprint
    ids = torch.tensor([[4, 5, 6]], device=model.device)
    model.module(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    assert model.fingerprint != before
    model.module.load_state_dict(state)
    assert model.fingerprint == before


def test_training_before_the_first_look_is_seen(folder: Path) -> None:
    expected = fingerprint(folder)
    model = load_model(str(folder))
    with torch.no_grad():
        model.module.model.norm.weight += 1
    assert model.fingerprint != expected
    assert fingerprint(folder) == expected


def test_settings_that_change_the_numbers_change_it(folder: Path) -> None:
    found = [
        fingerprint(folder),
        fingerprint(folder, dtype="bfloat16"),
        fingerprint(folder, model_kwargs={"rms_norm_eps": 0.1}),
        fingerprint(folder, random_init=True, random_seed=7),
        fingerprint(folder, tokenizer_kwargs={"eos_token": "."}, chat_template="{{ messages[0]['content'] }} ."),
        fingerprint(folder, chat_template="{{ messages[0]['content'] }} the"),
    ]
    assert len(set(found)) == len(found)


def test_settings_that_do_not_change_the_numbers_do_not(folder: Path) -> None:
    assert fingerprint(folder) == fingerprint(folder, attention="eager") == fingerprint(folder, device="cpu")


def test_another_tokenizer_changes_it(folder: Path) -> None:
    before = fingerprint(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["paris"], vocabulary["rome"] = vocabulary["rome"], vocabulary["paris"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert fingerprint(folder) != before


def test_token_added_in_python_changes_it(folder: Path) -> None:
    model = load_model(str(folder))
    before = model.fingerprint
    model.tokenizer.add_tokens(["berlin"])
    assert model.fingerprint != before


def test_remembered_digest_is_written_once_and_a_spoilt_note_is_made_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path / "cache"))
    before = fingerprint(folder)
    (note,) = (tmp_path / "cache" / "fingerprints").iterdir()
    assert fingerprint(folder) == before
    note.write_text("{")
    assert fingerprint(folder) == before
    assert json.loads(note.read_text())["weights"]
    assert [note] == list((tmp_path / "cache" / "fingerprints").iterdir())


def test_weights_that_are_not_there_say_so() -> None:
    with torch.device("meta"):
        module = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match="2 weights are offloaded and cannot be fingerprinted, weight for one"):
        weights_digest(module)


def test_cache_that_cannot_be_written_costs_only_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fingerprint(folder)
    monkeypatch.setenv("LAYERWISE_CACHE", str(folder / "config.json"))  # a file stands where the folder would be
    assert fingerprint(folder) == expected
