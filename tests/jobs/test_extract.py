"""``extract`` and ``store`` as a person runs them: activations in a store, the run refers to them, the rest is collected."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from layerwise.__main__ import main
from layerwise.activations.collect import collect
from layerwise.activations.store import Store
from layerwise.data.load import load_dataset
from layerwise.jobs import JobEntry
from layerwise.models.config import ModelConfig
from layerwise.models.loading import load_model

JOBS = {
    "extract": JobEntry("layerwise.jobs.extract", "fill the store"),
    "store": JobEntry("layerwise.jobs.store", "list the store"),
}
DATA = ["--dataset.name", "cities", "--dataset.limit", "12"]


@pytest.fixture
def job(
    client: Any, database: str, tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Callable[..., tuple[int, str, str, Any]]:
    """Runs a job; gives its exit code, what it printed, and the latest run."""  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)

    def run(name: str, *flags: str) -> tuple[int, str, str, Any]:
        capsys.readouterr()
        model = ["--model", str(tiny_model_folder), *DATA] if name == "extract" else []
        code = main([name, *model, "--store", "activations", *flags], jobs=JOBS)
        printed = capsys.readouterr()
        runs = client.search_runs(["0"], order_by=["attributes.start_time DESC"], max_results=1)
        return code, printed.out, printed.err, runs[0]

    return run


def test_the_store_is_filled_and_the_run_refers_to_it(job, tmp_path, tiny_model_folder) -> None:
    code, out, err, run = job("extract", "--sites", "resid_post.*,z.1", "--poolers", "mean,quantile:0.5")
    assert code == 0
    dataset = load_dataset("cities")
    model = load_model(ModelConfig(name=str(tiny_model_folder)))
    tokens = run.data.metrics["extract/tokens"]
    assert f"collect: 12 texts, {tokens:.0f} tokens, 3 sites × 2 poolers: 4.6 kB" in err
    assert run.info.status == "FINISHED"
    assert run.data.tags["layerwise.sites"] == "resid_post.*,z.1"
    assert run.data.tags["layerwise.pooler"] == "mean,quantile:0.5"
    assert run.data.tags["layerwise.model_fingerprint"] == model.fingerprint
    assert run.data.metrics["extract/texts"] == 12
    assert run.data.metrics["extract/computed_tokens"] == tokens > 12 * 5
    assert run.data.metrics["extract/tokens_per_second"] == pytest.approx(tokens / run.data.metrics["extract/seconds"])
    [part] = Store(tmp_path / "activations").parts()
    assert run.data.tags["layerwise.activations"] == part.key
    assert run.data.metrics["extract/bytes"] == part.bytes()
    assert part.key in out
    reference = json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/activations.json"))
    assert reference["store"] == str(tmp_path / "activations")
    assert reference["parts"][part.key]["info"]["dataset"] == dataset.name
    [given] = run.inputs.dataset_inputs
    assert given.dataset.name == "cities"


def test_what_was_extracted_is_what_is_collected(job, tmp_path, tiny_model_folder) -> None:
    job("extract", "--poolers", "mean")
    from layerwise.data.config import DatasetConfig

    dataset = load_dataset(DatasetConfig(name="cities", limit=12))
    model = load_model(ModelConfig(name=str(tiny_model_folder)))
    read = collect(model, dataset, "resid_post.*", "mean", store=Store(tmp_path / "activations"), progress=False)
    assert read.report.computed_tokens == 0
    plain = collect(model, dataset, "resid_post.*", "mean", progress=False)
    np.testing.assert_allclose(read.matrix("resid_post.1"), plain.matrix("resid_post.1"), rtol=1e-5, atol=1e-6)


def test_a_second_time_the_finished_run_is_reused_unless_the_store_was_lost(job, tmp_path) -> None:
    flags = ("--poolers", "max")
    first = job("extract", *flags)[3]
    code, out, _, run = job("extract", *flags)
    assert (code, run.info.run_id) == (0, first.info.run_id)
    assert f"already done: run {first.info.run_id}" in out
    [shard] = (tmp_path / "activations").rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    rebuilt = job("extract", *flags)[3]
    assert rebuilt.info.run_id != first.info.run_id
    assert rebuilt.data.metrics["extract/computed_tokens"] == first.data.metrics["extract/tokens"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--sites", "resid_post.9"), "layer 9 in 'resid_post.9' is out of range"),
        (("--poolers", "men"), "men"),
        (("--dtype", "float8"), "float8"),
        (("--token_budget", "0"), "token_budget must be at least 1, got"),
    ],
)
def test_mistakes_end_the_run_with_the_reason(job, flags, message) -> None:
    code, _, err, _ = job("extract", *flags)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_the_store_is_listed_checked_and_cleared(job, client, tmp_path) -> None:
    kept = job("extract", "--poolers", "last")[3]
    dropped = job("extract", "--poolers", "first")[3]
    client.delete_run(dropped.info.run_id)
    keys = {run.info.run_id: run.data.tags["layerwise.activations"] for run in (kept, dropped)}

    out = job("store")[1]
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert "on cities: 12 texts, resid_post.0|last and 1 more, float32" in lines[keys[kept.info.run_id]]
    assert lines[keys[dropped.info.run_id]].endswith("no run refers to it")
    assert not lines[keys[kept.info.run_id]].endswith("no run refers to it")
    assert "2 parts," in out

    assert "every finished shard is whole" in job("store", "--action", "verify")[1]
    store = Store(tmp_path / "activations")
    [shard] = store.find(keys[kept.info.run_id]).folder.glob("*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert f"{keys[kept.info.run_id]}: 1 shards damaged or gone" in job("store", "--action", "verify", "--force")[1]

    assert "nothing to remove" in job("store", "--action", "collect")[1]  # nothing is a day old
    yesterday = time.time() - 2 * 86_400
    for path in store.folder.rglob("*"):
        os.utime(path, (yesterday, yesterday))
    code, out, _, run = job("store", "--action", "collect", "--force")
    assert code == 0
    assert out.startswith(f"removed {keys[dropped.info.run_id]}\nfreed ")
    assert run.data.metrics["store/removed_parts"] == 1
    assert [part.key for part in store.parts()] == [keys[kept.info.run_id]]

    assert "freed" in job("store", "--action", "remove", "--key", keys[kept.info.run_id][:10])[1]
    assert store.parts() == []


@pytest.mark.parametrize("action", ["list", "verify", "collect"])
def test_what_only_looks_leaves_no_run(job, client, action) -> None:
    before = job("extract", "--poolers", "last")[3]
    code, out, _, last = job("store", "--action", action)
    assert (code, last.info.run_id) == (0, before.info.run_id)
    assert "recorded as run" not in out


def test_a_listing_under_mlflow_run_ends_the_run_it_was_given(job, client, monkeypatch) -> None:
    job("extract", "--poolers", "last")
    given = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    out = job("store")[1]
    run = client.get_run(given)
    assert run.info.status == "FINISHED"
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/summary.txt").strip() in out


def test_removing_needs_a_key(job) -> None:
    code, _, err, _ = job("store", "--action", "remove")
    assert (code, "needs the key of a part" in err) == (2, True)
