"""A job that does next to nothing, for tests of everything around a job. Also runs by itself: python -m tracking.tiny_job."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from layerwise.errors import UserError
from layerwise.jobs import JobEntry


@dataclass(frozen=True)
class TinyConfig:
    """A tiny job.

    action: what to do: finish, wait, mistake, defect, or stopped (a signal comes while an extension is imported).
    value: the accuracy it pretends to have found.
    """

    action: str = "finish"
    value: float = 0.5
    names: tuple[str, ...] = ("mean", "last")
    options: dict[str, Any] = field(default_factory=dict)
    text: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise UserError(f"value must be between 0 and 1, got {self.value}.")


def run(config: TinyConfig, tracker: Any) -> None:
    if config.action == "mistake":
        raise UserError("no city of that name: got 'Atlantis'.\nName a real one.")
    tracker.begin(model="weights", data="texts")
    if config.action == "defect":
        raise RuntimeError("an index went wrong")
    if config.action == "stopped":
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:
            raise ImportError("initialization failed") from None
    if config.action == "wait":
        tracker.metrics({"train/loss": 1.0}, step=1)
        tracker.metrics({"train/loss": 0.5}, step=2)
        print("waiting", flush=True)
        time.sleep(60)
    tracker.metrics({"test/accuracy": config.value})
    tracker.curve("val/accuracy", {0: 0.5, 1: 0.9, 2: 0.7})
    tracker.tags({"pooler": ",".join(config.names)})
    tracker.summary(f"accuracy {config.value}")


TINY = {"tiny": JobEntry("tracking.tiny_job", "do next to nothing")}

if __name__ == "__main__":
    from layerwise.__main__ import main

    sys.exit(main(jobs=TINY))
