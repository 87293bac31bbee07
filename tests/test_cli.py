"""The command line as a person meets it: what it lists, how fast, where a config comes from, and mlflow run around it."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import psutil
import pytest
import yaml
from tracking.tiny_job import TINY

from layerwise.__main__ import main
from layerwise.config import parse_mapping
from layerwise.jobs import JOBS, JobEntry

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sqlite database with MLflow's tables, to be copied."""
    folder = tmp_path_factory.mktemp("database")
    with contextlib.chdir(folder):  # artifacts go below the folder where the database was made
        mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def client(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    shutil.copy(template, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_the_list_of_jobs(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        for name, entry in JOBS.items():
            assert any(line.split(maxsplit=1) == [name, entry.summary] for line in printed.splitlines())


@pytest.mark.parametrize("arguments", [[], *([name, "--help"] for name in JOBS)], ids=" ".join)
def test_help_comes_within_a_second_and_without_what_is_slow(arguments):
    code = (
        "import sys; from layerwise.__main__ import main; code = main(sys.argv[1:]);"
        "slow = {'torch', 'transformers', 'mlflow', 'sklearn', 'pandas', 'plotly', 'datasets', 'optuna'} & set(sys.modules);"
        "assert code == 0 and not slow, slow"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = python("-c", code, *arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python -m layerwise")
    # Its own time: what it would take on a machine that does nothing else.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


@pytest.mark.parametrize("name", JOBS)
def test_every_field_of_every_job_is_explained(name, capsys):
    """A field without a sub-config of its own says in its help what it is for."""
    from layerwise.config.schema import fields_of

    config_class = JOBS[name].config_class(name)
    unexplained = [field.name for field in fields_of(config_class).values() if not field.help]
    assert not unexplained
    assert len(fields_of(config_class)) <= 15
    assert main([name, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    bare = [
        line.strip()
        for line, following in zip(lines, [*lines[1:], ""], strict=True)
        if re.fullmatch(r"  --\S+( \S+)?", line) and not following.startswith(" " * 20)
    ]
    assert not bare


@pytest.mark.parametrize("name", JOBS)
def test_no_field_hides_an_option_of_the_command(name):
    from layerwise.config.flags import OPTIONS
    from layerwise.config.schema import fields_of

    assert not set(fields_of(JOBS[name].config_class(name))) & set(OPTIONS)


@pytest.mark.parametrize("name", JOBS)
def test_the_whole_config_of_a_job_is_printed_and_reads_back(name, capsys, tmp_path):
    project = yaml.safe_load((TESTS.parent / "MLproject").read_text())
    experiment = TESTS.parent / project["entry_points"][name]["parameters"]["config"]["default"]
    assert main([name, "--config", str(experiment), "--print_config"]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "all.yaml").write_text(printed)
    assert main([name, "--config", str(tmp_path / "all.yaml"), "--print_config"]) == 0
    assert capsys.readouterr().out == printed


def test_printing_the_config_makes_no_run(client, capsys):
    assert main(["tiny", "--value", "1e-1", "--print_config"], jobs=TINY) == 0
    assert "value: 0.1" in capsys.readouterr().out
    assert client.search_runs(["0"]) == []


def test_python_m_layerwise_ends_with_the_right_code():
    done = python("-X", "importtime", "-m", "layerwise", "prob")
    done.stderr, imports = [
        "\n".join(line for line in done.stderr.splitlines() if line.startswith("import time:") == timed)
        for timed in (False, True)
    ]
    assert " mlflow" not in imports
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("layerwise: error: unknown job 'prob'. Did you mean 'probe'?")


def test_the_command_layerwise_is_the_same():
    done = subprocess.run(
        [Path(sys.executable).parent / "layerwise", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "0.1.0\n"


class TestFromRun:
    def run(self, client, *flags: str) -> str:
        assert main(["tiny", *flags], jobs=TINY) == 0
        return client.search_runs(["0"], order_by=["attributes.start_time DESC"])[0].info.run_id

    def test_the_config_of_a_run_takes_the_place_of_the_file_and_flags_win(self, client, tmp_path):
        first = self.run(client, "--value", "0.25", "--text", "it's")
        (tmp_path / "other.yaml").write_text("value: 0.75\nnames: [max]\n")
        again = self.run(client, "--config", "other.yaml", "--from_run", first, "--text", "that's")
        params = client.get_run(again).data.params
        assert (params["value"], params["names"], params["text"]) == ("0.25", "mean,last", "that's")

    def test_the_same_run_again_is_reused(self, client, capsys):
        first = self.run(client, "--value", "0.25")
        capsys.readouterr()
        assert main(["tiny", "--from_run", first], jobs=TINY) == 0
        assert f"already done: run {first}" in capsys.readouterr().out

    def test_an_unknown_run(self, client, capsys):
        assert main(["tiny", "--from_run", "0" * 32], jobs=TINY) == 2
        assert f"no run {'0' * 32!r}" in capsys.readouterr().err

    def test_a_run_of_another_job(self, client, capsys):
        first = self.run(client)
        assert main(["other", "--from_run", first], jobs={"other": _Tiny("tracking.tiny_job", "another")}) == 2
        assert "is a run of tiny, its config does not fit other" in capsys.readouterr().err

    def test_a_run_without_a_config(self, client, capsys):
        run_id = client.create_run("0").info.run_id
        assert main(["tiny", "--from_run", run_id], jobs=TINY) == 2
        assert "has no config.yaml" in capsys.readouterr().err

    def test_code_that_the_run_names_needs_consent(self, client, capsys):
        first = self.run(client, "--options.path", "/somewhere/evil.py:Probe")
        capsys.readouterr()
        assert main(["tiny", "--from_run", first, "--force"], jobs=TINY) == 2
        assert "would run /somewhere/evil.py:Probe" in capsys.readouterr().err
        assert main(["tiny", "--from_run", first, "--force", "--trust_remote_code"], jobs=TINY) == 0
        assert (
            main(["tiny", "--from_run", first, "--force", "--options.path", "/somewhere/evil.py:Probe"], jobs=TINY) == 0
        )


class _Tiny(JobEntry):
    def config_class(self, name: str) -> type:
        return super().config_class("tiny")


@pytest.mark.slow
class TestUnderMlflowRun:
    """The real ``mlflow run`` on a project whose only job is the tiny one."""

    @pytest.fixture
    def project(self, client, tmp_path: Path) -> Path:
        folder = tmp_path / "a project"
        folder.mkdir()
        (folder / "MLproject").write_text(
            "name: tiny\nentry_points:\n  main:\n    parameters:\n      config: {type: string, default: tiny.yaml}\n"
            '    command: "python -m tracking.tiny_job tiny --config {config}"\n'
        )
        (folder / "tiny.yaml").write_text("value: 0.25\n")
        return folder

    def start(self, project: Path, *parameters: str) -> subprocess.Popen[str]:
        env = {**os.environ, "PYTHONPATH": str(TESTS), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        flags = [word for parameter in parameters for word in ("-P", parameter)]
        return subprocess.Popen(
            ["mlflow", "run", str(project), "--env-manager", "local", *flags],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def test_values_arrive_intact_and_the_run_is_the_one_it_made(self, client, project):
        text = 'it\'s "a b" $(touch x) {y} [1, 2]; #'
        process = self.start(project, f"text={text}", "names=last,mean", "force=true")
        _, err = process.communicate(timeout=120)
        (run,) = client.search_runs(["0"])
        assert process.returncode == 0, err
        assert run.info.status == "FINISHED"
        assert parse_mapping(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config.yaml"), "")["text"] == text
        assert run.data.params["text"] != text  # as mlflow run recorded it, quoted, before the job began
        assert (run.data.params["value"], run.data.params["names"]) == ("0.25", "last,mean")

    def test_a_misspelt_parameter_ends_the_run_with_the_reason(self, client, project):
        process = self.start(project, "valeu=1")
        _, err = process.communicate(timeout=120)
        (run,) = client.search_runs(["0"])
        assert process.returncode == 1
        assert "Did you mean 'value'?" in err
        assert "Did you mean 'value'?" in run.data.tags["layerwise.error"]
        assert run.info.status == "FAILED"

    @pytest.mark.parametrize("to", ["everything", "the job"])
    def test_a_signal_ends_the_run_as_killed_though_mlflow_run_writes_failed(self, client, project, to):
        process = self.start(project, "action=wait")
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        if to == "everything":  # as Ctrl-C in a terminal does
            os.killpg(process.pid, signal.SIGINT)
        else:
            (job,) = psutil.Process(process.pid).children()
            job.terminate()
        process.communicate(timeout=60)
        (run,) = client.search_runs(["0"])
        begun = time.monotonic()
        while client.get_run(run.info.run_id).info.status != "KILLED":
            assert time.monotonic() - begun < 25
            time.sleep(0.2)
        time.sleep(1)
        assert client.get_run(run.info.run_id).info.status == "KILLED"
