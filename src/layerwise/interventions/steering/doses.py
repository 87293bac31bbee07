"""Doses: how a metric of the logits answers when more and more of a direction is added, beside random directions of the same length.

What a probe's direction does to behaviour is only worth something beside what any push of that size does: the model may be
moved by all of them (a large one breaks it) or by none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.patching import Rerun
from layerwise.interventions.side_by_side import Change, run_changed
from layerwise.interventions.sweeps.ledger import Share
from layerwise.measures.statistics import Interval, bootstrap, permutation_p

ALPHA = 0.05


@dataclass(frozen=True, eq=False)
class Doses:
    """The metric under every dose.

    strengths: (s,). values: (directions, s, texts). clean: (texts,), the metric without any.
    """

    strengths: np.ndarray
    values: np.ndarray
    clean: np.ndarray

    @property
    def effects(self) -> np.ndarray:
        """(directions, s, texts): how far the metric moved."""
        return self.values - self.clean

    def slopes(self) -> np.ndarray:
        """(directions, texts): metric per unit of strength, the least-squares line through the clean metric at strength 0."""
        s = self.strengths
        return np.einsum("s,dst->dt", s, self.effects) / float(s @ s)

    @classmethod
    def joined(cls, parts: Sequence[Doses]) -> Doses:
        """The doses of several batches as those of all their texts."""
        values = np.concatenate([part.values for part in parts], 2)
        return cls(parts[0].strengths, values, np.concatenate([part.clean for part in parts]))

    def ordered(self, rows: np.ndarray) -> Doses:
        """With text i of these in place ``rows[i]``."""
        order = np.argsort(rows)
        return Doses(self.strengths, self.values[:, :, order], self.clean[order])


@dataclass(frozen=True)
class AgainstRandom:
    """Whether a direction does more than random ones do.

    own: its mean over texts, with the interval over texts (or groups of texts). random: (r,) those of the random directions.
    p: the share of directions, its own among them, whose mean is at least as large in size.
    """

    own: Interval
    random: np.ndarray
    p: float

    @property
    def times_random(self) -> float:
        """Its size over the root mean square of the random ones'; NaN where none of those does anything."""
        size = float(np.sqrt(np.mean(self.random**2)))
        return abs(self.own.estimate) / size if size > 0 else float("nan")

    @property
    def verdict(self) -> str:
        """In words: more than any of the random directions (p is then as small as their number allows), more at 5 %, or not."""
        if round(self.p * (len(self.random) + 1)) == 1:
            return f"more than any of {len(self.random)} random directions"
        return "more than random directions" if self.p <= ALPHA else "no more than random directions"


def random_directions(like: Tensor, count: int, seed: int = 0, rows: Tensor | None = None) -> Tensor:
    """(count, width): random directions as long as ``like`` (width,).

    Drawn evenly from the sphere; or, with ``rows`` (n, width) of activations, as those spread: mostly along what varies among texts, which
    the model is likelier to use than a direction in which nothing ever happens.
    """
    generator = torch.Generator().manual_seed(seed)
    if rows is None:
        drawn = torch.randn(count, len(like), generator=generator, dtype=torch.float64)
    else:
        spread = rows.double().cpu() - rows.double().cpu().mean(0)
        drawn = torch.randn(count, len(rows), generator=generator, dtype=torch.float64) @ spread
    return (drawn / drawn.norm(dim=1, keepdim=True) * like.double().norm().cpu()).to(like)


def give_doses(
    rerun: Rerun,
    directions: Mapping[str, Tensor],
    strengths: Sequence[float],
    *,
    where: Tensor | None = None,
    known: Share | None = None,
    done: Callable[[int], None] = lambda doses: None,
) -> Doses:
    """Add ``strength · direction`` to a kept pass and measure, for all directions and strengths.

    Args:
        directions: by site, (d, width); direction i is that of all sites together.
        where: (texts, tokens) True at the tokens that get it; by default every real one.
        known: where values go, and what is known of them already: a cell for each dose, strength by strength.
        done: is told how many doses each forward has finished.

    Raises UserError for directions of another width than the site's, and strengths that are all zero.
    """
    if not strengths or not any(strengths):
        raise UserError("give at least one strength that is not zero.")
    count = _checked(rerun, directions)
    amounts = torch.tensor([strength for strength in strengths for _ in range(count)])

    def adding(vectors: Tensor) -> Change:
        doses = (amounts[:, None] * vectors.repeat(len(strengths), 1).cpu()).to(rerun.base.device)
        return lambda value, numbers: doses[numbers][:, None, None]

    changes = {site: adding(vectors) for site, vectors in directions.items()}
    values = run_changed(rerun, changes, len(amounts), where=where, known=known, done=done)
    shaped = values.view(len(strengths), count, -1).transpose(0, 1)
    return Doses(np.asarray(strengths, float), shaped.double().numpy(), rerun.base.double().cpu().numpy())


def project_out(
    rerun: Rerun,
    directions: Mapping[str, Tensor],
    *,
    means: Mapping[str, Tensor] | None = None,
    where: Tensor | None = None,
    known: Share | None = None,
    done: Callable[[int], None] = lambda directions: None,
) -> np.ndarray:
    """(d, texts): how far the metric moves when each direction in turn is projected out of a kept pass.

    means: by site (width,), what the component becomes; 0 without it. known: as in :func:`give_doses`, a cell for each direction.
    """
    count = _checked(rerun, directions)

    def projecting(vectors: Tensor, mean: Tensor | None) -> Change:
        unit = torch.nn.functional.normalize(vectors.double(), dim=1).to(rerun.base.device)
        kept = torch.zeros(count).to(unit) if mean is None else unit @ mean.to(unit)

        def change(value: Tensor, numbers: Tensor) -> Tensor:
            along = unit[numbers].to(value)
            component = torch.einsum("cntw,cw->cnt", value, along) - kept[numbers].to(value)[:, None, None]
            return -component[..., None] * along[:, None, None]

        return change

    changes = {site: projecting(vectors, (means or {}).get(site)) for site, vectors in directions.items()}
    values = run_changed(rerun, changes, count, where=where, known=known, done=done)
    return (values - rerun.base.float().cpu()).double().numpy()


def _checked(rerun: Rerun, directions: Mapping[str, Tensor]) -> int:
    """How many directions there are. Raises UserError for those of another width than the site's."""
    for site, vectors in directions.items():
        width = rerun.model.sites.width_of(site)
        if vectors.dim() != 2 or (width is not None and vectors.shape[1] != width):
            raise UserError(
                f"{site} is {width} wide, and the directions are {tuple(vectors.shape)}: give (directions, {width})."
            )
    return len(next(iter(directions.values())))


def against_random(
    values: np.ndarray,
    groups: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> AgainstRandom:
    """The first direction's values beside those of the others, which are random: slopes or effects, (1 + r, texts).

    groups: (texts,) of texts that belong together. labels: (texts,) 0 or 1; with them it is not the mean over texts that counts but the
    mean of class 0 less that of class 1. Raises UserError where there is no random direction.
    """
    if len(values) < 2:
        raise UserError("a direction is checked against random ones: give at least one of them.")
    parts = [np.ones(values.shape[1])] if labels is None else [labels == 0, labels == 1]

    def mean(weights: np.ndarray, row: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # a resample without a class has no mean of it
            first, *rest = (weights @ (part * row) / (weights @ part) for part in parts)
        return np.asarray(first - rest[0] if rest else first)

    n = values.shape[1]
    found = bootstrap(lambda weights: {"own": mean(weights, values[0])}, n, groups=groups, level=level, seed=seed)
    random = np.array([float(mean(np.ones(n), row)) for row in values[1:]])
    return AgainstRandom(found["own"], random, permutation_p(abs(found["own"].estimate), np.abs(random)))
