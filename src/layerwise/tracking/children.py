"""Runs of whole jobs below the run of a job that asks for several of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layerwise.tracking.run import Tracker
from layerwise.tracking.trials import StudyTracker


class ChildTracker(StudyTracker):
    """The run of another job, with its own config: a child of the command's run. A finished run of the same work is reused.

    Args:
        tags: ``layerwise.*`` tags it has.
    """

    alone = False

    def __init__(self, parent: Tracker, job: str, config: Any, tags: Mapping[str, str]) -> None:
        super().__init__(parent)
        self.job, self.config, self._own = job, config, dict(tags)
        self.under_mlflow_run = False  # what mlflow made is the parent's run

    def look(self, **identity: str) -> str:
        return Tracker.look(self, **identity)

    def begin(self, **identity: str) -> str:
        mark = super().begin(**identity)
        self.tags(self._own)
        return mark

    def summary(self, text: str) -> None:
        """Kept with the run; the command has one of its own."""
        self.text(text, "summary.txt")
