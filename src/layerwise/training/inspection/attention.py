"""Where heads attend: the patterns of a prompt, one head while a model learns, and what every head does with repeated tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerwise.errors import UserError, check_seed
from layerwise.measures.attention import (
    duplicate_token_score,
    first_token_score,
    induction_score,
    previous_token_score,
)
from layerwise.models.batch import Ids, make_batch
from layerwise.models.model import LanguageModel
from layerwise.models.sites import parse_site
from layerwise.models.taps import run
from layerwise.training.inspection.config import RepeatedTokens
from layerwise.training.inspection.reading import read_prompts

Floats = NDArray[np.float32]
MOST_BYTES = 2**30  # of the patterns of one prompt
SCORES = ("induction", "previous_token", "duplicate_token", "first_token")


@dataclass(frozen=True, eq=False)
class AttentionPatterns:
    """Attention of some heads over one prompt.

    tokens: (tokens,) their names. patterns: by site of one head (``pattern.3.5``), (query, key) float32.
    """

    prompt: str
    tokens: tuple[str, ...]
    patterns: dict[str, Floats]

    def table(self) -> pd.DataFrame:
        """A row a head: layer, head, entropy (nats, mean over queries), and its mean attention to the first and the previous token."""
        rows = []
        for site, pattern in self.patterns.items():
            parsed = parse_site(site)
            tensor = torch.from_numpy(pattern).double()
            entropy = -torch.special.xlogy(tensor, tensor).sum(-1).mean()
            several = len(pattern) > 1
            rows.append(
                {
                    "site": site, "layer": parsed.layer, "head": parsed.head, "entropy": float(entropy),
                    "first_token": float(first_token_score(tensor)) if several else float("nan"),
                    "previous_token": float(previous_token_score(tensor)) if several else float("nan"),
                }
            )  # fmt: skip
        return pd.DataFrame(rows)


def attention_patterns(
    model: LanguageModel, prompt: str, sites: str | Sequence[str] = "pattern.*"
) -> AttentionPatterns:
    """The patterns of chosen heads on a prompt: ``pattern.3`` is a layer, ``pattern.3.5`` a head, ``pattern.*`` everything.

    Raises UserError for sites that are not attention patterns, and for patterns that would not fit into memory.
    """
    [reading] = read_prompts(model, [prompt])
    heads = _heads(model, sites)
    if 4 * len(heads) * len(reading) ** 2 > MOST_BYTES:
        raise UserError(
            f"the patterns of {len(heads)} heads over {len(reading)} tokens take more than {MOST_BYTES >> 20} MiB.\n"
            "Name fewer heads, such as pattern.3 or pattern.3.5, or a shorter prompt."
        )
    found = run(model, reading.batch(model), dict.fromkeys(heads))
    return AttentionPatterns(prompt, reading.names, {site: found[site][0].float().cpu().numpy() for site in heads})


def _heads(model: LanguageModel, sites: str | Sequence[str]) -> list[str]:
    """Sites of single heads."""
    found: list[str] = []
    for name in model.sites.expand(sites):
        site = parse_site(name)
        if site.kind != "pattern":
            raise UserError(f"attention is read at patterns, such as pattern.3 or pattern.3.5, got {name}.")
        found += [name] if site.head is not None else model.sites.expand(f"{name}.*")
    return list(dict.fromkeys(found))


@dataclass(frozen=True, eq=False)
class HeadProgress:
    """One head of several checkpoints over one prompt. steps: of the checkpoints; patterns: (query, key) of each."""

    site: str
    prompt: str
    tokens: tuple[str, ...]
    steps: tuple[int, ...]
    patterns: tuple[Floats, ...]
    scores: pd.DataFrame


def head_progress(
    checkpoints: Iterable[tuple[int, LanguageModel]], prompt: str, site: str, repeated: RepeatedTokens | None = None
) -> HeadProgress:
    """A head at every checkpoint: its pattern on a prompt, and by step what it does with repeated tokens (``head_scores``).

    checkpoints: steps and models, which may be loaded one after the other. Raises UserError for a site that is not one head.
    """
    steps, patterns, scores = [], [], []
    tokens: tuple[str, ...] = ()
    for step, model in checkpoints:
        [name, *more] = model.sites.expand(site)
        if more or parse_site(name).head is None:
            raise UserError(f"one head is followed through checkpoints, such as pattern.1.0, got {site!r}.")
        found = attention_patterns(model, prompt, name)
        tokens = found.tokens
        steps.append(step)
        patterns.append(found.patterns[name])
        scores.append(head_scores(model, repeated, sites=name).assign(step=step))
    if not steps:
        raise UserError("there are no checkpoints to follow a head through.")
    return HeadProgress(site, prompt, tokens, tuple(steps), tuple(patterns), pd.concat(scores, ignore_index=True))


def head_scores(
    model: LanguageModel,
    repeated: RepeatedTokens | None = None,
    *,
    sites: str | Sequence[str] = "pattern.*",
    seed: int = 0,
    tokens: Sequence[int] | None = None,
) -> pd.DataFrame:
    """What every head does with blocks of random tokens that come twice, mean over the sequences.

    Args:
        tokens: ids to draw from; by default all that are not special.

    Returns:
        A row a head: layer, head, and mean attention: induction (to the token after the earlier occurrence), previous_token,
        duplicate_token (to the earlier occurrence), first_token; see ``measures.attention``.

    Raises UserError for a vocabulary of fewer than two tokens, and blocks that are longer than the model reads.
    """
    repeated = repeated or RepeatedTokens()
    check_seed(seed)
    rows = _repeated(model, repeated, seed, tokens)
    heads = _heads(model, sites)
    layers = list(dict.fromkeys(site.rpartition(".")[0] for site in heads))
    sums = {site: torch.zeros(len(SCORES), dtype=torch.float64) for site in heads}
    # Patterns of one sequence at a time: of all layers together they are the largest thing a forward makes.
    for ids in rows:
        found = run(model, make_batch(model, Ids([ids]), [0]), dict.fromkeys(layers))
        read = torch.from_numpy(ids)
        for site in heads:
            layer, _, head = site.rpartition(".")
            sums[site] += _scores(found[layer][0, int(head)].double().cpu(), read)
    parsed = [parse_site(site) for site in heads]
    table = pd.DataFrame([(sums[site] / len(rows)).tolist() for site in heads], columns=list(SCORES))
    table.insert(0, "layer", [site.layer for site in parsed])
    table.insert(1, "head", [site.head for site in parsed])
    return table


def _scores(pattern: Tensor, ids: Tensor) -> Tensor:
    found = [
        induction_score(pattern, ids),
        previous_token_score(pattern),
        duplicate_token_score(pattern, ids),
        first_token_score(pattern),
    ]
    return torch.stack(found)


def _beginning(model: LanguageModel) -> list[int]:
    """The token that the tokenizer puts before every text, if it does."""
    if model.tokenizer is None or model.tokenizer.bos_token_id is None:
        return []
    first: list[int] = model.tokenizer("")["input_ids"][:1]
    return first if first == [model.tokenizer.bos_token_id] else []


def _repeated(
    model: LanguageModel, repeated: RepeatedTokens, seed: int, tokens: Sequence[int] | None
) -> list[NDArray[np.int64]]:
    """(2 · length (+ 1),) token ids of each sequence, behind the token that begins a text where there is one."""
    special = set(model.tokenizer.all_special_ids) if model.tokenizer is not None else set()
    known = model.vocabulary_size if model.tokenizer is None else min(len(model.tokenizer), model.vocabulary_size)
    drawn = np.array([token for token in (range(known) if tokens is None else tokens) if token not in special])
    if len(drawn) < 2:
        raise UserError(f"{model.name} has {len(drawn)} tokens that are not special: two at least can be repeated.")
    begin = _beginning(model)
    if model.max_length is not None and len(begin) + 2 * repeated.length > model.max_length:
        raise UserError(
            f"a block of {repeated.length} tokens twice is longer than the {model.max_length} that {model.name} reads."
        )
    rng = np.random.default_rng(seed)
    different = len(drawn) >= repeated.length  # a token that comes twice in a block has two tokens after it
    blocks = [rng.choice(drawn, repeated.length, replace=not different) for _ in range(repeated.sequences)]
    return [np.array([*begin, *block, *block], dtype=np.int64) for block in blocks]
