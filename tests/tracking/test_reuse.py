"""A finished run with the same job, config, model, data and code is reused; anything else runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import layerwise
from layerwise.tracking.fingerprint import fingerprint
from layerwise.tracking.query import finished_run
from layerwise.tracking.run import Reused, Tracker
from layerwise.tracking.server import connect
from tracking.tiny_job import TinyConfig


def test_the_same_command_again_makes_no_run_and_repeats_the_summary(client, tiny):
    tiny()
    (first,) = client.search_runs(["0"])
    again = tiny()
    assert again.code == 0
    assert "accuracy 0.5" in again.out
    assert f"already done: run {first.info.run_id}" in again.out
    assert len(client.search_runs(["0"])) == 1


def test_a_run_of_another_experiment_is_reused(client, tiny, monkeypatch):
    tiny()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "new")
    assert "already done" in tiny().out


@pytest.mark.parametrize("flags", [("--force",), ("--value", "0.75"), ("--names", "last,mean"), ("--options.a", "1")])
def test_forced_or_different_runs(client, tiny, flags):
    tiny()
    assert "already done" not in tiny(*flags).out
    assert len(client.search_runs(["0"])) == 2


def test_the_same_config_in_another_spelling_is_the_same(client, tiny, tmp_path):
    (tmp_path / "tiny.yaml").write_text("names: [mean, last]\nvalue: 5e-1\n")
    tiny()
    assert "already done" in tiny("--config", "tiny.yaml").out


def test_a_run_that_failed_is_not_reused(client, tiny):
    tiny("--action", "defect")
    assert tiny("--action", "defect").code == 1


def test_under_mlflow_run_the_new_run_gets_the_metrics_and_is_left_out_of_queries(client, tiny, monkeypatch):
    tiny()
    (first,) = client.search_runs(["0"])
    run_id = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    assert "already done" in tiny().out
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["layerwise.reused_from"] == first.info.run_id
    assert run.data.metrics == first.data.metrics
    curve = client.get_metric_history(run_id, "val/accuracy")
    assert [(item.step, item.value) for item in curve] == [(0, 0.5), (1, 0.9), (2, 0.7)]
    found = finished_run(connect(), first.data.tags["layerwise.fingerprint"])
    assert found is not None
    assert found.info.run_id == first.info.run_id


@pytest.mark.parametrize("changed", [{"model": "other"}, {"data": "other"}])
def test_another_model_or_other_data_is_other_work(client, changed):
    first = Tracker(connect(), "tiny", TinyConfig())
    first.begin(model="m", data="d")
    first.end("FINISHED")
    with pytest.raises(Reused):
        Tracker(connect(), "tiny", TinyConfig()).begin(model="m", data="d")
    other = Tracker(connect(), "tiny", TinyConfig())
    other.begin(**{"model": "m", "data": "d", **changed})
    assert other.run_id != first.run_id


def test_another_job_is_other_work():
    assert fingerprint("tiny", TinyConfig(), model="m") != fingerprint("other", TinyConfig(), model="m")


def test_the_code_a_config_names_is_part_of_the_work(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, file in {"{folder}/mine.py:Probe": "mine.py", "plugin_of_mine.Probe": "plugin_of_mine.py"}.items():
        config = TinyConfig(options={"path": name.format(folder=tmp_path)})
        (tmp_path / file).write_text("x = 1\n")
        before = fingerprint("tiny", config)
        assert fingerprint("tiny", config) == before
        (tmp_path / file).write_text("x = 2\n")
        assert fingerprint("tiny", config) != before


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout that holds a copy of the package."""
    top = tmp_path / "checkout"
    shutil.copytree(
        Path(layerwise.__file__).parent, top / "src" / "layerwise", ignore=shutil.ignore_patterns("__pycache__")
    )
    (top / ".gitignore").write_text("__pycache__/\n*.db\n")
    git(top, "init", "-q")
    git(top, "add", ".")
    git(top, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "begin")
    return top


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def identity(top: Path) -> str:
    code = "from layerwise.tracking.fingerprint import code_identity; print(code_identity())"
    env = {**os.environ, "PYTHONPATH": str(top / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_code_is_the_commit_and_what_differs_from_it(checkout):
    clean = identity(checkout)
    assert clean == git(checkout, "rev-parse", "HEAD")
    (checkout / "src" / "layerwise" / "runs.db").write_text("ignored")
    (checkout / "results.csv").write_text("no code")
    assert identity(checkout) == clean
    (checkout / "src" / "layerwise" / "new.py").write_text("x = 1\n")
    with_new = identity(checkout)
    assert with_new.startswith(clean + "+")
    (checkout / "src" / "layerwise" / "new.py").write_text("x = 2\n")
    changed = identity(checkout)
    assert changed not in (clean, with_new)
    git(checkout, "add", ".")
    (checkout / "src" / "layerwise" / "errors.py").open("a").write("# more\n")
    assert identity(checkout) not in (clean, with_new, changed)


def test_code_outside_git_is_the_installed_version(tmp_path):
    shutil.copytree(
        Path(layerwise.__file__).parent, tmp_path / "layerwise", ignore=shutil.ignore_patterns("__pycache__")
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    code = "from layerwise.tracking.fingerprint import code_identity; print(code_identity())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "version 0.1.0"
