"""Head by head, how differently two models of one architecture attend on the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerwise.comparison.inside.rows import Rows
from layerwise.data.batching import token_budget_batches
from layerwise.errors import UserError
from layerwise.measures.divergences import Pair, entropy
from layerwise.models.batch import Batch, make_batch
from layerwise.models.model import LanguageModel
from layerwise.models.sites import parse_site
from layerwise.models.taps import run
from layerwise.progress import Progress

PATTERN_BYTES = 256 * 2**20  # of one model's patterns held at once
LEAST = 1e-12  # a softmax in float32 gives 0 for what is merely small, and KL would be infinite
COLUMNS = ("js", "total_variation", "kl", "entropy_a", "entropy_b")


def attention_divergence(
    model_a: LanguageModel,
    model_b: LanguageModel,
    texts: Sequence[str],
    sites: str | Sequence[str] = "pattern.*",
    *,
    tokens: int = 10_000,
    max_length: int | None = None,
    token_budget: int = 2048,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """How far each head's attention in one model lies from the same head's in the other, mean over the tokens that attend.

    A text's first token, which can attend to itself alone, does not count. What a head leaves to no token (an attention sink) is one
    more place to attend to.

    Returns:
        A row a head: layer, head, js, total_variation, kl (of b from a, nats), entropy_a, entropy_b (nats), tokens.

    Raises:
        UserError: for models with other heads or tokens, and where attention patterns cannot be read.
    """
    names = model_a.sites.expand(sites)
    if any(parse_site(name).kind != "pattern" or parse_site(name).head is not None for name in names):
        raise UserError(f"attention is compared at whole patterns, such as pattern.3, got {sites!r}.")
    if names != model_b.sites.expand(sites) or model_a.sites.n_heads != model_b.sites.n_heads:
        has = [f"{m.name} has {m.sites.n_heads} heads in {m.sites.n_layers} layers" for m in (model_a, model_b)]
        raise UserError(f"heads are compared of models of one architecture: {' and '.join(has)}.")
    rows = Rows.of(model_a, model_b, texts, tokens, None, max_length, seed)
    if not rows.one_tokenizer:
        raise UserError(
            f"attention is compared on the same tokens, and {model_a.name} and {model_b.name} have two tokenizers."
        )
    heads = model_a.sites.n_heads
    sums = {name: torch.zeros(len(COLUMNS), heads, dtype=torch.float64) for name in names}
    lengths = rows.tokens_a.lengths[list(rows.texts)]
    with Progress(f"compare heads of {model_a.name} and {model_b.name}", len(rows), "token", quiet=not progress) as bar:
        for chosen in token_budget_batches(lengths, token_budget):
            longest = int(lengths[chosen].max())
            # Patterns grow with the square of a text's length: few texts at once, and few layers where one text is too much.
            texts_at_once = max(1, PATTERN_BYTES // (4 * heads * len(names) * longest**2))
            for start in range(0, len(chosen), texts_at_once):
                part = chosen[start : start + texts_at_once]
                batch_a, batch_b = (
                    make_batch(model, found, [rows.texts[index] for index in part])
                    for model, found in ((model_a, rows.tokens_a), (model_b, rows.tokens_b))
                )
                judged = _judged(batch_a, [rows.a[index] for index in part])
                layers = max(1, PATTERN_BYTES // (4 * heads * len(part) * longest**2))
                for first in range(0, len(names), layers):
                    _add(model_a, model_b, batch_a, batch_b, judged, names[first : first + layers], sums)
                bar.advance(sum(len(rows.a[index]) for index in part))
    found = [
        (model_a.sites.layer_of(name), head, *(sums[name][:, head] / len(rows)).tolist(), len(rows))
        for name in names
        for head in range(heads)
    ]
    return pd.DataFrame(found, columns=["layer", "head", *COLUMNS, "tokens"])


def _judged(batch: Batch, places: Sequence[np.ndarray]) -> Tensor:
    """(batch, tokens) which queries count."""
    judged = torch.zeros_like(batch.mask)
    for line, mine in enumerate(places):
        judged[line, batch.mask[line].nonzero()[:, 0][torch.from_numpy(mine).to(judged.device)]] = True
    return judged


def _add(
    model_a: LanguageModel,
    model_b: LanguageModel,
    batch_a: Batch,
    batch_b: Batch,
    judged: Tensor,
    names: list[str],
    sums: dict[str, Tensor],
) -> None:
    """Both models on one batch; the second's patterns are compared as they come."""
    first = run(model_a, batch_a, dict.fromkeys(names))

    def comparing(name: str) -> Callable[[Tensor], Tensor]:
        def read(pattern: Tensor) -> Tensor:
            for head in range(pattern.shape[1]):
                a, b = (
                    _log_attention(one[:, head], mine.mask)[mine_judged]
                    for one, mine, mine_judged in (
                        (first[name], batch_a, judged),
                        (pattern, batch_b, judged.to(pattern.device)),
                    )
                )
                b = b.to(a.device)
                pair = Pair(a, b)
                values = (pair.js(), pair.total_variation(), pair.kl(), entropy(a), entropy(b))
                sums[name][:, head] += torch.stack([value.sum() for value in values]).cpu()
            return pattern.new_empty(0)

        return read

    run(model_b, batch_b, {name: comparing(name) for name in names})


def _log_attention(pattern: Tensor, mask: Tensor) -> Tensor:
    """(batch, query, key + 1) log of where a query attends, in float64, padding left out, the last place for what goes to no token."""
    pattern = pattern.double().clamp(min=0) * mask[:, None, :].to(pattern.device)
    total = pattern.sum(-1, keepdim=True)
    # Rounding must not look like a sink.
    sink = torch.where(total < 1 - 1e-4, 1 - total, torch.zeros_like(total))
    whole = torch.cat([pattern, sink], dim=-1).clamp(min=LEAST)
    return (whole / whole.sum(-1, keepdim=True)).log()
