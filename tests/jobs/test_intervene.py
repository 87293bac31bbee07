"""``intervene`` with the kinds that work on pairs of prompts: what they record, and what they tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from layerwise.__main__ import main

PLACES = {"paris": "france", "rome": "italy", "london": "england", "madrid": "spain"}


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    """Three pairs of one length, with their subject named."""
    rows = [
        {
            "clean": f"the city of {one} is in", "corrupted": f"the city of {other} is in",
            "answer": f" {PLACES[one]}", "corrupted_answer": f" {PLACES[other]}",
            "parts": {"subject": one}, "corrupted_parts": {"subject": other},
        }
        for one, other in (("paris", "rome"), ("rome", "london"), ("london", "madrid"))
    ]  # fmt: skip
    path = tmp_path / "pairs.jsonl"
    pd.DataFrame(rows).to_json(path, orient="records", lines=True)
    return str(path)


KINDS = {
    "ablation": (
        "{kind: ablation, method: zero, controls: 2}",
        {"ablation", "controls"},
        {"ablation_heads", "ablation_layers"},
    ),
    "patching": (
        "{kind: patching, sites: ['resid_pre.*', 'z.*.*'], positions: [tokens], controls: 2}",
        {"denoising", "noising", "denoising_controls", "noising_controls"},
        {"denoising_resid_pre", "noising_resid_pre", "denoising_z_4_subject", "noising_z_6_in"},
    ),
    "tracing": (
        "{kind: tracing, draws: 1, controls: 1}",
        {"tracing", "tracing_controls"},
        {"tracing_resid_post", "tracing_mlp_out"},
    ),
    "path": ("{kind: path}", {"paths"}, {"path_heads", "path_layers"}),
    "cells": ("{kind: attribution, sample: 6}", {"cells", "sample"}, {"agreement", "estimate_mlp_out"}),
    "edges": ("{kind: attribution, of: edges, steps: 2, sample: 6}", {"edges", "sample"}, {"agreement", "edges"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_records_tables_and_figures_beside_its_anchors(
    name: str, pairs: str, run_job: Callable[..., Any], client: Any
) -> None:
    settings, tables, figures = KINDS[name]
    run = run_job("intervene", "--intervention", settings, "--pairs", pairs)
    files = {
        Path(item.path).name
        for folder in ("tables", "figures")
        for item in client.list_artifacts(run.info.run_id, folder)
    }
    assert {f"{table}.parquet" for table in tables} <= files
    assert {f"{figure}.{ending}" for figure in figures for ending in ("html", "png")} <= files, sorted(files)
    assert "clean/logit_difference" in run.data.metrics
    other = "noised" if name == "tracing" else "corrupted"
    assert run.data.metrics[f"{other}/logit_difference"] != run.data.metrics["clean/logit_difference"]
    assert run.data.tags["layerwise.intervention"] in settings
    assert client.get_run(run.info.run_id).inputs.dataset_inputs[0].dataset.name == "pairs"


def test_the_same_again_is_found_and_another_metric_is_not(
    pairs: str, run_job: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--intervention", "{kind: ablation, parts: [mlps], method: zero}", "--pairs", pairs]
    first = run_job("intervene", *flags)
    assert run_job("intervene", *flags).info.run_id == first.info.run_id
    other = run_job("intervene", *flags, "--metric", "rank")
    assert other.info.run_id != first.info.run_id
    assert "clean/rank" in other.data.metrics


def test_a_metric_of_ones_own(pairs: str, run_job: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def spread(logits, answers, others):\n    return logits.std(-1)\n")
    run = run_job(
        "intervene", "--intervention", "{kind: ablation, parts: [mlps]}", "--pairs", pairs, "--metric", "mine.py:spread"
    )
    assert run.data.metrics["clean/spread"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metric", "logit_diff"], "Did you mean 'logit_difference'"),
        (["--intervention", "patchin"], "Did you mean 'patching'"),
        (["--intervention", "{kind: patching, positions: ['9']}"], "position 9 is beyond text 0"),
        (["--intervention", "{kind: patching, sites: [z.0.7]}"], "head 7"),
        (["--intervention", "{kind: tracing, part: verb}"], "no part 'verb'"),
        (["--intervention", "{kind: attribution}", "--metric", "accuracy"], "has no gradient"),
        (["--model", "null"], "needs a model"),
        (["--token_budget", "0"], "token_budget must be at least 1"),
    ],
)
def test_what_is_wrong_is_told_in_a_line_or_two(
    flags: list[str], message: str, pairs: str, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str], database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    model = [] if "--model" in flags else ["--model", str(tiny_model_folder)]
    assert main(["intervene", *model, "--pairs", pairs, *flags]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
