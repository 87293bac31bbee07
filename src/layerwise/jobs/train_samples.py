"""What a model in training writes, kept in its run: one table that grows, and a page that the browser shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pandas as pd

from layerwise.reports.training import samples_page, samples_section
from layerwise.tracking.tables import read_table

if TYPE_CHECKING:
    from layerwise.tracking.run import Tracker
    from layerwise.training.writing import Written

_NAME = "samples"


class WrittenSamples:
    """The table ``samples`` and the page ``samples.html`` of a run.

    Rows and what is drawn of them stay in memory: an evaluation reads nothing back, however many there were before it.

    Args:
        title: of the page.
        begun: whether the run was begun by a process that was killed; what that one wrote is read once.
    """

    def __init__(self, tracker: Tracker, title: str, *, begun: bool) -> None:
        self.tracker, self.title = tracker, title
        before = read_table(tracker.server, tracker.run_id, _NAME) if begun else None
        self._listed = before is not None
        self._rows: list[dict[Any, Any]] = []
        self._sections: list[str] = []
        earlier: list[dict[Any, Any]] = [] if before is None else before.to_dict("records")
        for step, rows in groupby(earlier, key=lambda row: int(row["step"])):
            self._take(step, list(rows))

    def add(self, written: Sequence[Written], step: int) -> None:
        """A row for each text of an evaluation; one that the run holds already is not written twice."""
        if self._rows and step <= self._rows[-1]["step"]:
            return
        self._take(step, [{"step": step, **asdict(one)} for one in written])
        frame = pd.DataFrame(self._rows)
        if self._listed:
            self.tracker.table(frame, _NAME)
        else:
            self.tracker.item_table(frame, _NAME)  # MLflow lists it from now on
            self._listed = True
        self.tracker.text(samples_page(self._sections, self.title), f"{_NAME}.html")

    def _take(self, step: int, rows: list[dict[Any, Any]]) -> None:
        self._rows += rows
        self._sections.insert(0, samples_section(step, rows))
