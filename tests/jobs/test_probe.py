"""``probe`` from the command line to the tracking server, in each of its forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

import layerwise
from layerwise.__main__ import main
from layerwise.errors import UserError
from layerwise.probes.fitted import FittedProbe

QUICK = ("--controls.shuffles", "2", "--controls.control_tasks", "2", "--probe", "ridge")
SMALL = ("--dataset.name", "grammar", "--dataset.config", "tense", "--dataset.limit", "120")


def artifacts(client: Any, run: Any, folder: str) -> set[str]:
    return {Path(item.path).name for item in client.list_artifacts(run.info.run_id, folder)}


def table(client: Any, run: Any, name: str, tmp_path: Path) -> pd.DataFrame:
    return pd.read_parquet(client.download_artifacts(run.info.run_id, f"tables/{name}.parquet", str(tmp_path)))


def test_a_curve_with_its_controls_is_recorded(run_job: Callable[..., Any], client: Any, tmp_path: Path) -> None:
    run = run_job("probe", *SMALL, *QUICK, "--controls.random_twin", "true", "--evaluation.learning_curve", "auto")
    metrics, tags = run.data.metrics, run.data.tags
    assert run.info.status == "FINISHED"
    assert {
        "test/accuracy",
        "test/accuracy_low",
        "cv/accuracy",
        "baseline/majority",
        "baseline/bag_of_words",
    } <= metrics.keys()
    assert {
        "control/shuffled",
        "control/selectivity",
        "control/random_twin",
        "code/bits",
        "confound/length",
    } <= metrics.keys()
    curve = client.get_metric_history(run.info.run_id, "curve/accuracy")
    assert [point.step for point in sorted(curve, key=lambda point: point.step)] == [0, 1]
    assert metrics["best/curve/accuracy"] == max(point.value for point in curve)
    assert tags["layerwise.job"] == "probe"
    assert tags["layerwise.dataset"] == "grammar"
    assert {"layer_curve.html", "layer_curve.png", "confusion.html", "roc.png", "learning_curve.html"} <= artifacts(
        client, run, "figures"
    )
    sites = table(client, run, "sites", tmp_path)
    assert sites["site"].tolist() == ["resid_post.0", "resid_post.1"]
    assert {"score", "low", "high", "shuffled", "selectivity", "random_twin"} <= set(sites.columns)
    assert {dataset.tags[0].value for dataset in run.inputs.dataset_inputs} == {"train", "test"}


def test_the_same_command_reuses_the_run(run_job: Callable[..., Any]) -> None:
    command = ("probe", *SMALL, *QUICK, "--sites", "resid_post.0")
    first = run_job(*command)
    assert run_job(*command).info.run_id == first.info.run_id
    assert run_job(*command, "--force").info.run_id != first.info.run_id
    assert run_job(*command, "--seed", "1").info.run_id != first.info.run_id


def test_the_same_config_gives_the_same_numbers(run_job: Callable[..., Any]) -> None:
    first = run_job("probe", *SMALL, *QUICK)
    again = run_job("probe", "--from_run", first.info.run_id, "--force", model=False)
    assert again.info.run_id != first.info.run_id
    assert again.data.metrics == first.data.metrics


def test_the_logged_probe_predicts_as_it_was_judged(run_job: Callable[..., Any], client: Any, tmp_path: Path) -> None:
    run = run_job("probe", *SMALL, *QUICK)
    judged = table(client, run, "test_predictions", tmp_path)
    probe = layerwise.load_probe(f"runs:/{run.info.run_id}")
    assert probe.predict(judged["text"].tolist())["label"].tolist() == judged["predicted"].tolist()
    served = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/probe").predict(judged[["text"]])
    assert served["label"].tolist() == judged["predicted"].tolist()
    np.testing.assert_allclose(served["score"], judged["probability_present"], atol=1e-4)


@pytest.mark.parametrize("layers", ["mean", "max", "min", "concat", "rows"])
def test_layers_joined(layers: str, run_job: Callable[..., Any], client: Any, tmp_path: Path) -> None:
    run = run_job("probe", *SMALL, *QUICK, "--layers", layers)
    assert table(client, run, "sites", tmp_path)["site"].tolist() == [f"{layers} of resid_post.0 to resid_post.1"]
    judged = table(client, run, "test_predictions", tmp_path)
    probe = layerwise.load_probe(f"runs:/{run.info.run_id}")
    assert probe.predict(judged["text"].tolist())["label"].tolist() == judged["predicted"].tolist()


def test_several_poolers_give_a_map(run_job: Callable[..., Any], client: Any) -> None:
    run = run_job("probe", *SMALL, *QUICK, "--poolers", "last,mean,quantile:0.5")
    assert "site_pooler.html" in artifacts(client, run, "figures")
    assert "curve/accuracy_resid_post_quantile_0.5" in run.data.metrics


def test_regression(run_job: Callable[..., Any], client: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["the", "dog", "cat", "runs"], size=rng.integers(3, 12))) for _ in range(80)]
    pd.DataFrame({"text": texts, "label": [len(text.split()) + 0.5 for text in texts]}).to_csv(
        tmp_path / "length.csv", index=False
    )
    run = run_job("probe", "--dataset", "length.csv", "--poolers", "sum", *QUICK)
    assert run.data.metrics["test/r2"] > 0.8  # the sum over tokens knows how many there were
    assert "predictions.png" in artifacts(client, run, "figures")


def test_labels_of_tokens(run_job: Callable[..., Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = {"dog": "noun", "cat": "noun", "city": "noun", "runs": "verb", "sleeps": "verb", "was": "verb"}
    rows = [
        {"words": list(words), "tags": [kinds[word] for word in words]}
        for words in (rng.choice(list(kinds), size=4) for _ in range(40))
    ]
    pd.DataFrame(rows).to_json(tmp_path / "tags.jsonl", orient="records", lines=True)
    run = run_job(
        "probe", "--dataset", "tags.jsonl", "--dataset.columns.words", "words", "--dataset.columns.tags", "tags",
        "--poolers", "none", "--sites", "embed,resid_post.0", *QUICK,
    )  # fmt: skip
    assert run.data.metrics["test/accuracy"] > 0.95  # a word's class is in its own embedding


def test_attention_probe(run_job: Callable[..., Any]) -> None:
    run = run_job(
        "probe", *SMALL, "--probe", "attention", "--probe.max_epochs", "3", "--poolers", "none", "--sites", "resid_post.0",
        "--controls.shuffles", "0", "--controls.control_tasks", "0", "--controls.code_length", "false",
    )  # fmt: skip
    assert "test/accuracy" in run.data.metrics


def test_contrast_consistent_search(run_job: Callable[..., Any]) -> None:
    run = run_job(
        "probe", "--dataset", "cities", "--dataset.limit", "100", "--probe", "ccs", "--probe.tries", "2", "--probe.epochs", "50",
        "--sites", "resid_post.1", "--controls.shuffles", "0", "--controls.control_tasks", "0", "--controls.code_length", "false",
    )  # fmt: skip
    assert "test/accuracy" in run.data.metrics


def test_activations_of_ones_own(run_job: Callable[..., Any], client: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    pd.DataFrame({"text": [f"the dog {i}" for i in range(80)], "label": y}).to_csv(tmp_path / "own.csv", index=False)
    np.savez(
        tmp_path / "own.npz",
        **{"layer.0": rng.normal(size=(80, 4)), "layer.1": rng.normal(size=(80, 4)) + 3 * y[:, None]},
    )
    run = run_job("probe", "--dataset", "own.csv", "--activations", "own.npz", *QUICK, model=False)
    assert run.data.tags["layerwise.site"] == "layer.1"
    assert run.data.metrics["test/accuracy"] > 0.95

    kept = FittedProbe.load(Path(client.download_artifacts(run.info.run_id, "probe", str(tmp_path))))
    found = kept.predict_features(np.load(tmp_path / "own.npz")["layer.1"])
    assert (found.labels == y).mean() > 0.95
    with pytest.raises(UserError, match="activations of your own and belongs to no model"):
        kept.load_model()
    with pytest.raises(UserError, match="no probe that reads texts"):
        layerwise.load_probe(f"runs:/{run.info.run_id}")


def test_transfer(run_job: Callable[..., Any], client: Any, tmp_path: Path) -> None:
    run = run_job(
        "probe", "--dataset", "cities", "--dataset.limit", "100", "--transfer", "cities_negated", "--probe", "mass_mean",
        "--controls.shuffles", "0", "--controls.control_tasks", "0",
    )  # fmt: skip
    found = table(client, run, "transfer", tmp_path)
    assert len(found) == 2 * 4
    assert {"transfer_score.html", "transfer_cosine.png"} <= artifacts(client, run, "figures")
    same = found[found["train"] == found["test"]]
    np.testing.assert_allclose(same["cosine"], 1.0)


@pytest.mark.parametrize("where", [("--sites", "embed"), ("--layers", "concat"), ("--layers", "rows")])
def test_transfer_where_there_is_no_one_layer(
    where: tuple[str, str], run_job: Callable[..., Any], client: Any, tmp_path: Path
) -> None:
    run = run_job(
        "probe", "--dataset", "cities", "--dataset.limit", "100", "--transfer", "cities_negated", "--probe", "mass_mean",
        "--controls.shuffles", "0", "--controls.control_tasks", "0", *where,
    )  # fmt: skip
    assert len(table(client, run, "transfer", tmp_path)) == 4
    assert "transfer_score.html" in artifacts(client, run, "figures")


OWN_PROBE = """
from sklearn.linear_model import LogisticRegression

class Probe(LogisticRegression):
    pass
"""


def test_a_probe_of_ones_own_runs_again_only_with_consent(
    run_job: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_probe.py").write_text(OWN_PROBE)
    quick = ("--controls.shuffles", "0", "--controls.control_tasks", "0", "--sites", "resid_post.1")
    run = run_job("probe", *SMALL, *quick, "--probe", "custom:my_probe.py:Probe")
    assert run.data.params["probe.path"] == "my_probe.py:Probe"
    uri, texts = f"runs:/{run.info.run_id}", ["the dog runs ."]
    with pytest.raises(UserError, match="trust_remote_code=True"):
        layerwise.load_probe(uri)
    expected = layerwise.load_probe(uri, trust_remote_code=True).predict(texts)
    assert main(["apply", "--probe", uri, "--texts", texts[0]]) == 2
    assert "--trust_probe_code" in capsys.readouterr().err
    applied = run_job("apply", "--probe", uri, "--texts", texts[0], "--trust_probe_code", model=False)
    assert main(["apply", "--from_run", applied.info.run_id, "--force"]) == 2
    assert f"the code of the probe {uri}" in capsys.readouterr().err
    monkeypatch.setenv("LAYERWISE_TRUST_REMOTE_CODE", "1")  # as a server has it
    served = mlflow.pyfunc.load_model(f"{uri}/probe").predict(pd.DataFrame({"text": texts}))
    pd.testing.assert_frame_equal(served, expected[["label", "score"]])
