"""The on-disk, content-addressed home of activations: what is computed once is read by every later run.

    <store>/<corpus>/<part>/…

A corpus is one model reading one body of texts: the sha256 of the model's fingerprint (weights, dtype, tokenizer) and
of the very tokens it reads, so that the data, the tokenizer, the chat template and the truncation are all in it, and
labels, names and batch sizes are not. A part holds some of its columns, a column being a site under a pooler; a
request takes what it can from finished parts and computes the rest as a new part (see ``shards``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layerwise.activations.poolers import Pooler, Span, parse_pooler
from layerwise.activations.shards import Part
from layerwise.errors import UserError
from layerwise.files import cache_folder, digest

SHARD_TOKENS = 32_768  # so much work a kill can cost, unless eight batches are more
SHARD_BYTES = 256 << 20  # so much a shard takes in memory


@dataclass(frozen=True)
class Corpus:
    """One model reading one body of texts. ``info`` says it in words and is no part of the key."""

    fingerprint: str
    tokens: str
    spans: str | None
    lengths: np.ndarray
    info: Mapping[str, Any]

    @property
    def key(self) -> str:
        return digest({"model": self.fingerprint, "tokens": self.tokens})[:32]

    @property
    def order(self) -> np.ndarray:
        """The texts in the order they are worked on: longest first, as ``token_budget_batches`` has it."""
        return np.argsort(-self.lengths, kind="stable")

    def column(self, site: str, pooler: Pooler) -> str:
        """The name of a site under a pooler; a column of the dataset's own spans carries their digest."""
        own_spans = isinstance(pooler, Span) and pooler.start is None
        return f"{site}|{pooler.label}" + (f"#{(self.spans or '')[:16]}" if own_spans else "")

    def can_fill(self, part: Part) -> bool:
        """Whether every column of a part can be computed from this corpus: not where it has another dataset's spans."""
        digests = {column.partition("#")[2] for column in part.columns} - {""}
        return digests <= {(self.spans or "")[:16]}


def parse_column(column: str) -> tuple[str, Pooler]:
    """The site and the pooler of a column."""
    site, _, label = column.rpartition("|")
    return site, parse_pooler(label.partition("#")[0])


def tokens_digest(parts: Iterable[Sequence[np.ndarray] | None]) -> str:
    """sha256 over ragged arrays: token ids, segment ids, special flags, places in the text."""
    total = hashlib.sha256()
    for rows in parts:
        total.update(b"none" if rows is None else f"rows {len(rows)}".encode())
        for row in rows or ():
            total.update(f"{row.dtype}{row.shape}".encode())
            total.update(np.ascontiguousarray(row).data)
    return total.hexdigest()


class Store:
    """A folder of activations; ``Store()`` is the one in the cache folder.

    >>> activations = collect(model, dataset, "resid_post.*", "mean,last", store=Store("activations"))  # doctest: +SKIP

    Reading what is complete writes nothing, so a store on a read-only disk serves what it has.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder).expanduser() if folder is not None else cache_folder("activations")
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"the store {self.folder} is a file, not a folder. Name another folder.")

    def parts(self) -> list[Part]:
        """Everything in the store; folders without a readable manifest are left out."""
        return self._parts("*")

    def _parts(self, corpus: str) -> list[Part]:
        found = []
        for path in sorted(self.folder.glob(f"{corpus}/*/manifest.json")):
            try:
                found.append(Part.open(path.parent))
            except UserError:
                continue
        return found

    def serving(self, corpus: Corpus, columns: Sequence[str], dtype: str) -> tuple[dict[str, Part], list[str]]:
        """For each column a finished part that has it, and the columns that none has."""
        served: dict[str, Part] = {}
        parts = [
            part
            for part in self._parts(corpus.key)
            if part.dtype == dtype and corpus.can_fill(part) and part.complete()
        ]
        # The part that has most of what is wanted first, so that few files are opened.
        for part in sorted(parts, key=lambda part: -len(set(part.columns) & set(columns))):
            for column in set(part.columns) & set(columns):
                served.setdefault(column, part)
        return served, [column for column in columns if column not in served]

    def begin(
        self, corpus: Corpus, columns: Sequence[str], dtype: str, bytes_per_text: np.ndarray, token_budget: int
    ) -> Part:
        """The part for exactly these columns, new or as an earlier or concurrent process left it.

        bytes_per_text: (n,) what each text takes; with ``token_budget`` it decides how the work is divided into shards.
        """
        name = digest({"columns": sorted(columns), "dtype": dtype})[:32]
        order = corpus.order
        counts = shard_counts(corpus.lengths[order], bytes_per_text[order], max(SHARD_TOKENS, 8 * token_budget))
        info = {"corpus": {"model": corpus.fingerprint, "tokens": corpus.tokens}, "info": dict(corpus.info)}
        return Part.create(self.folder / corpus.key / name, sorted(columns), counts, dtype, info)

    def find(self, key: str) -> Part:
        """The part with this key or with a key that begins so. Raises UserError where there is none or several."""
        found = [part for part in self.parts() if part.key.startswith(key)]
        if len(found) != 1:
            raise UserError(f"the store {self.folder} has {len(found) or 'no'} entries whose key begins with {key!r}.")
        return found[0]

    def remove(self, key: str) -> int:
        """Delete one part; the bytes it took. Raises UserError where there is no such part or a process is using it."""
        part = self.find(key)
        size = part.bytes()
        if not part.remove():
            raise UserError(f"{part.key} is being filled by another process. Try again when that has ended.")
        if not any(part.folder.parent.iterdir()):
            part.folder.parent.rmdir()
        return size

    def unreferenced(self, keep: Iterable[str]) -> list[Part]:
        """The parts whose keys are not among ``keep``: what no run refers to."""
        kept = set(keep)
        return [part for part in self.parts() if part.key not in kept]


def shard_counts(lengths: np.ndarray, sizes: np.ndarray, most_tokens: int) -> list[int]:
    """How many texts go into each shard: until it holds ``most_tokens`` or SHARD_BYTES, at least one text."""
    counts, tokens, taken, texts = [], 0, 0, 0
    for length, size in zip(lengths.tolist(), sizes.tolist(), strict=True):
        if texts and (tokens + length > most_tokens or taken + size > SHARD_BYTES):
            counts.append(texts)
            tokens = taken = texts = 0
        tokens, taken, texts = tokens + length, taken + size, texts + 1
    return [*counts, texts] if texts else counts
