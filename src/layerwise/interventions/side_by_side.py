"""Many changes of one kept pass, run side by side: each copy of the batch is changed in its own way and measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from layerwise.interventions.metrics import Questions, make_measure
from layerwise.interventions.patching import Rerun
from layerwise.interventions.sweeps.asked import AskedPairs
from layerwise.interventions.sweeps.ledger import Share
from layerwise.models.batch import Batch
from layerwise.models.readout import Readout
from layerwise.models.rest import keep_pass
from layerwise.models.taps import Write

Change = Callable[[Tensor, Tensor], Tensor]
"""A site's tensor (copies, texts, tokens, width) and the numbers of its copies (copies,) → what is added, broadcast to that shape."""


def run_changed(
    rerun: Rerun,
    changes: Mapping[str, Change],
    count: int,
    *,
    where: Tensor | None = None,
    known: Share | None = None,
    done: Callable[[int], None] = lambda copies: None,
) -> Tensor:
    """(count, texts): the measure of ``count`` copies of a kept pass, each with its own change at every site named.

    Args:
        changes: by site; all of one stack.
        where: (texts, tokens) True at the tokens that are changed, by default every real one. Texts without any stay as they are.
        known: where values go, and what is known of them already, which does not run again.
        done: is told how many copies each forward has finished.
    """
    model, kept = rerun.model, rerun.kept
    mask = kept.batch.mask
    where = mask if where is None else where & mask
    n = len(mask)
    sites = {str(model.sites.one(site)): change for site, change in changes.items()}
    layer = min(model.sites.layer_of(site) or 0 for site in sites)
    column = int(where.any(0).float().argmax())
    tokens = kept.length - kept.first_column(column)
    values = torch.empty(count, n) if known is None else known.values().float()
    wanted = torch.arange(count) if known is None else torch.tensor(known.missing(), dtype=torch.long)
    if len(wanted) < count:
        done(count - len(wanted))
    for part in wanted.split(max(1, rerun.budget // (n * tokens))) if len(wanted) else ():
        numbers = part.to(mask.device)

        def write_of(change: Change, numbers: Tensor = numbers) -> Write:
            def write(value: Tensor) -> Tensor:
                shaped = value.reshape(len(numbers), n, value.shape[1], -1)
                added = change(shaped, numbers) * where[:, where.shape[1] - value.shape[1] :, None]
                return value + added.to(value.dtype).expand_as(shaped).reshape(value.shape)

            return write

        writes = {site: write_of(change) for site, change in sites.items()}
        values[part] = rerun.rest(layer, column, len(part), writes).float().cpu()
        if known is not None:
            known.put(part.tolist(), values[part])
        done(len(part))
    return values


def read_prompts(asked: AskedPairs, metric: str, rows: np.ndarray, token_budget: int | None = None) -> Rerun:
    """The clean prompts of some pairs, run once, ready to be run again; ``metric`` is asked of them by name."""
    return read_batch(
        asked.model, asked.batch("clean", rows), metric, asked.tokens("answers", rows), asked.tokens("others", rows), token_budget
    )  # fmt: skip


def read_batch(
    model: object,
    batch: Batch,
    metric: str,
    answers: Tensor | None = None,
    others: Tensor | None = None,
    token_budget: int | None = None,
) -> Rerun:
    """A batch, run once, ready to be run again. answers, others: (texts,) token ids, where the metric is of an answer."""
    readout = Readout.of(model)  # type: ignore[arg-type]
    kept = keep_pass(model, batch, {readout.site: None})  # type: ignore[arg-type]
    none = torch.zeros(len(batch.mask), dtype=torch.long, device=batch.mask.device)

    def clean(texts: Tensor, columns: Tensor) -> Tensor:
        with torch.no_grad():
            return readout.logits(kept.read[readout.site][texts, columns])

    questions = Questions(batch, none if answers is None else answers, none if others is None else others, clean)
    return Rerun(model, kept, make_measure(metric, questions), readout, token_budget)


def marked(asked: AskedPairs, positions: str, rows: np.ndarray, batch: Batch) -> Tensor:
    """(rows, tokens) True at what positions mean in the clean prompts of some pairs."""
    where = torch.zeros_like(batch.mask)
    columns = asked.columns("clean", positions)
    for place, row in enumerate(rows):
        where[place, list(columns[row])] = True
    return where
