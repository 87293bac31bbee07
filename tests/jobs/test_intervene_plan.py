"""``intervene`` with ``plan``: any plan on pairs, before and under it, beside a control; what it writes; what it logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file

from layerwise.__main__ import main

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
    import torch

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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "takes a plan, or read: where to find one"),
        (("--intervention.read", "nowhere"), "no folder or file nowhere, and it is no repository"),
        (("--intervention.plan", '{"steps": [{"operation": "interchange", "sites": "mlp_out.0"}]}', "--intervention.prompts", '["a"]'), "writes no texts"),
        (("--intervention.plan", '{"steps": [{"operation": "interchange", "sites": "mlp_out.9"}]}'), "layer 9 in 'mlp_out.9' is out of range"),
    ],
)  # fmt: skip
def test_mistakes_are_said(
    flags: tuple[str, ...], message: str, pairs: Any, tiny_model_folder: Path, database: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    assert main(["intervene", "--model", str(tiny_model_folder), "--intervention", "plan", *flags, *pairs]) == 2
    assert message in capsys.readouterr().err
