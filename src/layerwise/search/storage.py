"""Where studies live: an RDB that Optuna writes, sqlite beside the tracking database or PostgreSQL for many machines."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.storages import BaseStorage
from sqlalchemy.engine import make_url

from layerwise.errors import UserError
from layerwise.files import is_on_network
from layerwise.search.own_trials import OwnTrials

VARIABLE = "LAYERWISE_STUDIES"
DEFAULT = "sqlite:///studies.db"
HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60  # without a heartbeat, until a trial of another machine counts as lost
_OPENING = 4_216_503_177  # key of the PostgreSQL lock under which tables are made

Lock = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Studies:
    """An open storage and the lock under which trials are claimed; the lock of a killed process opens by itself."""

    url: str
    storage: BaseStorage
    engine: sqlalchemy.Engine
    lock: Lock

    def now(self) -> float:
        """The database's clock in seconds: machines that share a study need not agree about the time."""
        if self.engine.dialect.name == "sqlite":
            return time.time()
        with self.engine.connect() as connection:
            return float(
                connection.execute(sqlalchemy.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
            )

    def has_heartbeat(self, trial_id: int) -> bool:
        """Whether a trial ever showed a sign of life. Optuna itself forgets trials killed before their first one."""
        query = sqlalchemy.text("SELECT 1 FROM trial_heartbeats WHERE trial_id = :trial")
        with self.engine.connect() as connection:
            return connection.execute(query, {"trial": trial_id}).first() is not None


def address(given: str | None) -> str:
    """The storage's address: as given, else of the environment, else ``studies.db`` here; sqlite files become absolute."""
    url = given or os.environ.get(VARIABLE) or DEFAULT
    if "://" not in url:
        url = f"sqlite:///{url}"
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return f"sqlite:///{Path(parsed.database).expanduser().absolute()}"
    return url


def open_storage(url: str) -> Studies:
    """Connect, making the tables on first use; safe for processes that start together.

    Raises UserError for an address that cannot be read, a database that does not answer or a driver that is not installed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    parsed = _parsed(url)
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise UserError(f"studies live in sqlite or PostgreSQL, got {backend!r}.")
    if backend == "sqlite" and not parsed.database:
        raise UserError("studies need a file: sqlite:///studies.db.")
    if backend == "sqlite" and not Path(str(parsed.database)).parent.is_dir():
        raise UserError(
            f"studies cannot be kept in {parsed.database}: there is no folder {Path(str(parsed.database)).parent}."
        )
    try:
        with _opening(parsed):
            rdb = OwnTrials(
                url,
                engine_kwargs={"connect_args": {"timeout": 60}} if backend == "sqlite" else {"pool_pre_ping": True},
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
            )
    except ModuleNotFoundError as error:
        raise UserError(
            f"the driver of {backend} is not installed ({error.name}): pip install 'layerwise[postgres]'."
        ) from None
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, RuntimeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise UserError(f"the studies at {_shown(parsed)} cannot be opened: {reason}") from error
    if backend == "sqlite" and not is_on_network(Path(str(parsed.database))):
        _write_ahead(rdb.engine)
    lock = _file_lock(parsed) if backend == "sqlite" else _advisory_lock(rdb.engine)
    return Studies(url, optuna.storages.get_storage(rdb), rdb.engine, lock)


def _parsed(url: str) -> sqlalchemy.URL:
    try:
        return make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise UserError(
            "study.storage must be an address such as sqlite:///studies.db or postgresql://user@host/studies."
        ) from None


def _shown(url: sqlalchemy.URL) -> str:
    return url.render_as_string(hide_password=True)


@contextmanager
def _opening(url: sqlalchemy.URL) -> Iterator[None]:
    """One process at a time makes the tables."""
    if url.get_backend_name() == "sqlite":
        with FileLock(f"{url.database}.lock", timeout=120):
            yield
        return
    engine = sqlalchemy.create_engine(url, connect_args={"connect_timeout": 10})
    try:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": _OPENING})
            yield  # closing the connection opens the lock
    finally:
        engine.dispose()


def _write_ahead(engine: sqlalchemy.Engine) -> None:
    """sqlite's write-ahead log: readers and a writer do not wait for one another, and a commit costs 1 ms in place of 5."""

    @sqlalchemy.event.listens_for(engine, "connect")
    def _(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    engine.dispose()


def _file_lock(url: sqlalchemy.URL) -> Lock:
    path = f"{url.database}.lock"
    return lambda: FileLock(path, timeout=600, poll_interval=0.005)


def _advisory_lock(engine: sqlalchemy.Engine) -> Lock:
    @contextmanager
    def locked() -> Iterator[None]:
        with engine.begin() as connection:  # the lock opens with the end of the transaction, however that comes
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _OPENING + 1})
            yield

    return locked
