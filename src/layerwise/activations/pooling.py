"""The arithmetic of the poolers: many poolers over one hidden state share their work.

What each pooler looks at is decided once a batch, on the host, from the mask (``PoolingPlan``); applying the plan to
the hidden state of each site is then at most one gather, one matrix product and one maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layerwise.activations.poolers import (
    First,
    Index,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    NoPool,
    Pooler,
    Quantile,
    Quantiles,
    Span,
    Sum,
    TokenIds,
)
from layerwise.errors import UserError


@dataclass(frozen=True)
class TokenRows:
    """The texts of one batch as the poolers see them; what a pooler does not need may be None.

    mask: (batch, tokens) bool, True at real tokens, padding on any side.
    ids: (batch, tokens) token ids. special: (batch, tokens) True at tokens that are not of the user's text.
    offsets: (batch, tokens, 2) start and end character in the user's text, −1 for special tokens.
    spans: (batch, 2) the dataset's character spans. numbers: (batch,) the texts' places in the input, for messages.
    """

    mask: np.ndarray
    ids: np.ndarray | None = None
    special: np.ndarray | None = None
    offsets: np.ndarray | None = None
    spans: np.ndarray | None = None
    numbers: np.ndarray | None = None

    def name(self, row: int) -> str:
        return f"text {row if self.numbers is None else int(self.numbers[row])}"


def pool(pooler: Pooler, hidden: Tensor, mask: Tensor, context: TokenRows | None = None) -> Tensor:
    """hidden (batch, tokens, …width), mask (batch, tokens) → (batch, width); for ``none``: (real tokens, width).

    Raises UserError where a text lacks the token asked for.
    """
    rows = context or TokenRows(mask.cpu().numpy().astype(bool))
    if isinstance(pooler, NoPool):
        return TokenPlan(pooler, rows, hidden.device)(hidden)
    return PoolingPlan([pooler], rows, hidden.device)(hidden)[:, 0]


class TokenPlan:
    """Token level: hidden (batch, tokens, …width) → (counted tokens of all rows, one text after another, width)."""

    def __init__(self, pooler: NoPool, rows: TokenRows, device: torch.device | str = "cpu") -> None:
        counted = _counted(pooler, rows)
        self.lengths = counted.sum(1)
        self._where = _on(np.flatnonzero(counted), device)  # a mask would make a GPU wait to count its tokens

    def __call__(self, hidden: Tensor) -> Tensor:
        return hidden.flatten(0, 1)[self._where.to(hidden.device)].flatten(1)


class PoolingPlan:
    """The given poolers made ready for one batch.

    ``plan(hidden)``: (batch, tokens, …width) → (batch, poolers, width), float32 (float64 stays float64).
    Raises UserError, naming the text, where a text lacks a token that a pooler asks for.
    """

    def __init__(self, poolers: Sequence[Pooler], rows: TokenRows, device: torch.device | str = "cpu") -> None:
        self._n = len(poolers)
        self._padded = not rows.mask.all()
        self._takes: list[tuple[int, slice, str]] = []
        self._weighted: list[int] = []
        self._extremes: list[tuple[int, Tensor | None, str]] = []
        positions: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        width = 0
        for place, pooler in enumerate(poolers):
            counted = _counted(pooler, rows)
            if isinstance(pooler, Max | Min):
                whole = bool(counted.all())
                self._extremes.append((place, None if whole else _on(~counted, device), pooler.kind))
            elif isinstance(pooler, Mean | Sum | LastK | Span | TokenIds):
                weights.append(_weights(pooler, rows, counted))
                self._weighted.append(place)
            else:
                chosen = _positions(pooler, rows, counted)
                how = pooler.reduce if isinstance(pooler, Quantiles) else "mean"
                self._takes.append((place, slice(width, width + chosen.shape[1]), how))
                positions.append(chosen)
                width += chosen.shape[1]
        self._positions = _on(np.concatenate(positions, axis=1), device) if positions else None
        self._weights = torch.from_numpy(np.stack(weights, axis=1)) if weights else None
        self._cast: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._padding = _on(~rows.mask, device) if self._padded and weights else None

    def __call__(self, hidden: Tensor) -> Tensor:
        hidden = hidden.flatten(2)
        if self._weights is not None and len(self._weighted) == self._n:
            return self._averages(hidden)
        pooled: list[Tensor | None] = [None] * self._n
        if self._positions is not None:
            at = self._positions.to(hidden.device)
            rows = torch.arange(hidden.shape[0], device=hidden.device)[:, None]
            taken = _wide(hidden[rows, at])
            for place, part, how in self._takes:
                pooled[place] = _REDUCTIONS[how](taken[:, part])
        if self._weights is not None:
            for place, average in zip(self._weighted, self._averages(hidden).unbind(1), strict=True):
                pooled[place] = average
        for place, left_out, kind in self._extremes:
            pooled[place] = _wide(_extreme(hidden, left_out, kind))
        return torch.stack([one for one in pooled if one is not None], dim=1)

    def _averages(self, hidden: Tensor) -> Tensor:
        """(batch, weighted poolers, width). Padding weighs nothing, but zero times NaN is NaN, so that is taken out first."""
        values = _wide(hidden)
        if self._padding is None:
            return self._product(values)
        if hidden.device.type == "cpu":
            # Padding is hardly ever NaN or infinite; looking at the small result spares a copy of the whole tensor.
            averages = self._product(values)
            if bool(torch.isfinite(averages).all()):
                return averages
        return self._product(values.masked_fill(self._padding.to(hidden.device)[:, :, None], 0))

    def _product(self, values: Tensor) -> Tensor:
        assert self._weights is not None
        key = (values.device, values.dtype)  # a model may be spread over devices
        if key not in self._cast:
            self._cast[key] = self._weights.to(values.dtype).to(values.device, non_blocking=True)
        return torch.bmm(self._cast[key], values)


def _on(array: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)


def _wide(values: Tensor) -> Tensor:
    """At least float32: a mean of many half-precision numbers loses digits, a sum overflows."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _extreme(hidden: Tensor, left_out: Tensor | None, kind: str) -> Tensor:
    if left_out is not None:
        filler = float("-inf") if kind == "max" else float("inf")
        hidden = hidden.masked_fill(left_out.to(hidden.device)[:, :, None], filler)
    return hidden.amax(1) if kind == "max" else hidden.amin(1)


_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda taken: taken[:, 0] if taken.shape[1] == 1 else taken.mean(1),
    "max": lambda taken: taken.amax(1),
    "min": lambda taken: taken.amin(1),
}


def _counted(pooler: Pooler, rows: TokenRows) -> np.ndarray:
    """(batch, tokens) True at the tokens that count for this pooler; at least one a row."""
    counted = rows.mask
    if pooler.over == "text":
        if rows.special is None:
            raise UserError(
                f"pooler {pooler.label}: which tokens are the text's own is not known here; use {pooler.label.removesuffix('@text')}."
            )
        counted = counted & ~rows.special
    _every_row(counted, rows, f"pooler {pooler.label}: {{name}} has no tokens.")
    return counted


def _every_row(kept: np.ndarray, rows: TokenRows, message: str) -> None:
    empty = np.flatnonzero(~kept.any(axis=1))
    if len(empty):
        raise UserError(message.format(name=rows.name(int(empty[0]))))


def _positions(pooler: Pooler, rows: TokenRows, counted: np.ndarray) -> np.ndarray:
    """(batch, k) positions in the padded batch."""
    lengths = counted.sum(1)
    match pooler:
        case First():
            ranks = np.zeros_like(lengths)[:, None]
        case Last():
            ranks = (lengths - 1)[:, None]
        case Index(index=index):
            short = np.flatnonzero(lengths < (index + 1 if index >= 0 else -index))
            if len(short):
                row = int(short[0])
                raise UserError(
                    f"pooler {pooler.label}: {rows.name(row)} has {lengths[row]} tokens, so no token {index}."
                )
            ranks = (lengths + index if index < 0 else np.full_like(lengths, index))[:, None]
        case Quantile(q=q):
            ranks = _quantile_ranks(lengths, [q])
        case Quantiles(qs=qs):
            ranks = _quantile_ranks(lengths, qs)
        case _:
            raise TypeError(f"{pooler} does not take single tokens")
    order = np.argsort(~counted, axis=1, kind="stable")  # the counted positions of each row first, in their order
    return np.take_along_axis(order, ranks, axis=1)


def _quantile_ranks(lengths: np.ndarray, qs: Sequence[float]) -> np.ndarray:
    return np.rint(np.asarray(qs)[None, :] * (lengths - 1)[:, None]).astype(np.int64)


def _weights(pooler: Pooler, rows: TokenRows, counted: np.ndarray) -> np.ndarray:
    """(batch, tokens) the share of each token."""
    match pooler:
        case Sum():
            return counted.astype(np.float64)
        case Mean():
            chosen = counted
        case LastK(k=k):
            from_end = np.cumsum(counted[:, ::-1], axis=1)[:, ::-1]
            chosen = counted & (from_end <= k)
        case Span(unit="tokens", start=int(start), end=int(end)):
            rank = np.cumsum(counted, axis=1) - 1
            chosen = counted & (rank >= start) & (rank < end)
            _every_row(chosen, rows, f"pooler {pooler.label}: {{name}} has no tokens from {start} on.")
        case Span():
            chosen = counted & _overlapping(pooler, rows)
            _every_row(
                chosen, rows, f"pooler {pooler.label}: no token of {{name}} lies in its span (was the text cut?)."
            )
        case TokenIds(ids=ids):
            if rows.ids is None:
                raise UserError(f"pooler {pooler.label} needs token ids, which are not known here.")
            chosen = counted & np.isin(rows.ids, ids)
            _every_row(chosen, rows, f"pooler {pooler.label}: {{name}} holds none of these token ids.")
        case _:
            raise TypeError(f"{pooler} has no weights")
    return chosen / chosen.sum(axis=1, keepdims=True)


def _overlapping(pooler: Span, rows: TokenRows) -> np.ndarray:
    """(batch, tokens) True where a token of the first text overlaps the row's character span."""
    if rows.offsets is None:
        raise UserError(f"pooler {pooler.label} needs each token's place in the text, which is not known here.")
    if pooler.start is None:
        if rows.spans is None:
            raise UserError(
                "the span pooler takes the dataset's spans, and this dataset has none. Name characters: span:chars:4-9."
            )
        span = rows.spans
    else:
        span = np.array([[pooler.start, pooler.end]])
    start, end = span[:, :1], span[:, 1:]
    first, last = rows.offsets[..., 0], rows.offsets[..., 1]
    own = rows.mask & (first >= 0)
    # Offsets of a pair start over at its second text: what follows a step back is not of the first.
    reached = np.maximum.accumulate(np.where(own, first, -1), axis=1)
    second = np.logical_or.accumulate(own & (first < reached), axis=1)
    return own & ~second & (first < end) & (last > start) & (last > first)
