"""How a job ends, whatever happens: its run FINISHED, FAILED with the reason, or KILLED; a message; an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from layerwise.config import flatten
from layerwise.errors import UserError
from layerwise.process import is_main
from layerwise.tracking.afterwards import keep_killed
from layerwise.tracking.secrets import redacted

if TYPE_CHECKING:
    from layerwise.tracking.run import Tracker

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asked the process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Job:
    """One command, from its first line to its exit code.

    ``work`` is called with this object and calls ``track`` once it has a config. What it raises decides the ending:
    UserError → FAILED, the message alone on stderr, code 2; Stopped → KILLED, code 128 + the signal's number; anything else is a
    defect → FAILED, a traceback, code 1. A run that ``mlflow run`` made is ended even when there was no config yet.
    """

    def __init__(self, debug: bool) -> None:
        self.debug = debug
        self.tracker: Tracker | None = None

    def track(self, name: str, config: Any, force: bool) -> Tracker:
        """The tracker of this job; connects to the tracking server. Raises UserError where it does not answer."""
        from layerwise.tracking.models import TRACKED, register
        from layerwise.tracking.run import Tracker
        from layerwise.tracking.server import connect

        self.tracker = Tracker(connect(), name, config, force=force, attach=is_main())
        if any(value.startswith(TRACKED) for value in flatten(config).values()):
            register()
        return self.tracker

    def execute(self, work: Callable[[Job], None]) -> int:
        """Do the work and end the run; returns the exit code."""
        with _signals_raise() as heard:
            try:
                work(self)
                self._finish()
                return 0
            except Stopped as stop:
                return self._stopped(stop)
            except Exception as error:
                if heard:  # an extension that is stopped while it is imported makes an ImportError of it
                    return self._stopped(heard[0])
                _ignore_signals()
                if reused := _as_reused(error):
                    return self._end_reused(*reused)
                mistake = _as_mistake(error)
                return self._defect(error) if mistake is None else self._mistake(mistake)

    def _stopped(self, stop: Stopped) -> int:
        _ignore_signals()
        _say(f"stopped by {stop}.")
        self._end("KILLED")
        if "MLFLOW_RUN_ID" in os.environ:
            keep_killed(os.environ["MLFLOW_RUN_ID"])
        return 128 + stop.number

    def _mistake(self, error: UserError) -> int:
        _say(f"error: {error}")
        if self.debug:
            traceback.print_exc()
        self._end("FAILED", str(error))
        return 2

    def _defect(self, error: Exception) -> int:
        print(redacted(traceback.format_exc()), file=sys.stderr, flush=True)
        _say("this is a defect in layerwise (or a plugin), not a mistake of yours; please report the lines above.")
        self._end("FAILED", f"{type(error).__name__}: {error}")
        return 1

    def _finish(self) -> None:
        if self.tracker is not None and self.tracker.started:  # a job that only looked has nothing to record
            self.tracker.end("FINISHED")
            server, run_id = self.tracker.server, self.tracker.run_id
            print(f"recorded as run {run_id} in experiment {server.experiment!r}", flush=True)
            print(f"to look at it: {server.page_of(run_id)}", flush=True)

    def _end(self, status: str, reason: str | None = None) -> None:
        """End what was not finished: this job's run, or the one ``mlflow run`` made. A failure is recorded either way."""
        try:
            if self.tracker is not None:
                if self.tracker.started or (status == "FAILED" and is_main()):
                    self.tracker.end(status, reason)
            elif "MLFLOW_RUN_ID" in os.environ:
                _end_given_run(os.environ["MLFLOW_RUN_ID"], status, reason)
        except Exception as error:
            _say(f"the run could not be ended as {status}: {' '.join(str(error).split())[:300]}")

    def _end_reused(self, run_id: str, summary: str | None) -> int:
        if summary:
            print(summary, flush=True)
        print(f"already done: run {run_id} finished this very work; --force does it again", flush=True)
        if self.tracker is not None:
            print(f"to look at it: {self.tracker.server.page_of(run_id)}", flush=True)
            if self.tracker.started:
                self.tracker.end("FINISHED")
        return 0


def _as_reused(error: Exception) -> tuple[str, str | None] | None:
    if "layerwise.tracking.run" not in sys.modules:  # nothing slow is imported to say that a flag is misspelt
        return None
    from layerwise.tracking.run import Reused

    return (error.run_id, error.summary) if isinstance(error, Reused) else None


def _as_mistake(error: Exception) -> UserError | None:
    """The error as a limit of the machine or the tracking server, where it is one and not a defect."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        path = f" at {error.filename}" if error.filename else ""
        return UserError(f"cannot write{path}: {os.strerror(error.errno)}. Free some space, or work in another folder.")
    if "mlflow" in sys.modules:
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException) and ("API request to" in str(error) or "(sqlite3." in str(error)):
            reason = " ".join(str(error).split())[:300]
            return UserError(f"the tracking server stopped answering: {reason}")
    return None


def _end_given_run(run_id: str, status: str, reason: str | None) -> None:
    from layerwise.tracking.server import connect

    client = connect().client
    if reason is not None:
        client.set_tag(run_id, "layerwise.error", redacted(reason)[:5000])
    client.set_terminated(run_id, status)


@contextmanager
def _signals_raise() -> Iterator[list[Stopped]]:
    """Within, the first Ctrl-C, SIGTERM or hang-up raises Stopped; what was there before is put back.

    Yields a list that will hold what was raised, for code on the way may make another error of it.
    """
    owner, heard = os.getpid(), list[Stopped]()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker being ended is not the job being stopped
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        _ignore_signals()
        heard.append(Stopped(number))
        raise heard[0]

    # A signal that is ignored stays so: nohup and background jobs of a script ask for that.
    listened = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in listened}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # also undoes the ignoring below


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _say(text: str) -> None:
    print(redacted(f"layerwise: {text}"), file=sys.stderr, flush=True)
