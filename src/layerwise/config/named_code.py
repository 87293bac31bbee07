"""Code that a config would run: what a person must agree to when the config came from somewhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerwise.config.canonical import plain

_FILE = re.compile(r".*\.py(:\w+)?")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def named_code(config: Any) -> list[str]:
    """Loaders, probes and the like that the config names by path, and models that may run code of their own.

    >>> named_code(ProbeJob(probe=Custom(path="my_probe.py:Mine")))
    ['my_probe.py:Mine']
    """
    return sorted(set(_found(plain(config), "")))


def _found(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "trust_remote_code" and item is True:
                yield f"the code of the model {value.get('name')}"
            elif key == "trust_probe_code" and item is True:
                yield f"the code of the probe {value.get('probe')}"
            else:
                yield from _found(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from _found(item, name)
    elif isinstance(value, str) and (
        _FILE.fullmatch(value) or (name in ("name", "path") and _DOTTED.fullmatch(value) and not Path(value).exists())
    ):
        yield value
