"""What the first contact leaves in a sqlite file, and where it leaves that alone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import mlflow
import psutil
import pytest

from layerwise.tracking.server import connect


@pytest.mark.parametrize(("kind", "kept"), [("ext4", "wal"), ("nfs4", "delete"), ("fuse.sshfs", "delete")])
def test_a_write_ahead_log_is_kept_unless_machines_share_the_disk(
    client: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, kept: str
) -> None:
    mounts = [SimpleNamespace(mountpoint="/", fstype="ext4"), SimpleNamespace(mountpoint=str(tmp_path), fstype=kind)]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    connect()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == (kept,)


def test_a_database_that_others_write_to_is_left_as_it_is(client: mlflow.MlflowClient, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        connect()
        other.execute("ROLLBACK")
        assert other.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connect()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
