"""How many threads small numerical work gets: one, of torch and of the libraries under NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

ELEMENTS_WORTH_THREADS = 4_000_000


@contextmanager
def threads_for(elements: int, device: torch.device | str) -> Iterator[None]:
    """One thread for small work on the CPU: threads that wait for each other at every operation cost more than they bring.

    With a busy neighbour they cost ten times the work itself. ``elements``: parameters trained, or numbers decomposed, at once.
    """
    before = torch.get_num_threads()
    if torch.device(device).type != "cpu" or elements >= ELEMENTS_WORTH_THREADS or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
