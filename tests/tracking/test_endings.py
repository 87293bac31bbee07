"""Every run ends as what happened: FINISHED, FAILED with the reason, KILLED; with the right exit code and few words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def start(folder: Path, *flags: str, **environment: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "tracking.tiny_job", "tiny", *flags],
        cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def only_run(client):
    (run,) = client.search_runs(["0"])
    return run


def test_finished(client, tiny):
    outcome = tiny("--value", "0.25")
    run = only_run(client)
    assert outcome.code == 0
    assert run.info.status == "FINISHED"
    assert run.info.run_id in outcome.out
    assert "mlflow ui --backend-store-uri sqlite:///" in outcome.out


def test_a_mistake_is_told_in_few_lines_and_recorded(client, tiny):
    outcome = tiny("--action", "mistake")
    run = only_run(client)
    assert outcome.code == 2
    assert outcome.err == "layerwise: error: no city of that name: got 'Atlantis'.\nName a real one.\n"
    assert run.info.status == "FAILED"
    assert run.data.tags["layerwise.error"].startswith("no city of that name")
    assert run.data.params["action"] == "mistake"


def test_a_mistake_shows_its_traceback_when_debugging(client, tiny):
    outcome = tiny("--action", "mistake", "--debug")
    assert outcome.code == 2
    assert "Traceback" in outcome.err


def test_a_defect_shows_its_traceback(client, tiny):
    outcome = tiny("--action", "defect")
    run = only_run(client)
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert "RuntimeError: an index went wrong" in outcome.err
    assert run.info.status == "FAILED"
    assert run.data.tags["layerwise.error"] == "RuntimeError: an index went wrong"


def test_a_bad_flag_makes_no_run(client, tiny):
    outcome = tiny("--valeu", "1")
    assert outcome.code == 2
    assert "unknown field 'valeu'" in outcome.err
    assert client.search_runs(["0"]) == []


@pytest.mark.parametrize(
    "flags", [("--valeu", "1"), ("--value", "abc"), ("--value", "7"), ("stray",), ("--config", "missing.yaml")]
)
def test_a_bad_flag_ends_the_run_that_mlflow_run_made(client, tiny, monkeypatch, flags):
    run_id = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    outcome = tiny(*flags)
    run = only_run(client)
    assert outcome.code == 2
    assert run.info.status == "FAILED"
    assert run.data.tags["layerwise.error"] in outcome.err


def test_an_unknown_job_suggests_the_nearest(client, tiny, capsys):
    from layerwise.__main__ import main
    from tracking.tiny_job import TINY

    assert main(["tinny"], jobs=TINY) == 2
    assert "unknown job 'tinny'. Did you mean 'tiny'?" in capsys.readouterr().err


def test_handlers_of_signals_are_put_back(client, tiny):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    tiny("--action", "mistake")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("given", [False, True], ids=["own run", "under mlflow run"])
def test_a_signal_ends_the_run_as_killed(client, tmp_path, number, code, given):
    environment = {"MLFLOW_RUN_ID": client.create_run("0").info.run_id} if given else {}
    process = start(tmp_path, "--action", "wait", **environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    run = only_run(client)
    assert process.returncode == code
    assert run.info.status == "KILLED"
    assert run.info.end_time is not None
    assert [metric.value for metric in client.get_metric_history(run.info.run_id, "train/loss")] == [1.0, 0.5]
    assert "Traceback" not in err


def test_a_signal_that_an_import_made_an_error_of_still_ends_the_run_as_killed(client, tiny):
    outcome = tiny("--action", "stopped")
    assert outcome.code == 143
    assert only_run(client).info.status == "KILLED"
    assert outcome.err == "layerwise: stopped by SIGTERM.\n"


@pytest.mark.slow
def test_what_a_kill_left_running_is_ended_by_the_run_that_does_its_work_and_by_no_other(client, tmp_path, tiny):
    first = start(tmp_path, "--action", "wait")
    assert first.stdout is not None
    assert first.stdout.readline() == "waiting\n"
    first.kill()
    first.communicate(timeout=30)
    (killed,) = client.search_runs(["0"])
    tiny("--value", "0.25")
    assert client.get_run(killed.info.run_id).info.status == "RUNNING"
    second, third = start(tmp_path, "--action", "wait"), start(tmp_path, "--action", "wait")
    for process in (second, third):
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
    ended = client.get_run(killed.info.run_id)
    assert ended.info.status == "KILLED"
    assert ended.data.tags["layerwise.error"].startswith("its process was killed; run ")
    assert len(client.search_runs(["0"], "attributes.status = 'RUNNING'")) == 2  # those that live are left alone
    for process in (second, third):
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.slow
def test_several_processes_may_be_the_first_to_use_a_database(tmp_path):
    import mlflow

    uri = f"sqlite:///{tmp_path}/new.db"
    processes = [start(tmp_path, "--value", f"0.{index}", MLFLOW_TRACKING_URI=uri) for index in range(4)]
    outcomes = [(process.communicate(timeout=120), process.returncode) for process in processes]
    assert [code for _, code in outcomes] == [0] * 4, outcomes
    runs = mlflow.MlflowClient(uri).search_runs(["0"])
    assert sorted(run.data.metrics["test/accuracy"] for run in runs) == [0.0, 0.1, 0.2, 0.3]
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("http://127.0.0.1:9", "nothing listens there"),
        ("postgresql+psycopg2://ada:secret@127.0.0.1:9/runs", "cannot be used"),
        ("sqlite:////nowhere/at/all/mlflow.db", "there is no folder /nowhere/at/all"),
        ("./mlruns", "no longer supported"),
        ("sqlite:///{folder}/garbage.db", "not a sqlite database"),
    ],
)
def test_a_tracking_server_that_cannot_be_used_is_told_at_once(tiny, tmp_path, monkeypatch, uri, told):
    (tmp_path / "garbage.db").write_bytes(b"no database at all" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(folder=tmp_path))
    begun = time.monotonic()
    outcome = tiny()
    assert outcome.code == 2
    assert told in outcome.err
    assert "MLFLOW_TRACKING_URI" in outcome.err or "no folder" in outcome.err
    assert "secret" not in outcome.err
    assert outcome.err.count("\n") <= 3
    assert time.monotonic() - begun < 10


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_database_that_cannot_be_written_is_told(client, tiny, tmp_path):
    (tmp_path / "mlflow.db").chmod(0o400)
    outcome = tiny()
    assert outcome.code == 2
    assert "cannot be written" in outcome.err


def test_a_deleted_experiment_is_told(client, tiny, monkeypatch):
    client.delete_experiment(client.create_experiment("old"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "old")
    outcome = tiny()
    assert outcome.code == 2
    assert "'old' was deleted" in outcome.err


def test_ending_a_forked_worker_does_not_stop_the_job(client, tmp_path, capfd):
    import multiprocessing

    from layerwise.tracking.lifecycle import Job

    def work(job: Job) -> None:
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
        worker.start()
        time.sleep(0.2)
        worker.terminate()
        worker.join(10)
        assert worker.exitcode == -signal.SIGTERM

    assert Job(debug=False).execute(work) == 0
    assert capfd.readouterr().err == ""


def test_a_full_disk_is_told_in_a_line(client, tiny, monkeypatch):
    import errno

    from tracking import tiny_job

    def run(config, tracker):
        raise OSError(errno.ENOSPC, "No space left on device", "/data/shard")

    monkeypatch.setattr(tiny_job, "run", run)
    outcome = tiny()
    assert outcome.code == 2
    assert outcome.err.startswith("layerwise: error: cannot write at /data/shard: No space left on device.")
    assert only_run(client).info.status == "FAILED"


@pytest.mark.slow
def test_a_server_that_goes_away_is_told_and_nothing_hangs(client, tiny, tmp_path, monkeypatch):
    """The job starts against a real server, which is gone when the job writes."""
    import socket

    from tracking import tiny_job

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--port",
        str(port),
    ]
    server = subprocess.Popen(
        [*command, "--workers", "1"], env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")

        def run(config, tracker):
            tracker.begin(data="d")
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            tracker.tags({"late": "yes"})

        assert "127.0.0.1" in tiny().out
        monkeypatch.setattr(tiny_job, "run", run)
        outcome = tiny("--value", "0.1")
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    assert outcome.code == 2
    assert "the tracking server stopped answering" in outcome.err
    assert "Traceback" not in outcome.err
