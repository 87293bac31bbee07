"""``intervene`` with ``plan``: any plan on pairs, before and under it, beside a control; what it writes; what it logs."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from layerwise.__main__ import main
from layerwise.interventions.intervened import Intervened
from layerwise.interventions.plan import Plan
from layerwise.interventions.saving import save
from layerwise.models.loading import load_model

CITIES, DOGS = ("the city of paris is in", "the city of rome is in"), ("a dog", "the dog")
PAIRS = [
    {"clean": one, "corrupted": other, "answer": answer, "corrupted_answer": not_this}
    for texts, answers in ((CITIES, (" france", " italy")), (DOGS, (" runs", " is")))
    for one, other, answer, not_this in ((*texts, *answers), (*texts[::-1], *answers[::-1]))
]


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[str, str]:
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps(PAIRS))
    return ("--pairs.name", str(file))


def table(client: Any, run: Any, name: str, folder: Path) -> pd.DataFrame:
    return pd.read_parquet(client.download_artifacts(run.info.run_id, f"tables/{name}.parquet", str(folder)))


def test_a_residual_of_the_other_prompt_gives_its_answer(
    run_job: Callable[..., Any], client: Any, pairs: Any, tmp_path: Path
) -> None:
    """The last residual at the last token decides: under the plan the clean prompt is answered as the corrupted one."""
    plan = json.dumps({"steps": [{"operation": "interchange", "sites": "resid_post.-1", "positions": "last"}]})
    run = run_job("intervene", "--intervention", "plan", "--intervention.plan", plan, *pairs)
    rows = table(client, run, "pairs", tmp_path)
    np.testing.assert_allclose(rows["plan"], rows["corrupted"], atol=1e-4)
    assert (rows["clean"] - rows["corrupted"]).abs().max() > 1e-3
    assert (rows["control"] - rows["plan"]).abs().max() > 1e-4  # the other pair's prompt
    metrics = run.data.metrics
    assert metrics["plan/logit_difference"] == pytest.approx(metrics["corrupted/logit_difference"], abs=1e-4)
    assert metrics["plan/change_low"] <= metrics["plan/change"] <= metrics["plan/change_high"]
    assert client.get_run(run.info.run_id).outputs.model_outputs == []  # it needs a second prompt: no model of its own
    files = {item.path for item in client.list_artifacts(run.info.run_id, "plan")}
    assert files == {"plan/plan.json", "plan/tensors.safetensors"}


def test_a_steering_plan_is_a_model_of_the_registry(
    run_job: Callable[..., Any], client: Any, pairs: Any, tmp_path: Path
) -> None:
    save_file({"push": torch.linspace(-4, 4, 16)}, tmp_path / "push.safetensors")
    step = {
        "operation": {"kind": "add", "vector": str(tmp_path / "push.safetensors")},
        "sites": "resid_post.0",
        "when": "every",
    }
    (tmp_path / "steer.yaml").write_text(json.dumps({"steps": [step]}))
    run = run_job(
        "intervene", "--intervention", "plan", "--intervention.read", str(tmp_path / "steer.yaml"), "--metric", "kl",
        "--intervention.prompts", '["the city of", "a dog"]', "--intervention.max_new_tokens", "5", "--intervention.register", "pushed", *pairs,
    )  # fmt: skip
    assert run.data.metrics["plan/kl"] > run.data.metrics["clean/kl"] == pytest.approx(0, abs=1e-6)
    assert run.data.metrics["control/kl"] > 0
    samples = table(client, run, "samples", tmp_path)
    served = mlflow.pyfunc.load_model("models:/pushed/1").predict(samples[["prompt"]], params={"max_new_tokens": 5})
    assert served["text"].tolist() == samples["plan"].tolist()
    assert samples["plan"].tolist() != samples["plain"].tolist()


def steps(*said: dict[str, Any]) -> tuple[str, str]:
    return ("--intervention.plan", json.dumps({"steps": list(said)}))


SWAP = {"operation": "interchange", "sites": "resid_post.0"}
ZERO = {"operation": "zero", "sites": "resid_post.0"}
ROTATED = {"operation": {"kind": "low_rank_rotation", "rank": 17}, "sites": "resid_post.0"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "takes a plan, or read: where to find one"),
        (("--intervention.read", "nowhere"), "no folder or file nowhere, and it is no repository"),
        ((*steps({"operation": "interchange", "sites": "mlp_out.0"}), "--intervention.prompts", '["a"]'), "writes no texts"),
        (steps({"operation": "interchange", "sites": "mlp_out.9"}), "layer 9 in 'mlp_out.9' is out of range"),
        (steps(SWAP | {"positions": "9"}), "position 9 is beyond text"),
        (steps(SWAP | {"positions": "part:verb"}), "no part 'verb'"),
        (steps(SWAP | {"sites": "z.0.7"}), "head 7"),
        (steps(SWAP | {"positions": "all"}), "one in the source for all"),
        (steps(ROTATED), "no rotation of rank 17"),
        (steps(SWAP | {"dims": "0-16"}), "dims 0-16 are beyond the 16 numbers"),
        (steps(SWAP | {"sites": "transformer.h.0.mlp.output"}), "transformer.h.0.mlp"),
        (steps(SWAP | {"name": "swap"}, ZERO | {"name": "zero"}), "zero overwrites what swap wrote at resid_post.0"),
        (steps(SWAP | {"when": "decode"}), "acts on new tokens only"),
        (steps({"operation": "interchang", "sites": "resid_post.0"}), "interchange"),
        (steps({"operation": "zero", "site": "resid_post.0"}), "sites"),
    ],
)  # fmt: skip
def test_mistakes_are_said(
    flags: tuple[str, ...], message: str, pairs: Any, tiny_model_folder: Path, database: str, tmp_path: Path, client: Any,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    uneven = [pair | {"clean": f"the {pair['clean']}"} for pair in PAIRS]
    if "all" in str(flags):
        (tmp_path / "pairs.json").write_text(json.dumps(uneven))
    assert main(["intervene", "--model", str(tiny_model_folder), "--intervention", "plan", *flags, *pairs]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert "RUNNING" not in {run.info.status for run in client.search_runs(["0"])}


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("evil was run",)


def a_pyvene_folder_with_code(folder: Path, model: Any) -> None:
    key = "layer.0.comp.block_output.unit.pos.nunit.1#0"
    config = {
        "representations": [[0, "block_output", "pos", 1, *[None] * 10]],
        "intervention_types": ["<class 'pyvene.models.interventions.RotatedSpaceIntervention'>"],
        "sorted_keys": [key], "intervention_dimensions": ["16"],
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / f"intkey_{key}.bin").open("wb") as file:
        pickle.dump({"rotate_layer.parametrizations.weight.original": Evil()}, file)


def a_plan_with_a_pickle(folder: Path, model: Any) -> None:
    save(Intervened(model, Plan.of({"steps": [ZERO]})), folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))


def a_plan_of_another_architecture(folder: Path, model: Any) -> None:
    changed(folder, model, "LlamaForCausalLM", "GPT2LMHeadModel", "resid_post.0", "transformer.h.0.output")


def a_plan_of_a_deeper_model(folder: Path, model: Any) -> None:
    changed(folder, model, "resid_post.0", "resid_post.3", "resid_post-0", "resid_post-3")


def a_plan_of_a_wider_model(folder: Path, model: Any) -> None:
    save(
        Intervened(model, Plan.of({"steps": [ROTATED | {"operation": {"kind": "low_rank_rotation", "rank": 4}}]})),
        folder,
    )
    tensors = {name: torch.zeros(24, 4) for name in load_file(folder / "tensors.safetensors")}
    save_file(tensors, folder / "tensors.safetensors")


def changed(folder: Path, model: Any, *words: str) -> None:
    save(Intervened(model, Plan.of({"steps": [ZERO]})), folder)
    text = (folder / "plan.json").read_text()
    for word, other in zip(words[::2], words[1::2], strict=True):
        assert word in text
        text = text.replace(word, other)
    (folder / "plan.json").write_text(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (a_pyvene_folder_with_code, "which could run code: nothing was read"),
        (a_plan_with_a_pickle, "may be a pickle"),
        (a_plan_of_another_architecture, "saved for GPT2LMHeadModel, does not fit: the model has no module 'transformer.h.0'"),
        (a_plan_of_a_deeper_model, "layer 3 in 'resid_post.3' is out of range"),
        (a_plan_of_a_wider_model, "the plan was made for another model"),
    ],
)  # fmt: skip
def test_folders_that_do_not_fit_or_could_run_code(
    make: Callable[[Path, Any], None], message: str, pairs: Any, tiny_model_folder: Path, database: str, tmp_path: Path, client: Any,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "saved"
    make(folder, load_model(str(tiny_model_folder)))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    read = ("--intervention", "plan", "--intervention.read", str(folder))
    assert main(["intervene", "--model", str(tiny_model_folder), *read, *pairs]) == 2
    said = capsys.readouterr()
    print(said.err)
    assert message in said.err
    assert "Traceback" not in said.err
    assert "evil was run" not in said.out
    assert "RUNNING" not in {run.info.status for run in client.search_runs(["0"])}
