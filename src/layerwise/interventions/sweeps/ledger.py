"""What long work has measured so far, kept on disk, so that work that was stopped goes on at its next cell."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from layerwise.files import atomic_file, cache_folder

SECONDS_BETWEEN_WRITES = 5.0


class Ledger:
    """(cells, texts) values of a sweep; NaN where nothing has been measured yet.

    The file takes its place in one step, so a kill at any time leaves the last whole one.
    """

    def __init__(self, cells: int, texts: int, key: str | None = None) -> None:
        """``key`` names the sweep: everything that its values depend on, as a digest. None keeps it in memory alone."""
        self.path: Path | None = None if key is None else cache_folder("sweeps") / f"{key}.npy"
        self.values = np.full((cells, texts), np.nan)
        self._last_write = time.monotonic()
        if self.path is not None and self.path.is_file():
            found = _read(self.path)
            if found is not None and found.shape == self.values.shape:
                self.values = found
        self.found = int(np.isfinite(self.values).sum())

    def missing(self, texts: np.ndarray) -> list[int]:
        """The cells that some of these texts have no value of yet."""
        return np.flatnonzero(np.isnan(self.values[:, texts]).any(1)).tolist()

    def put(self, cells: list[int], texts: np.ndarray, values: Tensor) -> None:
        """Take in the values (cells, texts) of some cells and texts."""
        # Infinite values are kept too; a metric that is no number is recorded as infinite, so that it is not asked for again.
        numbers = torch.nan_to_num(values.double(), nan=float("inf"), posinf=float("inf"), neginf=float("-inf"))
        self.values[np.ix_(np.asarray(cells), texts)] = numbers.cpu().numpy()
        if time.monotonic() - self._last_write >= SECONDS_BETWEEN_WRITES:
            self.save()

    def save(self) -> None:
        """Write the file now."""
        if self.path is not None:
            with atomic_file(self.path) as temporary, temporary.open("wb") as handle:
                np.save(handle, self.values, allow_pickle=False)
        self._last_write = time.monotonic()

    def close(self) -> None:
        """The sweep is recorded elsewhere: remove the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class Ledgers:
    """The ledgers of one run's work. As a context it removes them once all is done, and keeps them where the work is stopped."""

    def __init__(self, key: str | None = None) -> None:
        """``key`` names the work: everything that its values depend on, as a digest. None keeps them in memory alone."""
        self.key = key
        self.opened: list[Ledger] = []

    def open(self, name: str, cells: int, texts: int) -> Ledger:
        """The ledger of one part of the work, with what is known of it already."""
        ledger = Ledger(cells, texts, None if self.key is None else f"{self.key}-{name}")
        self.opened.append(ledger)
        return ledger

    def __enter__(self) -> Ledgers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for ledger in self.opened:
            if kind is None:
                ledger.close()
            else:
                ledger.save()


@dataclass(frozen=True, eq=False)
class Share:
    """A ledger's part: ``count`` cells from ``first`` on, of the texts ``texts``."""

    ledger: Ledger
    texts: np.ndarray
    count: int
    first: int = 0

    def missing(self) -> list[int]:
        """The cells of this part, counted from 0, that some of the texts have no value of yet."""
        end = self.first + self.count
        return [cell - self.first for cell in self.ledger.missing(self.texts) if self.first <= cell < end]

    def put(self, cells: list[int], values: Tensor) -> None:
        """Take in the values (cells, texts) of some of its cells."""
        self.ledger.put([self.first + cell for cell in cells], self.texts, values)

    def values(self) -> Tensor:
        """(count, texts) float64; NaN where nothing is known."""
        return torch.from_numpy(self.ledger.values[self.first : self.first + self.count][:, self.texts])


def _read(path: Path) -> np.ndarray | None:
    try:
        values: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return values
