"""Texts through the model in batches, pooled inside the hooks; nothing is kept here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layerwise.activations.poolers import NoPool, Pooler
from layerwise.activations.pooling import PoolingPlan, TokenPlan, TokenRows
from layerwise.data.batching import token_budget_batches
from layerwise.errors import UserError
from layerwise.models.batch import make_batch
from layerwise.models.model import LanguageModel
from layerwise.models.sites import parse_site
from layerwise.models.taps import run
from layerwise.models.tokens import Tokens

_CHECKED_AT_ONCE = 512
Wanted = Mapping[str, tuple[Pooler, ...]]  # by site


@dataclass(frozen=True)
class Block:
    """The pooled results of one batch, on the host.

    rows: (batch,) places in the input. values[site, pooler]: (batch, width), at token level (tokens, width).
    lengths[pooler]: (batch,) tokens of each text, for token-level poolers.
    """

    rows: np.ndarray
    values: dict[tuple[str, Pooler], Tensor]
    lengths: dict[Pooler, np.ndarray]


class Passes:
    """Runs texts through a model and yields what was asked for, batch by batch.

    A batch that does not fit into memory is halved, and so are all that follow. ``allow_nonfinite`` lets NaN and
    infinity pass; else they are a UserError that names the site and the text.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokens: Tokens,
        wanted: Wanted,
        *,
        spans: np.ndarray | None = None,
        dtype: torch.dtype = torch.float32,
        token_budget: int = 4096,
        allow_nonfinite: bool = False,
    ) -> None:
        for site in wanted:
            if parse_site(site).kind == "pattern":
                raise UserError(
                    f"{site} cannot be pooled: its width is the number of tokens and differs between texts.\n"
                    "Read attention patterns with layerwise.models.taps.run, or collect z, the values they mix."
                )
        self.model, self.tokens, self.wanted, self.spans = model, tokens, wanted, spans
        self.dtype, self.token_budget, self.allow_nonfinite = dtype, token_budget, allow_nonfinite
        self._needs_places = any(pooler.kind == "span" for poolers in wanted.values() for pooler in poolers)
        if self._needs_places:
            tokens.need_offsets()
        self._check_poolers()

    def widths(self) -> dict[str, int]:
        """The width of each site; where the architecture does not tell, from one forward of the shortest text."""
        known = {site: self.model.sites.width_of(site) for site in self.wanted}
        if any(width is None for width in known.values()):
            [block] = self([int(np.argmin(self.tokens.lengths))])
            return {site: block.values[site, poolers[0]].shape[1] for site, poolers in self.wanted.items()}
        return {site: width for site, width in known.items() if width is not None}

    def __call__(self, rows: np.ndarray | list[int]) -> Iterator[Block]:
        """The texts ``rows``, longest first. On a GPU one batch is copied to the host while the next one runs."""
        rows = np.asarray(rows)
        waiting = self._batches(rows)
        under_way: Callable[[], Block] | None = None
        while waiting:
            batch = waiting.pop(0)
            begun = self._try(batch)
            if begun is None:
                padded = len(batch) * int(self.tokens.lengths[batch].max())
                self.token_budget = max(1, min(self.token_budget, padded) // 2)
                smaller = self._batches(batch) if len(batch) > 1 else []
                if len(smaller) < 2:
                    half = -(-len(batch) // 2)
                    smaller = [batch[:half], batch[half:]]
                waiting = [*smaller, *(self._batches(np.concatenate(waiting)) if waiting else [])]
                continue
            if under_way is not None:
                yield under_way()
            under_way = begun
        if under_way is not None:
            yield under_way()

    def _batches(self, rows: np.ndarray) -> list[np.ndarray]:
        return [rows[batch] for batch in token_budget_batches(self.tokens.lengths[rows], self.token_budget)]

    def _try(self, rows: np.ndarray) -> Callable[[], Block] | None:
        """None where the batch does not fit into memory and can be halved."""
        try:
            return self._forward(rows)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(rows) == 1:
                raise UserError(
                    f"text {int(rows[0])} of {len(self.tokens.ids[int(rows[0])]):,} tokens does not fit into memory alone.\n"
                    "Set max_length, load the model in bfloat16 or quantized, or use a larger machine."
                ) from error
        # Only here is the failed batch's memory no longer held by the error's traceback.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _forward(self, rows: np.ndarray) -> Callable[[], Block]:
        """Start one batch; what is returned waits for its results."""
        context = self._context(rows)
        plans: dict[tuple[Pooler, ...], _Reader] = {}
        for poolers in self.wanted.values():
            if poolers not in plans:
                plans[poolers] = _Reader(poolers, context, self.model.device)
        values: dict[tuple[str, Pooler], Tensor] = {}
        gpus: set[torch.device] = set()

        def reading(site: str) -> Callable[[Tensor], Tensor]:
            def read(hidden: Tensor) -> Tensor:
                if hidden.dim() < 3 or hidden.shape[:2] != context.mask.shape:
                    raise UserError(
                        f"{site} cannot be pooled over tokens: its shape is {tuple(hidden.shape)}, and a batch of "
                        f"{context.mask.shape[0]} texts of {context.mask.shape[1]} tokens was read."
                    )
                for pooler, value in plans[self.wanted[site]](hidden):
                    values[site, pooler] = self._to_host(value)
                if hidden.is_cuda:
                    gpus.add(hidden.device)
                return hidden.new_empty(0)

            return read

        run(self.model, make_batch(self.model, self.tokens, rows), {site: reading(site) for site in self.wanted})
        lengths = {pooler: count for reader in plans.values() for pooler, count in reader.lengths.items()}
        copied = [torch.cuda.current_stream(gpu).record_event() for gpu in gpus]

        def results() -> Block:
            for event in copied:
                event.synchronize()
            block = Block(rows, {key: values[key] for key in self._keys()}, lengths)
            if not self.allow_nonfinite:
                self._check_finite(block)
            return block

        return results

    def _check_poolers(self) -> None:
        """Find a text that lacks what a pooler asks for before the model has run for hours."""
        every = {pooler for poolers in self.wanted.values() for pooler in poolers}
        picky = [pooler for pooler in every if pooler.kind in ("index", "span", "token_ids")]
        for start in range(0, len(self.tokens) if picky else 0, _CHECKED_AT_ONCE):
            PoolingPlan(picky, self._context(np.arange(start, min(start + _CHECKED_AT_ONCE, len(self.tokens)))))

    def _keys(self) -> list[tuple[str, Pooler]]:
        return [(site, pooler) for site, poolers in self.wanted.items() for pooler in poolers]

    def _to_host(self, value: Tensor) -> Tensor:
        value = value.to(self.dtype)
        if not value.is_cuda:
            return value.cpu()
        pinned = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        return pinned.copy_(value, non_blocking=True)

    def _context(self, rows: np.ndarray) -> TokenRows:
        """The batch as poolers see it, made on the host so that a GPU is not waited for. ``make_batch`` pads right."""
        lengths = self.tokens.lengths[rows]
        mask = np.arange(lengths.max())[None, :] < lengths[:, None]

        def padded(ragged: list[np.ndarray], fill: int | bool) -> np.ndarray:
            first = ragged[int(rows[0])]
            out = np.full((*mask.shape, *first.shape[1:]), fill, dtype=first.dtype)
            out[mask] = np.concatenate([ragged[int(row)] for row in rows])
            return out

        return TokenRows(
            mask,
            ids=padded(self.tokens.ids, 0),
            special=padded(self.tokens.special, True),
            offsets=padded(self.tokens.need_offsets(), -1) if self._needs_places else None,
            spans=None if self.spans is None else self.spans[rows],
            numbers=rows,
        )

    def _check_finite(self, block: Block) -> None:
        for (site, pooler), value in block.values.items():
            if torch.isfinite(value).all():
                continue
            at = int(torch.nonzero(~torch.isfinite(value).all(1))[0])
            if isinstance(pooler, NoPool):
                at = int(np.searchsorted(np.cumsum(block.lengths[pooler]), at, side="right"))
            text = int(block.rows[at])
            advice = "The model overflows: load it as float32 or bfloat16, or allow such values (allow_nonfinite)."
            if self.dtype is torch.float16 and self.model.dtype is not torch.float16:
                advice = "float16 holds numbers up to 65,504: store as float32 or bfloat16, or allow such values (allow_nonfinite)."
            raise UserError(f"activations of {site} ({pooler.label}) are NaN or infinite for text {text}.\n{advice}")


class _Reader:
    """All poolers of one site: token level and pooled together."""

    def __init__(self, poolers: tuple[Pooler, ...], context: TokenRows, device: torch.device) -> None:
        self._pooled = [pooler for pooler in poolers if not isinstance(pooler, NoPool)]
        self._plan = PoolingPlan(self._pooled, context, device) if self._pooled else None
        self._levels = {p: TokenPlan(p, context, device) for p in poolers if isinstance(p, NoPool)}
        self.lengths: dict[Pooler, np.ndarray] = {pooler: plan.lengths for pooler, plan in self._levels.items()}

    def __call__(self, hidden: Tensor) -> Iterator[tuple[Pooler, Tensor]]:
        if self._plan is not None:
            yield from zip(self._pooled, self._plan(hidden).unbind(1), strict=True)
        for pooler, plan in self._levels.items():
            yield pooler, plan(hidden)


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text or "out of memory" in text
    )
