"""Side-by-side timing in one process: every contestant once a round, in a new order each round, compared within the round.

Other work on the machine then slows all of them alike. Wall time is what a person waits; processor time of this process
leaves out most of what others do. Ratios are to the reference of the same round.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of each round."""

    wall: list[float]
    processor: list[float]


def rounds(
    contestants: Mapping[str, Callable[[], object]], number: int, seed: int = 0, *, warm: bool = True
) -> dict[str, Timing]:
    """Time every contestant ``number`` times, after one round that does not count unless ``warm`` is False: all have run before.

    Ctrl-C ends it early: the rounds that are whole count.
    """
    draw = random.Random(seed)
    found = {name: Timing([], []) for name in contestants}
    for counted in range(-1 if warm else 0, number):
        took: dict[str, tuple[float, float]] = {}
        try:
            for name in draw.sample(list(contestants), len(contestants)):
                wall, processor = time.perf_counter(), time.process_time()
                contestants[name]()
                took[name] = time.perf_counter() - wall, time.process_time() - processor
        except KeyboardInterrupt:
            if counted < 1:
                raise
            break
        for name, (wall, processor) in took.items() if counted >= 0 else ():
            found[name].wall.append(wall)
            found[name].processor.append(processor)
        print(f"round {counted + 1} of {number}", file=sys.stderr)
    return found


def ratios(timings: Mapping[str, Timing], reference: str) -> str:
    """A table: median seconds, the median ratio to the reference with its range, and the ratios of minima and processor time."""
    base = timings[reference]
    lines = [
        "| what | seconds | ratio, median [range] | ratio of minima | processor time, median ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, timing in timings.items():
        wall = [one / other for one, other in zip(timing.wall, base.wall, strict=True)]
        processor = [one / other for one, other in zip(timing.processor, base.processor, strict=True)]
        lines.append(
            f"| {name} | {statistics.median(timing.wall):.2f} | {statistics.median(wall):.3f} "
            f"[{min(wall):.2f}–{max(wall):.2f}] | {min(timing.wall) / min(base.wall):.3f} "
            f"| {statistics.median(processor):.3f} |"
        )
    return "\n".join(lines)
