"""Erasers at the sites of a model: fitted one after another, each to what those before it leave, and put into forwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layerwise.interventions.erasure.eraser import Eraser
from layerwise.interventions.intervened import Intervened
from layerwise.interventions.plan import Plan, Step
from layerwise.interventions.settings import Erase
from layerwise.interventions.side_by_side import Change
from layerwise.models.batch import Batch
from layerwise.models.restart import Start
from layerwise.models.taps import Read, Write, run

Erasers = Mapping[str, Eraser]


@dataclass(frozen=True, eq=False)
class Labelled:
    """A batch of n texts. labels: (n,). where: (n, tokens) True at the tokens that are erased from."""

    batch: Batch
    labels: Tensor
    where: Tensor


def fit_sites(
    model: Any, texts: Sequence[Labelled], sites: Sequence[str], fit: Callable[[Tensor, Tensor], Eraser]
) -> dict[str, Eraser]:
    """An eraser for each site, fitted to the marked tokens of the texts with all earlier sites erased (Belrose et al. 2023, §6).

    Sites of one stack. Each forward begins at the block of the site before, so that all sites together cost two passes.
    """
    ordered = sorted((str(model.sites.one(site)) for site in sites), key=lambda site: model.sites.layer_of(site) or 0)
    found: dict[str, Eraser] = {}
    kept: dict[int, Start] = {}
    first = 0
    for site in ordered:
        layer = model.sites.layer_of(site) or 0
        before = f"{model.sites.stack_of(site).prefix}resid_pre.{layer}"
        rows = []
        for number, one in enumerate(texts):
            start = kept.get(number)
            later = {
                name: eraser
                for name, eraser in found.items()
                if (model.sites.layer_of(name) or 0) >= first or not start
            }
            reads: dict[str, Read] = {site: None} if start and layer == first else {before: None, site: None}
            values = run(model, one.batch, reads, erasing(later, one.where), start=start)
            if before in reads:
                kept[number] = Start(before, values[before])
            rows.append(values[site].reshape(*one.where.shape, -1)[one.where])
        labels = torch.cat([one.labels.repeat_interleave(one.where.sum(1).cpu()) for one in texts])
        found[site] = fit(torch.cat(rows).float().cpu(), labels)
        first = layer
    return found


def erasing(erasers: Erasers, where: Tensor) -> dict[str, Write]:
    """The writes of a forward over a batch: by site, marked tokens (n, tokens) without the concept."""

    def write_of(eraser: Eraser) -> Write:
        def write(value: Tensor) -> Tensor:
            shaped = value.reshape(*where.shape, -1)
            return torch.where(where[:, :, None], eraser(shaped), shaped).reshape(value.shape)

        return write

    return {site: write_of(eraser) for site, eraser in erasers.items()}


def as_changes(erasers: Erasers) -> dict[str, Change]:
    """The same as changes of a kept pass (``side_by_side.run_changed``)."""

    def change_of(eraser: Eraser) -> Change:
        return lambda value, numbers: eraser(value) - value

    return {site: change_of(eraser) for site, eraser in erasers.items()}


def as_plan(model: Any, erasers: Erasers) -> Intervened:
    """The model with the concept erased at every token, prompt and new ones: to generate with, save and serve."""
    steps, given = [], {}
    for site, eraser in erasers.items():
        name = f"erase_{site}".replace(".", "_")
        steps.append(Step(Erase(), (site,), when="every", name=name))
        given[name] = torch.cat([eraser.left.T, eraser.right, eraser.mean[None]]).float()
    return Intervened(model, Plan(tuple(steps)), given=given)
