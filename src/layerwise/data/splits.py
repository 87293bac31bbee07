"""Dividing a dataset: a held-out test part and disjoint folds, stratified, grouped, repeated, by seed.

Both are one act: deal groups of rows to buckets so that every bucket gets its share of every class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from layerwise.data.dataset import TextDataset
from layerwise.errors import UserError

STRATA = 10
DEALS, UNEVEN = 100, 0.25  # of groups of one label: tries, and by how much of its share a bucket may miss it


def train_test(dataset: TextDataset, test_size: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Row indices for development and for the final test, each ascending.

    A dataset that names its splits keeps them: ``test`` is the test part (``validation`` where there is no ``test``), the
    rest is development. Otherwise rows are drawn with ``seed``, classes (or quantiles of the target) in proportion, groups whole.

    Args:
        test_size: share of the rows, between 0 and 1; ignored where the dataset names its splits.
    """
    if dataset.split is not None:
        for name in ("test", "validation"):
            held_out = dataset.split == name
            if held_out.any() and not held_out.all():
                return np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if not 0 < test_size < 1:
        raise UserError(f"test_size must lie between 0 and 1, got {test_size}.")
    strata = _strata(dataset.labels, dataset.task, len(dataset), 1)
    bucket = _deal(strata, dataset.groups, np.array([1 - test_size, test_size]), np.random.default_rng(seed))
    if bucket.all() or not bucket.any():
        raise UserError(
            f"dataset {dataset.name!r} cannot be divided with test_size={test_size:.3g}: "
            f"{len(dataset)} rows{'' if dataset.groups is None else f' in {len(np.unique(dataset.groups))} groups'}."
        )
    return np.flatnonzero(bucket == 0), np.flatnonzero(bucket == 1)


def folds(
    labels: np.ndarray | None,
    groups: np.ndarray | None = None,
    n_folds: int = 5,
    repeats: int = 1,
    seed: int = 0,
    task: str = "classification",
    names: Sequence[str] = (),
) -> np.ndarray:
    """The fold each row is held out in, for every repetition.

    Folds of one repetition are disjoint and cover every row; classes (or quantiles of a regression target) are spread
    evenly; a group stays in one fold. Repetition r depends on ``seed`` and r alone.

    Args:
        labels: ``(n,)`` class ids or targets; None where only ``groups`` matter.
        groups: ``(n,)``, or None.
        names: of the classes by id, for the message about one that is too small.

    Returns:
        ``(repeats, n)`` int64 fold ids from 0 to ``n_folds - 1``.

    Raises:
        UserError: with fewer than ``n_folds`` rows, groups, or rows of some class.
    """
    if labels is None and groups is None:
        raise UserError("folds need labels or groups to know how many rows there are.")
    n = len(labels) if labels is not None else len(groups)  # type: ignore[arg-type]
    if n_folds < 2:
        raise UserError(f"the number of folds must be at least 2, got {n_folds}.")
    if repeats < 1:
        raise UserError(f"the number of repeats must be at least 1, got {repeats}.")
    units = n if groups is None else len(np.unique(groups))
    if units < n_folds:
        raise UserError(
            f"{n_folds} folds need at least {n_folds} {'rows' if groups is None else 'groups'}, got {units}."
        )
    strata = _strata(labels, task, n, n_folds)
    if task == "classification":
        counts = np.bincount(strata)
        if counts.min() < n_folds:
            smallest = np.unique(labels)[counts.argmin()] if labels is not None else 0
            which = f"class {names[int(smallest)]!r}" if names else "one class"
            raise UserError(
                f"{n_folds} folds need at least {n_folds} rows of every class; {which} has {int(counts.min())}.\n"
                "Use fewer folds, more rows, or leave that class out."
            )
    shares = np.full(n_folds, 1 / n_folds)
    return np.stack([_deal(strata, groups, shares, np.random.default_rng([seed, repeat])) for repeat in range(repeats)])


def _strata(labels: np.ndarray | None, task: str, n: int, n_folds: int) -> np.ndarray:
    """``(n,)`` int64, 0 to S-1: class ids as they occur, or quantile bins of a target, each with rows for every fold."""
    if labels is None:
        return np.zeros(n, dtype=np.int64)
    if task == "regression":
        bins = int(np.clip(n // max(2 * n_folds, 4), 1, STRATA))
        edges = np.quantile(labels, np.linspace(0, 1, bins + 1)[1:-1])
        labels = np.searchsorted(edges, labels, side="right")
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _deal(strata: np.ndarray, groups: np.ndarray | None, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``(n,)`` bucket of each row; bucket b gets about ``shares[b]`` of every stratum, groups stay whole."""
    if groups is None:
        return _deal_rows(strata, shares, rng)
    _, group = np.unique(groups, return_inverse=True)
    counts = np.zeros((group.max() + 1, strata.max() + 1))
    np.add.at(counts, (group, strata), 1)
    sizes, one_label_each = counts.sum(axis=1), ((counts > 0).sum(axis=1) == 1).all()
    if one_label_each and counts.shape[1] > 1 and len(np.unique(sizes)) > 1:
        bucket = _deal_groups_of_one_label(counts.argmax(axis=1), sizes, shares, rng)
        if bucket is not None:
            return bucket[group]
    return _deal_groups(counts, shares, rng)[group]


def _deal_groups_of_one_label(
    labels: np.ndarray, sizes: np.ndarray, shares: np.ndarray, rng: np.random.Generator
) -> np.ndarray | None:
    """``(groups,)`` bucket of each group, dealt as if groups were rows; None where no bucket comes near its share of rows that way.

    Dealing by size would tell how large the groups of each label are in the other buckets. Where features know a group's size,
    noise then looks like knowledge: 32 groups of cities, one random label each, gave held-out AUROC .512, dealt as rows .500.
    """
    for _ in range(DEALS):
        bucket = _deal_rows(labels, shares, rng)
        filled = np.bincount(bucket, sizes, len(shares)) / sizes.sum() / shares
        if np.abs(filled - 1).max() < UNEVEN:
            return bucket
    return None


def _deal_rows(strata: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each stratum shuffled and cut by the shares; what the rounding leaves goes to the buckets that are furthest behind."""
    bucket = np.empty(len(strata), dtype=np.int64)
    owed = np.zeros(len(shares))
    for stratum in rng.permutation(strata.max() + 1):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        owed += len(rows) * shares
        sizes = np.floor(len(rows) * shares).astype(np.int64)
        behind = np.argsort(-(owed - sizes) + rng.random(len(shares)) * 1e-6, kind="stable")
        sizes[behind[: len(rows) - sizes.sum()]] += 1
        owed -= sizes
        bucket[rows] = np.repeat(np.arange(len(shares)), sizes)
    return bucket


def _deal_groups(counts: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``(groups,)`` bucket of each group, the largest groups first, each to the bucket that is then nearest to its share.

    Args:
        counts: ``(groups, strata)`` rows of each group and stratum.
        shares: ``(buckets,)``, sum 1.
    """
    totals = np.maximum(counts.sum(axis=0), 1)
    wanted = shares[:, None]
    held = np.zeros((len(shares), counts.shape[1]))
    bucket = np.empty(len(counts), dtype=np.int64)
    shuffled = rng.permutation(len(counts))
    for group in shuffled[np.argsort(-counts[shuffled].sum(axis=1), kind="stable")]:
        filled = held / totals / wanted
        after = (held + counts[group]) / totals / wanted
        # How much this group would fill each bucket relative to its share; emptiest first, then evenest over strata.
        cost = after.max(axis=1) + filled.mean(axis=1)
        bucket[group] = int(np.argmin(cost + rng.random(len(shares)) * 1e-9))
        held[bucket[group]] += counts[group]
    return bucket
