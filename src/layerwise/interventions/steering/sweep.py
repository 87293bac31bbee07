"""Strengths and places: what adding directions does to a behaviour, and to how likely neutral text is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layerwise.data.batching import token_budget_batches
from layerwise.interventions.side_by_side import marked, read_batch, read_prompts
from layerwise.interventions.steering.doses import Doses, give_doses
from layerwise.interventions.sweeps.asked import AskedPairs
from layerwise.interventions.sweeps.ledger import Ledgers, Share
from layerwise.models.batch import Batch, budget_of, make_batch
from layerwise.models.generation import continue_texts
from layerwise.models.model import LanguageModel
from layerwise.models.taps import Write, tapped

Place = Mapping[str, Tensor]
"""Directions by site, (d, width) each; direction i of a place is that of all its sites together."""


@dataclass(frozen=True, eq=False)
class Dosed:
    """What the directions of one place do in every dose.

    doses: the metric of the prompts. perplexity: (d, strengths), of neutral text, and ``clean_perplexity`` without any.
    """

    doses: Doses
    perplexity: np.ndarray
    clean_perplexity: float


def dose_places(
    asked: AskedPairs,
    neutral: Sequence[str],
    places: Mapping[str, Place],
    strengths: Sequence[float],
    metric: str,
    *,
    positions: str = "all",
    token_budget: int | None = None,
    ledgers: Ledgers | None = None,
    done: Callable[[int], None] = lambda runs: None,
) -> dict[str, Dosed]:
    """Every dose at every place, by the places' names.

    Args:
        asked: pairs whose clean prompts show the behaviour, acted on at ``positions``.
        neutral: texts whose perplexity should stay, acted on at all their tokens.
        ledgers: where values go, and what is known of them already.
        done: is told how many runs, one for each text and dose, each forward has finished.
    """
    ledgers = ledgers or Ledgers()
    books = {
        kind: {name: _book(ledgers, f"{kind}-{name}", place, strengths, size) for name, place in places.items()}
        for kind, size in (("prompts", len(asked)), ("neutral", len(neutral)))
    }
    behaviour: dict[str, list[Doses]] = {name: [] for name in places}
    order = asked.chunks(token_budget)
    for rows in order:
        rerun = read_prompts(asked, metric, rows, token_budget)
        where = marked(asked, positions, rows, rerun.kept.batch)
        for name, place in places.items():
            known = books["prompts"][name](rows)
            behaviour[name].append(
                give_doses(rerun, place, strengths, where=where, known=known, done=_times(done, len(rows)))
            )
    losses: dict[str, list[Doses]] = {name: [] for name in places}
    weights = []
    for rows, batch in _batches(asked.model, neutral, token_budget):
        rerun = read_batch(asked.model, batch, "loss", token_budget=token_budget)
        weights.append(rerun.asked.at.sum(1).cpu().numpy())
        for name, place in places.items():
            known = books["neutral"][name](rows)
            losses[name].append(give_doses(rerun, place, strengths, known=known, done=_times(done, len(rows))))
    weight = np.concatenate(weights) / sum(map(np.sum, weights))
    found = {}
    for name in places:
        loss = Doses.joined(losses[name])
        doses = Doses.joined(behaviour[name]).ordered(np.concatenate(order))
        found[name] = Dosed(doses, np.exp(loss.values @ weight), float(np.exp(loss.clean @ weight)))
    return found


def runs_of(asked: AskedPairs, neutral: Sequence[str], directions: int, strengths: Sequence[float]) -> int:
    """How many runs ``dose_places`` makes for so many directions over all places."""
    return directions * len(strengths) * (len(asked) + len(neutral))


def write_steered(
    model: LanguageModel, place: Place, strength: float, prompts: Sequence[str], max_new_tokens: int
) -> list[str]:
    """How the model goes on from each prompt with the first direction of a place added at every token, its likeliest one each time."""

    def adding(vector: Tensor) -> Write:
        return lambda value: value + (strength * vector).to(value).view(value.shape[2:])

    writes = {site: adding(vectors[0]) for site, vectors in place.items()}
    return continue_texts(
        model, prompts, max_new_tokens=max_new_tokens, around=lambda batch: tapped(model, writes=writes)
    )


def _book(
    ledgers: Ledgers, name: str, place: Place, strengths: Sequence[float], texts: int
) -> Callable[[np.ndarray], Share]:
    """The ledger of one place: the part that some of its texts have in it."""
    count = len(strengths) * len(next(iter(place.values())))
    ledger = ledgers.open(name.replace(" ", "_"), count, texts)
    return lambda rows: Share(ledger, rows, count)


def _batches(
    model: LanguageModel, texts: Sequence[str], token_budget: int | None
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Row numbers of texts of similar length, and their batch."""
    tokens = model.tokenize(list(texts))
    lengths = np.array([len(row) for row in tokens.ids])
    for rows in token_budget_batches(lengths, budget_of(model.device, token_budget)):
        yield rows, make_batch(model, tokens, rows)


def _times(done: Callable[[int], None], texts: int) -> Callable[[int], None]:
    return lambda copies: done(copies * texts)


def stacked(directions: Mapping[str, Tensor]) -> Place:
    """A place of one direction: (width,) by site."""
    return {site: torch.as_tensor(vector).float()[None] for site, vector in directions.items()}
