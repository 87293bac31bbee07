"""The first contact with the tracking server: where runs go, whether it answers, and a fresh database made once."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from filelock import FileLock
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from layerwise.errors import UserError
from layerwise.files import is_on_network
from layerwise.tracking.secrets import redacted

_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_KINDS = "an address begins with http://, https://, sqlite:///, postgresql://, mysql:// or mssql://."
_WAY_OUT = "Start it, or set MLFLOW_TRACKING_URI to another one (sqlite:///mlflow.db needs no server)."


@dataclass(frozen=True)
class Server:
    """A tracking server that answered, and the experiment that new runs go to."""

    uri: str
    client: mlflow.MlflowClient
    experiment_id: str
    experiment: str

    def page_of(self, run_id: str) -> str:
        """How a person looks at a run: the command that opens the UI, where one is needed, and the address."""
        # Without the workflow, MLflow's UI shows what it has for traces of applications.
        page = f"/#/experiments/{self.experiment_id}/runs/{run_id}?workflowType=machine_learning"
        if self.uri.startswith("http"):
            return self.uri.rstrip("/") + page
        return f"mlflow ui --backend-store-uri {redacted(self.uri)}   then http://127.0.0.1:5000{page}"

    def measure(self, run_id: str, values: Mapping[str, float], step: int = 0) -> None:
        """Record metrics of a run that this process does not own, such as the best so far of a study."""
        now = int(time.time() * 1000)
        self.client.log_batch(run_id, metrics=[Metric(name, float(value), now, step) for name, value in values.items()])

    @property
    def shared_uri(self) -> str:
        """The address as another process, with another working folder, can use it."""
        path = _sqlite_path(self.uri)
        return self.uri if path is None else f"sqlite:///{path}"


def reconnect(uri: str, experiment_id: str) -> Server:
    """The server of another process that has been in contact already, for a worker of it."""
    _quiet()
    # The environment, not mlflow's own global: that would outlive this study in a process that goes on to another server.
    os.environ["MLFLOW_TRACKING_URI"] = uri
    client = mlflow.MlflowClient(uri)
    return Server(uri, client, experiment_id, client.get_experiment(experiment_id).name)


def connect() -> Server:
    """The server of ``MLFLOW_TRACKING_URI`` (else ``sqlite:///mlflow.db`` here) and the experiment of the environment, else Default.

    Default is where ``mlflow run`` puts its runs, so that both ways of starting a job land side by side. The tables of a fresh
    sqlite database are made under a file lock: several processes may be the first. Raises UserError within seconds where the
    server does not answer, the database cannot be opened, or the experiment is gone.
    """
    _quiet()
    uri = mlflow.get_tracking_uri()
    with _explained(uri), _first_use(uri), _impatient():
        _check_database(uri)
        _write_ahead(uri)
        client = mlflow.MlflowClient(uri)
        experiment = _experiment(client)
    return Server(uri, client, experiment.experiment_id, experiment.name)


def _experiment(client: mlflow.MlflowClient) -> Any:
    name, number = os.environ.get("MLFLOW_EXPERIMENT_NAME"), os.environ.get("MLFLOW_EXPERIMENT_ID")
    if number:
        return client.get_experiment(number)
    name = name or "Default"
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.get_experiment(client.create_experiment(name))
        except MlflowException:  # another process made it in between
            found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise UserError(
            f"the experiment {name!r} was deleted. Restore it, or set MLFLOW_EXPERIMENT_NAME to another one."
        )
    return found


def _first_use(uri: str) -> Any:
    """A lock beside a sqlite file; nothing for a server, which makes its own tables."""
    path = _sqlite_path(uri)
    if path is None:
        if uri.startswith("sqlite:"):
            raise UserError(f"the tracking database {uri} names no file, so nothing would be kept.\n{_WAY_OUT}")
        return nullcontext()
    if not path.parent.is_dir():
        raise UserError(f"the tracking database {path} cannot be made: there is no folder {path.parent}.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(
            f"the tracking database {path} cannot be written: permission denied or a read-only disk.\n{_WAY_OUT}"
        )
    return FileLock(f"{path}.lock", timeout=120)


def _sqlite_path(uri: str) -> Path | None:
    if not uri.startswith("sqlite:"):
        return None
    path = uri.partition("///")[2].partition("?")[0]
    return Path(path).absolute() if path and path != ":memory:" else None


def _check_database(uri: str) -> None:
    """Fail at once where a database does not answer: MLflow would try ten times with growing pauses."""
    import sqlalchemy

    if uri.startswith(("http", "file", "databricks")) or "://" not in uri:
        return
    engine = sqlalchemy.create_engine(uri, connect_args={} if uri.startswith("sqlite") else {"connect_timeout": 10})
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(
                "SELECT name FROM sqlite_master LIMIT 1" if uri.startswith("sqlite") else "SELECT 1"
            )
    finally:
        engine.dispose()


def _write_ahead(uri: str) -> None:
    """Let a sqlite file keep a write-ahead log from now on: a write costs half, and those who look need not wait for it."""
    path = _sqlite_path(uri)
    if path is None or is_on_network(path):
        return
    with closing(sqlite3.connect(path, timeout=1)) as connection, suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode=WAL")  # refused while others write: the next command sets it


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn what MLflow, requests and SQLAlchemy raise at first contact into one UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(redacted(f"the tracking server {uri} cannot be used: {_reason(error)}\n{_WAY_OUT}")) from error


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    for sign, reason in {
        "Connection refused": "nothing listens there.",
        "Failed to resolve": "no such host.",
        "Name or service not known": "no such host.",
        "timed out": "no answer.",
        "maintenance mode": "a folder of files as a tracking store is no longer supported by MLflow.",
        "Can't load plugin": _KINDS,
        "unsupported URI": _KINDS,
        "out-of-date database schema": "its tables are of another MLflow version; `mlflow db upgrade` brings them up to date.",
        "file is not a database": "the file is not a sqlite database.",
    }.items():
        if sign in text:
            return reason
    if isinstance(error, ModuleNotFoundError):
        return f"its driver is not installed ({error.name})."
    return text[:300]


@contextmanager
def _impatient() -> Iterator[None]:
    """Few retries for the first contact alone: during a long job a short outage is waited out as MLflow does."""
    added = {name: value for name, value in _PATIENCE.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _quiet() -> None:
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(name).setLevel(logging.WARNING)
