"""The logit lens of one model: what it would say after each token if it stopped at a layer (nostalgebraist 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from layerwise.errors import UserError
from layerwise.measures.divergences import kl
from layerwise.models.model import LanguageModel
from layerwise.models.readout import Readout
from layerwise.models.sites import parse_site
from layerwise.models.taps import run
from layerwise.training.inspection.reading import read_prompt, token_names

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LensReading:
    """What is read out at each site after each token of a prompt.

    sites: (sites,). tokens: (tokens,) names of the prompt's. top: (sites, tokens, k) names of the likeliest tokens there, p: their
    probabilities. next_log_p, next_rank: (sites, tokens) log-probability and rank (from 1) of the token that really follows, NaN after
    the last. kl_to_end: (sites, tokens) nats from what the model says in the end.
    """

    prompt: str
    sites: tuple[str, ...]
    tokens: tuple[str, ...]
    top: NDArray[np.object_]
    p: Floats
    next_log_p: Floats
    next_rank: Floats
    kl_to_end: Floats

    def table(self) -> pd.DataFrame:
        """A row a site and token: site, layer, position, token, top, p (lists), next_log_p, next_rank, kl_to_end."""
        rows = [
            {
                "site": site, "layer": parse_site(site).layer, "position": position, "token": token,
                "top": list(self.top[place, position]), "p": self.p[place, position].tolist(),
                "next_log_p": self.next_log_p[place, position], "next_rank": self.next_rank[place, position],
                "kl_to_end": self.kl_to_end[place, position],
            }
            for place, site in enumerate(self.sites)
            for position, token in enumerate(self.tokens)
        ]  # fmt: skip
        return pd.DataFrame(rows)


def logit_lens(
    model: LanguageModel, prompt: str, sites: str | Sequence[str] = "resid_post.*", top_k: int = 5
) -> LensReading:
    """Residuals at ``sites`` read through the final norm and the head, as if each were the last.

    Raises UserError for an encoder, sites that are not of the residual's width, and a head that does not read the residual.
    """
    if top_k < 1:
        raise UserError(f"top_k must be at least 1, got {top_k}.")
    readout = Readout.of(model).need_lens(model.name)
    reading = read_prompt(model, prompt)
    names = model.sites.expand(sites)
    wrong = [site for site in names if model.sites.width_of(site) != model.sites.width_of("resid_post.-1")]
    if wrong:
        raise UserError(f"{wrong[0]} is not in the residual stream, which is what the head reads: name resid_post.*.")
    [last] = model.sites.expand("resid_post.-1")
    found = run(model, reading.batch(model), dict.fromkeys([*names, last]))
    top_k = min(top_k, model.vocabulary_size)
    with torch.no_grad():
        end = readout.lens(found[last][0]).double().log_softmax(-1)
        kept = [_read(readout.lens(found[site][0]).double().log_softmax(-1), end, reading.ids, top_k) for site in names]
    ids, p, log_p, rank, divergence = (np.stack(part) for part in zip(*kept, strict=True))
    spelt = np.array(token_names(model, ids.ravel()), dtype=object).reshape(ids.shape)
    return LensReading(prompt, tuple(names), reading.names, spelt, p, log_p, rank, divergence)


def _read(log_p: torch.Tensor, end: torch.Tensor, ids: np.ndarray, top_k: int) -> tuple[np.ndarray, ...]:
    """log_p, end: (tokens, vocabulary)."""
    best = log_p.topk(top_k, dim=-1)
    follows = torch.from_numpy(ids[1:]).to(log_p.device)
    chosen = log_p[:-1].gather(-1, follows[:, None])
    rank = (log_p[:-1] > chosen).sum(-1) + 1
    missing = np.array([np.nan])
    return (
        best.indices.cpu().numpy(),
        best.values.exp().cpu().numpy(),
        np.concatenate([chosen[:, 0].cpu().numpy(), missing]),
        np.concatenate([rank.double().cpu().numpy(), missing]),
        kl(end, log_p).cpu().numpy(),
    )
