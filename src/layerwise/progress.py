"""Progress of long work: one live bar on a terminal, plain lines every few seconds in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts units of work and shows them.

    >>> with Progress("collect", total=1200, unit="token") as progress:
    ...     progress.advance(512)
    """

    def __init__(self, what: str, total: int, unit: str = "item", quiet: bool = False) -> None:
        self.what, self.total, self.unit, self.quiet = what, total, unit, quiet
        self.done = self._said = 0
        self._start = self._last_line = time.monotonic()
        live = sys.stderr.isatty() and not quiet
        self._bar = tqdm(total=total, desc=what, unit=unit, unit_scale=True, leave=True) if live else None

    def advance(self, amount: int = 1) -> None:
        self.done += amount
        if self._bar is not None:
            self._bar.update(amount)
        elif not self.quiet and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._line()

    def _line(self) -> None:
        self._last_line = time.monotonic()
        elapsed = max(self._last_line - self._start, 1e-9)
        self._said = self.done
        rate = self.done / elapsed
        share = f"{100 * self.done / self.total:.0f} %" if self.total else "-"
        print(
            f"{self.what}: {self.done:,} of {self.total:,} {self.unit}s ({share}), {rate:,.{0 if rate >= 10 else 1}f} {self.unit}s/s",
            file=sys.stderr,
            flush=True,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif not self.quiet and self._last_line != self._start and self.done != self._said:
            self._line()
