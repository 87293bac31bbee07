"""What a collection will take, said and checked before it starts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from layerwise.activations.poolers import NoPool, Pooler
from layerwise.errors import UserError, unknown

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def storage_dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise unknown("storage dtype", str(name), DTYPES)
    return DTYPES[name]


@dataclass(frozen=True)
class Cost:
    """texts and tokens go through the model; bytes are what the result takes, in memory or on disk."""

    texts: int
    tokens: int
    sites: int
    poolers: int
    bytes: int

    def __str__(self) -> str:
        kinds = f"{self.sites} site{'s'[: self.sites != 1]} × {self.poolers} pooler{'s'[: self.poolers != 1]}"
        return f"{self.texts:,} texts, {self.tokens:,} tokens, {kinds}: {size(self.bytes)}"


def size(count: int) -> str:
    """``171 MB`` for 171,000,000."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:,.0f} {unit}" if value >= 10 or unit == "bytes" else f"{value:,.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def bytes_per_text(
    lengths: np.ndarray, widths: Mapping[str, int], wanted: Mapping[str, Sequence[Pooler]], dtype: torch.dtype
) -> np.ndarray:
    """(n,) bytes that each text's activations take; token level counts every token."""
    pooled = sum(widths[site] * sum(not isinstance(p, NoPool) for p in poolers) for site, poolers in wanted.items())
    by_token = sum(widths[site] * sum(isinstance(p, NoPool) for p in poolers) for site, poolers in wanted.items())
    return (pooled + by_token * lengths.astype(np.int64)) * dtype.itemsize


def check_memory(needed: int) -> None:
    """Raises UserError where the result would not fit into the memory that is free."""
    free = psutil.virtual_memory().available
    if needed > 0.9 * free:
        raise UserError(
            f"the activations would take {size(needed)} of memory, and {size(free)} are free.\n"
            "Fill a store instead (store=…), name fewer sites, pool the tokens, or keep them as float16 or bfloat16."
        )


def check_disk(needed: int, folder: Path) -> None:
    """Raises UserError where what is still to be written would not fit on the disk of ``folder``."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"the activations would take {size(needed)} on disk, and {size(free)} are free at {folder}.\n"
            "Name another store folder, fewer sites, pool the tokens, or store them as float16 or bfloat16."
        )
