"""Which process is at something, so that another can see whether it still lives."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path
from typing import Any

import psutil

CLOCK_SECONDS = 10.0  # by so much a process seems to begin earlier or later when the machine's clock is set


def myself() -> dict[str, Any]:
    """Host, process id and when the process began: ids are used again, the three together are not."""
    return {"host": _host(), "pid": os.getpid(), "began": round(psutil.Process().create_time(), 2)}


def is_alive(process: dict[str, Any]) -> bool | None:
    """Whether a process lives; None where it is on another machine, or in another container of this one."""
    if process.get("host") != _host():
        return None
    try:
        found = psutil.Process(int(process["pid"]))
        same = abs(found.create_time() - process["began"]) < CLOCK_SECONDS
        return same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_main() -> bool:
    """Whether this process records: the first of those that ``accelerate launch`` or ``torchrun`` began, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def together() -> int:
    """How many processes work together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@cache
def _host() -> str:
    """The machine's name, and on Linux what its process ids are valid in: this start of the machine, this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot[:13]} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()
