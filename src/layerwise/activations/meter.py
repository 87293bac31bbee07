"""Says what a collection will take, shows its progress, and counts tokens and seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from layerwise.activations.cost import Cost
from layerwise.activations.passes import Block
from layerwise.progress import Progress

WORTH_SAYING = 5.0  # seconds; an estimate of less is not printed


class Meter:
    """Counts what went through the model in one collection, over one or several rounds."""

    def __init__(self, lengths: np.ndarray, progress: bool) -> None:
        self.lengths, self.progress = lengths, progress
        self.computed_tokens = 0
        self.seconds = 0.0
        self._bar: Progress | None = None
        self._cost: Cost | None = None

    @contextmanager
    def round(self, cost: Cost) -> Iterator[None]:
        """One round of work: its cost before, a bar of tokens meanwhile."""
        self._say(str(cost))
        self._cost, start = cost, time.monotonic()
        try:
            with Progress("collect", cost.tokens, "token", quiet=not self.progress) as self._bar:
                yield
        finally:
            self.seconds += time.monotonic() - start
            self._bar = None

    def counted(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The same blocks; the first of a round gives the estimate of its time."""
        start = time.monotonic()
        for block in blocks:
            tokens = int(self.lengths[block.rows].sum())
            self.computed_tokens += tokens
            if self._cost is not None:
                seconds = (time.monotonic() - start) / tokens * (self._cost.tokens - tokens)
                if seconds > WORTH_SAYING:
                    self._say(f"about {seconds:,.0f} seconds")
                self._cost = None
            if self._bar is not None:
                self._bar.advance(tokens)
            yield block

    def _say(self, text: str) -> None:
        if self.progress:
            print(f"collect: {text}", file=sys.stderr, flush=True)
