"""One pass over the texts for every site and every pooler asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
import transformers
from torch import Tensor

from layerwise.activations.cost import Cost, bytes_per_text, check_memory, storage_dtype
from layerwise.activations.filling import Filling
from layerwise.activations.meter import Meter
from layerwise.activations.passes import Passes
from layerwise.activations.poolers import NoPool, Pooler, as_poolers
from layerwise.activations.result import Activations, Key, Report
from layerwise.activations.shards import Part, Piece
from layerwise.activations.store import Corpus, Store, tokens_digest
from layerwise.data.dataset import TextDataset
from layerwise.errors import UserError
from layerwise.files import digest
from layerwise.models.model import LanguageModel
from layerwise.models.tokens import Tokens


def collect(
    model: LanguageModel,
    texts: Sequence[str] | TextDataset,
    sites: str | Sequence[str] = "resid_post.*",
    poolers: str | Pooler | Sequence[str | Pooler] = "mean",
    *,
    token_budget: int = 4096,
    dtype: str = "float32",
    store: Store | None = None,
    max_length: int | None = None,
    truncation: Literal["report", "error"] = "report",
    allow_nonfinite: bool = False,
    progress: bool = True,
) -> Activations:
    """Every site under every pooler, for all texts, in one pass; rows come back in input order.

    The forward stops after the deepest site, pools inside its hooks, and runs the language-model head only for
    ``logits``. Heads are laid side by side: ``z.5`` is heads · head_dim wide.

    Args:
        texts: texts, or a dataset whose text pairs and spans are used too.
        sites: names, ranges, ``resid_post.*``; ``all`` is every layer's ``resid_post``.
        poolers: poolers or their labels (``"mean,last"``); ``none`` keeps every token.
        token_budget: padded tokens a batch; halved where one does not fit into memory.
        dtype: what is kept: ``float32``, ``float16`` or ``bfloat16``. Pooling itself is done in float32.
        store: read from it what is there, compute the rest into it, in shards that survive a kill.
        max_length, truncation: as in ``LanguageModel.tokenize``.
        allow_nonfinite: keep NaN and infinity in place of an error that names the site and the text.
        progress: say the cost before and show a bar of tokens meanwhile, on stderr.

    Raises UserError for sites the model lacks, texts that lack a token a pooler asks for, what will not fit into memory
    or on the disk, and NaN.
    """
    request = _Request.of(model, texts, sites, poolers, max_length, truncation)
    tokens = request.tokens
    passes = partial(
        Passes, model, tokens, spans=request.spans, dtype=storage_dtype(dtype), token_budget=token_budget,
        allow_nonfinite=allow_nonfinite,
    )  # fmt: skip
    meter = Meter(tokens.lengths, progress)
    parts: list[Part] = []
    if store is None:
        columns, size = _in_memory(passes(request.asked), meter)
    else:
        columns, parts = Filling(store, request.corpus(), passes, dtype, meter).columns(request.asked)
        size = sum(part.bytes() for part in parts)
    report = Report(
        texts=len(tokens),
        tokens=int(tokens.lengths.sum()),
        computed_tokens=meter.computed_tokens,
        truncated=int(tokens.truncated.sum()),
        seconds=meter.seconds,
        bytes=size,
        notes=(tokens.report,) if tokens.report else (),
    )
    return Activations(len(tokens), columns, report, tokens, tuple(part.key for part in parts))


def is_stored(
    model: LanguageModel,
    texts: Sequence[str] | TextDataset,
    sites: str | Sequence[str],
    poolers: str | Pooler | Sequence[str | Pooler],
    store: Store,
    *,
    dtype: str = "float32",
    max_length: int | None = None,
    truncation: Literal["report", "error"] = "report",
) -> bool:
    """Whether ``collect`` with these arguments would find everything in the store, whole, and run no model."""
    request = _Request.of(model, texts, sites, poolers, max_length, truncation)
    corpus = request.corpus()
    columns = [corpus.column(site, pooler) for site, chosen in request.asked.items() for pooler in chosen]
    served, lacking = store.serving(corpus, columns, dtype)
    held: dict[Part, list[str]] = {}
    for column, part in served.items():
        held.setdefault(part, []).append(column)
    return not lacking and not any(part.missing(held[part]) for part in held)


@dataclass(frozen=True)
class _Request:
    """What is asked of which texts: names resolved, texts tokenized."""

    model: LanguageModel
    dataset: TextDataset | None
    tokens: Tokens
    asked: dict[str, tuple[Pooler, ...]]

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        texts: Sequence[str] | TextDataset,
        sites: str | Sequence[str],
        poolers: str | Pooler | Sequence[str | Pooler],
        max_length: int | None,
        truncation: Literal["report", "error"],
    ) -> _Request:
        dataset = texts if isinstance(texts, TextDataset) else None
        plain = texts.texts if isinstance(texts, TextDataset) else texts
        if not len(plain):
            raise UserError("there are no texts to collect activations of.")
        named = ["resid_post.*" if site == "all" else site for site in ([sites] if isinstance(sites, str) else sites)]
        asked = dict.fromkeys(model.sites.expand(named), as_poolers(poolers))
        tokens = model.tokenize(plain, dataset.pairs if dataset else None, max_length, truncation)
        return cls(model, dataset, tokens, asked)

    @property
    def spans(self) -> np.ndarray | None:
        return self.dataset.spans if self.dataset else None

    def corpus(self) -> Corpus:
        tokens = self.tokens
        spans = None if self.spans is None else digest(self.spans.tolist())
        named = {} if self.dataset is None else {"dataset": self.dataset.name, "dataset_digest": self.dataset.digest()}
        return Corpus(
            self.model.fingerprint,
            tokens_digest([tokens.ids, tokens.special, tokens.type_ids, tokens.offsets]),
            spans,
            tokens.lengths,
            {"model": self.model.name, **named, "torch": torch.__version__, "transformers": transformers.__version__},
        )


def _in_memory(passes: Passes, meter: Meter) -> tuple[dict[Key, Sequence[Piece]], int]:
    lengths = meter.lengths
    widths = passes.widths()
    size = int(bytes_per_text(lengths, widths, passes.wanted, passes.dtype).sum())
    check_memory(size)
    poolers = {pooler for chosen in passes.wanted.values() for pooler in chosen}
    cost = Cost(len(lengths), int(lengths.sum()), len(passes.wanted), len(poolers), size)
    whole: dict[tuple[str, Pooler], Tensor] = {
        (site, pooler): torch.empty((len(lengths), widths[site]), dtype=passes.dtype)
        for site, chosen in passes.wanted.items()
        for pooler in chosen
        if not isinstance(pooler, NoPool)
    }
    pieces: dict[Key, list[Piece]] = {
        (site, pooler.label): [] for site, chosen in passes.wanted.items() for pooler in chosen
    }
    with meter.round(cost):
        for block in meter.counted(passes(np.arange(len(lengths)))):
            rows = torch.from_numpy(block.rows)
            for (site, pooler), value in block.values.items():
                if isinstance(pooler, NoPool):
                    pieces[site, pooler.label].append(Piece(block.rows, partial(_itself, value), block.lengths[pooler]))
                else:
                    whole[site, pooler][rows] = value
    for (site, pooler), matrix in whole.items():
        pieces[site, pooler.label].append(Piece(np.arange(len(lengths)), partial(_itself, matrix)))
    return dict(pieces), size


def _itself(tensor: Tensor) -> Tensor:
    return tensor
