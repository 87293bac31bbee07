"""A collection that goes through the store: take what is there, compute the rest, shard by shard, beside others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from layerwise.activations.cost import Cost, bytes_per_text, check_disk
from layerwise.activations.meter import Meter
from layerwise.activations.passes import Passes, Wanted
from layerwise.activations.poolers import NoPool, Pooler
from layerwise.activations.result import Key
from layerwise.activations.shards import ROWS, Part, Piece, lengths_name
from layerwise.activations.store import Corpus, Store, parse_column


class Filling:
    """Serves columns of one corpus from a store, filling it where it lacks them.

    passes: makes the passes for some sites and poolers. Processes that ask for the same columns at the same time share
    the shards between them.
    """

    def __init__(
        self, store: Store, corpus: Corpus, passes: Callable[[Wanted], Passes], dtype: str, meter: Meter
    ) -> None:
        self.store, self.corpus, self.passes, self.dtype, self.meter = store, corpus, passes, dtype, meter

    def columns(self, asked: Wanted) -> tuple[dict[Key, Sequence[Piece]], list[Part]]:
        """The pieces of every column asked for, and the parts that hold them."""
        keys = {
            self.corpus.column(site, pooler): (site, pooler.label)
            for site, poolers in asked.items()
            for pooler in poolers
        }
        served, lacking = self.store.serving(self.corpus, list(keys), self.dtype)
        if lacking:
            part = self._begin(lacking)
            served.update(dict.fromkeys(lacking, part))
        parts = list(dict.fromkeys(served[column] for column in keys))
        found: dict[Key, Sequence[Piece]] = {}
        for part in parts:
            columns = [column for column in keys if served[column] is part]
            self._fill(part, columns)
            found.update({keys[column]: pieces for column, pieces in part.pieces(columns).items()})
        return {key: found[key] for key in keys.values()}, parts

    def _begin(self, columns: Sequence[str]) -> Part:
        passes = self.passes(_wanted(columns))
        return self.store.begin(self.corpus, columns, self.dtype, self._sizes(passes), passes.token_budget)

    def _sizes(self, passes: Passes) -> np.ndarray:
        widths = passes.widths()
        return bytes_per_text(self.corpus.lengths, widths, passes.wanted, passes.dtype)

    def _fill(self, part: Part, columns: Sequence[str]) -> None:
        """Compute the shards of a part that are missing or damaged; those of other processes are waited for."""
        missing = part.missing(columns)
        if not missing:
            return
        passes = self.passes(_wanted(part.columns))
        rows = {shard: part.rows(self.corpus.order, shard) for shard in missing}
        every = np.concatenate(list(rows.values()))
        poolers = {pooler for chosen in passes.wanted.values() for pooler in chosen}
        tokens = int(self.corpus.lengths[every].sum())
        cost = Cost(len(every), tokens, len(passes.wanted), len(poolers), int(self._sizes(passes)[every].sum()))
        check_disk(cost.bytes, part.folder)
        with part.in_use(), self.meter.round(cost):
            theirs = [
                shard for shard in missing if not self._take(part, shard, rows[shard], passes, columns, wait=False)
            ]
            for shard in theirs:
                self._take(part, shard, rows[shard], passes, columns, wait=True)

    def _take(
        self, part: Part, shard: int, rows: np.ndarray, passes: Passes, columns: Sequence[str], *, wait: bool
    ) -> bool:
        """See to one shard; False where another process is at it and ``wait`` is False."""
        with part.claim(shard, wait=wait) as mine:
            if not mine:
                return False
            if part.missing(columns, [shard]):
                part.write(shard, self._compute(passes, rows))
        return True

    def _compute(self, passes: Passes, rows: np.ndarray) -> dict[str, Tensor]:
        """The tensors of one shard, by name."""
        seen: list[np.ndarray] = []
        values: dict[tuple[str, Pooler], list[Tensor]] = {}
        lengths: dict[Pooler, list[np.ndarray]] = {}
        for block in self.meter.counted(passes(rows)):
            seen.append(block.rows)
            for key, value in block.values.items():
                values.setdefault(key, []).append(value)
            for pooler, count in block.lengths.items():
                lengths.setdefault(pooler, []).append(count)
        tensors = {ROWS: torch.from_numpy(np.concatenate(seen))}
        for (site, pooler), pieces in values.items():
            name = self.corpus.column(site, pooler)
            tensors[name] = torch.cat(pieces)
            if isinstance(pooler, NoPool):
                tensors[lengths_name(name)] = torch.from_numpy(np.concatenate(lengths[pooler]))
        return tensors


def _wanted(columns: Sequence[str]) -> Mapping[str, tuple[Pooler, ...]]:
    wanted: dict[str, tuple[Pooler, ...]] = {}
    for column in columns:
        site, pooler = parse_column(column)
        wanted[site] = (*wanted.get(site, ()), pooler)
    return wanted
