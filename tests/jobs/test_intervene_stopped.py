"""``intervene`` stopped in the middle, by kill -9 and by Ctrl-C, and started again: nothing that was measured is measured twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import numpy as np
import pandas as pd
import pytest

import layerwise

# Of one's own: as slow as SLOWLY says, and counted.
METRIC = """
import os, time
def slowly(logits, answers, others):
    time.sleep(float(os.environ["SLOWLY"]))
    with open(os.environ["COUNTED"], "a") as file:
        file.write("x")
    return logits.std(-1)
"""
PAIRS = [
    {
        "clean": f"the city of {one} is in", "corrupted": f"the city of {other} is in", "answer": f" {its}", "corrupted_answer": f" {others}",
        "parts": {"subject": one}, "corrupted_parts": {"subject": other},
    }
    for one, its, other, others in (("paris", "france", "rome", "italy"), ("rome", "italy", "london", "england"))
]  # fmt: skip
TEXTS = ("--texts", "numbers", "--texts.limit", "60")
PRICE = ("--intervention.random", "3", "--intervention.neutral.limit", "4")
SITES = ("--intervention.sites", "resid_post.0,resid_post.1")
KINDS = {
    "patching": (("--intervention", "{kind: patching, controls: 0}", "--pairs", "pairs.jsonl"), "noising"),
    "steering": ((*TEXTS, "--intervention", "steering", *PRICE), "doses"),
    "iti": ((*TEXTS, "--intervention", "iti", *PRICE), "doses"),
    "erasure": (
        (*TEXTS, "--intervention", "{kind: erasure, methods: [leace, mean_projection], apart: true}", *SITES, *PRICE[2:]), "arms",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "by"),
    [
        ("patching", signal.SIGKILL),
        pytest.param("steering", signal.SIGINT, marks=pytest.mark.thorough),
        pytest.param("iti", signal.SIGKILL, marks=pytest.mark.thorough),
        ("erasure", signal.SIGINT),
    ],
)
def test_what_was_measured_before_it_was_stopped_is_not_measured_again(
    kind: str, by: signal.Signals, database: str, client: Any, tmp_path: Path, tiny_model_folder: Path
) -> None:
    (tmp_path / "mine.py").write_text(METRIC)
    pd.DataFrame(PAIRS).to_json(tmp_path / "pairs.jsonl", orient="records", lines=True)
    flags, table = KINDS[kind]
    # Outside of the checkout: a commit while this runs makes it other code, which goes on with nothing.
    copytree(Path(layerwise.__file__).parent, tmp_path / "code" / "layerwise", ignore=ignore_patterns("__pycache__"))

    def started(name: str, slowly: float, *more: str) -> tuple[subprocess.Popen[str], Path]:
        counted = tmp_path / name
        environment = os.environ | {
            "MLFLOW_TRACKING_URI": database, "LAYERWISE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1",
            "SLOWLY": str(slowly), "COUNTED": str(counted), "PYTHONPATH": str(tmp_path / "code"),
        }  # fmt: skip
        command = [
            sys.executable, "-m", "layerwise", "intervene", "--model", str(tiny_model_folder), "--metric", "mine.py:slowly",
            "--token_budget", "16", *flags, *more,
        ]  # fmt: skip
        return subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ), counted

    def finished(name: str, *more: str) -> tuple[Any, int]:
        process, counted = started(name, 0, *more)
        said, _ = process.communicate(timeout=200)
        assert process.returncode == 0, said
        newest = client.search_runs(["0"], order_by=["attributes.start_time DESC"], max_results=1)[0]
        return newest, len(counted.read_text())

    process, _ = started("first", 0.25)
    while not known(tmp_path):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    process.send_signal(by)
    process.wait()
    stopped = client.search_runs(["0"], order_by=["attributes.start_time DESC"], max_results=1)[0]
    assert stopped.info.status == ("RUNNING" if by == signal.SIGKILL else "KILLED")
    kept = known(tmp_path)
    again, fewer = finished("again")
    assert not known(tmp_path)  # recorded by now
    whole, all_of_it = finished("whole", "--force")
    assert fewer < all_of_it
    assert kept > 0
    tables = [
        pd.read_parquet(client.download_artifacts(run.info.run_id, f"tables/{table}.parquet", str(tmp_path)))
        for run in (again, whole)
    ]
    assert again.info.run_id != whole.info.run_id
    ended = client.get_run(
        stopped.info.run_id
    )  # what was killed with -9 could not end itself: the run that goes on does it
    assert ended.info.status == "KILLED"
    assert by != signal.SIGKILL or again.info.run_id in ended.data.tags["layerwise.error"]
    pd.testing.assert_frame_equal(*tables, rtol=1e-3, atol=1e-4)


def known(folder: Path) -> int:
    """How many values are on disk."""
    return sum(
        int(np.isfinite(np.load(file, allow_pickle=False)).sum())
        for file in (folder / "cache" / "sweeps").glob("*.npy")
    )
