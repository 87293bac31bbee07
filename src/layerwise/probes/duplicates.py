"""Texts of one part of the data that (nearly) occur in another: a probe can score by remembering them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer

SHINGLE = 5
BANDS, ROWS = 32, 8
PRIME = (1 << 31) - 1
SIMILAR = 0.8
PAIRS_AT_ONCE = 100_000


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """Pairs of test and training texts that are nearly the same.

    Attributes:
        pairs: ``(m, 2)`` row of the test text, row of the most similar training text; one pair for each test text that has any.
        similarity: ``(m,)`` Jaccard similarity of their character 5-grams.
        n_test: test texts looked at.
    """

    pairs: np.ndarray
    similarity: np.ndarray
    n_test: int

    @property
    def share(self) -> float:
        """Share of the test texts that have a near-duplicate in the training texts."""
        return len(self.pairs) / self.n_test if self.n_test else np.nan

    def to_frame(self, train: Sequence[str], test: Sequence[str]) -> pd.DataFrame:
        """The pairs, most similar first: test row, training row, similarity, both texts."""
        order = np.argsort(-self.similarity, kind="stable")
        rows = [
            (int(i), int(j), float(s), test[i], train[j])
            for (i, j), s in zip(self.pairs[order], self.similarity[order], strict=True)
        ]
        return pd.DataFrame(rows, columns=["test_row", "train_row", "similarity", "test_text", "train_text"])


def near_duplicates(train: Sequence[str], test: Sequence[str], threshold: float = SIMILAR) -> NearDuplicates:
    """For each test text the most similar training text of at least this Jaccard similarity of character 5-grams.

    Candidates come from MinHash signatures in 32 bands of 8 (Broder 1997): a pair of similarity 0.8 is found with
    probability 0.997, one of 0.9 with certainty for all purposes; the similarity of candidates is exact. Case, punctuation at the ends
    and repeated spaces do not count.
    """
    none = NearDuplicates(np.zeros((0, 2), dtype=np.int64), np.zeros(0), len(test))
    if not len(train) or not len(test):
        return none
    grams = CountVectorizer(analyzer=_shingles, binary=True, dtype=np.int32).fit_transform([*train, *test]).tocsr()
    buckets = _buckets(grams)
    in_train = np.arange(len(train) + len(test)) < len(train)
    pairs = _candidates(buckets, in_train)
    similarity = np.concatenate([np.zeros(0), *(_jaccard(grams, part) for part in _parts(pairs))])
    pairs, similarity = pairs[similarity >= threshold], similarity[similarity >= threshold]
    # The most similar training text of each test text, the first of equals.
    order = np.lexsort((pairs[:, 1], -similarity, pairs[:, 0]))
    pairs, similarity = pairs[order], similarity[order]
    first = np.unique(pairs[:, 0], return_index=True)[1]
    return NearDuplicates(pairs[first] - [len(train), 0], similarity[first], len(test)) if len(first) else none


def _shingles(text: str) -> list[str]:
    plain = " ".join(re.sub(r"^\W+|\W+$", "", text.lower()).split())
    # Never empty, so that texts without a word equal each other alone.
    return [plain[i : i + SHINGLE] for i in range(max(1, len(plain) - SHINGLE + 1))]


def _buckets(grams: sparse.csr_matrix) -> np.ndarray:
    """``(n, BANDS)`` a number for each band of each text's MinHash signature; similar texts share one in some band."""
    rng = np.random.default_rng(0)
    a = rng.integers(1, PRIME, BANDS * ROWS, dtype=np.int64)
    b = rng.integers(0, PRIME, BANDS * ROWS, dtype=np.int64)
    signature = np.empty((grams.shape[0], BANDS * ROWS), dtype=np.int64)
    for k in range(BANDS * ROWS):
        hashed = (a[k] * np.arange(1, grams.shape[1] + 1, dtype=np.int64) + b[k]) % PRIME
        signature[:, k] = np.minimum.reduceat(hashed[grams.indices], grams.indptr[:-1])
    mixed = np.zeros((grams.shape[0], BANDS), dtype=np.uint64)
    for column in np.moveaxis(signature.reshape(-1, BANDS, ROWS).astype(np.uint64), 2, 0):
        mixed = mixed * np.uint64(6364136223846793005) + column
    return mixed


def _candidates(buckets: np.ndarray, in_train: np.ndarray) -> np.ndarray:
    """``(m, 2)`` rows (test, training) that share a bucket in some band, each pair once."""
    found = []
    for band in buckets.T:
        _, bucket = np.unique(band, return_inverse=True)
        train_rows, test_rows = np.flatnonzero(in_train), np.flatnonzero(~in_train)
        train_rows = train_rows[np.argsort(bucket[train_rows], kind="stable")]
        starts = np.searchsorted(bucket[train_rows], bucket[test_rows], side="left")
        counts = np.searchsorted(bucket[train_rows], bucket[test_rows], side="right") - starts
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        found.append(np.stack([np.repeat(test_rows, counts), train_rows[np.repeat(starts, counts) + offsets]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _parts(pairs: np.ndarray) -> list[np.ndarray]:
    return [pairs[i : i + PAIRS_AT_ONCE] for i in range(0, len(pairs), PAIRS_AT_ONCE)]


def _jaccard(grams: sparse.csr_matrix, pairs: np.ndarray) -> np.ndarray:
    shared = np.asarray(grams[pairs[:, 0]].multiply(grams[pairs[:, 1]]).sum(1)).ravel()
    sizes = np.diff(grams.indptr)
    return shared / (sizes[pairs[:, 0]] + sizes[pairs[:, 1]] - shared)
