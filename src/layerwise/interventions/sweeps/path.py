"""Path patching: what a part of the model says to chosen others, and to nobody else.

A first run takes the sender's value of the corrupted prompt, everything beside the path held as it was in the clean run, and what the
receivers make of it is kept; a second one is the clean run with only that put in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.cell_plan import Cell, CellPlan, Group, group_writes
from layerwise.interventions.patching import Rerun
from layerwise.interventions.sweeps.asked import AskedPairs
from layerwise.interventions.sweeps.config import PathPatching
from layerwise.interventions.sweeps.controls import beside_random, strongest
from layerwise.interventions.sweeps.ledger import Ledgers
from layerwise.interventions.sweeps.sweep import Act, Chunk, Done, Swept, Values, sweep
from layerwise.models.names import parse_site
from layerwise.models.rest import run_rest
from layerwise.models.taps import Write, nothing, run

RECEIVING = ("q", "k", "v", "mlp_out")
SENDING = ("z", "mlp_out", "attn_out")


@dataclass(frozen=True, eq=False)
class Paths:
    """senders: a row for each with ``site``, ``layer``, ``head`` (-1 for none); its effects are those of ``swept``.

    controls: the strongest senders beside a change as large in a random direction, sent the same way.
    """

    senders: pd.DataFrame
    receivers: tuple[str, ...]
    swept: Swept
    controls: pd.DataFrame


def path_sites(model: Any, settings: PathPatching) -> tuple[list[str], list[str]]:
    """The senders that come before some receiver, and the receivers, by name; no receiver means the logits.

    Raises UserError for sites the model lacks, sites that cannot send or receive, and where no sender comes before a receiver.
    """
    senders = model.sites.expand(settings.senders)
    receivers = [] if settings.receivers == ["logits"] else model.sites.expand(settings.receivers)
    for names, known, what in ((senders, SENDING, "send"), (receivers, RECEIVING, "receive")):
        odd = [name for name in names if parse_site(name).name not in known]
        if odd:
            raise UserError(
                f"{odd[0]} cannot {what}: name {', '.join(known)}{' or logits' if what == 'receive' else ''} of layers."
            )
    if receivers:
        last = max(_order(name) for name in receivers)
        senders = [name for name in senders if _order(name) < last]
        if not senders:
            raise UserError(f"no sender comes before the receivers {', '.join(receivers[:4])}.")
    return senders, receivers


def _order(site: str) -> tuple[int, int]:
    """Where a site stands among those of its model: queries, keys and values, then what attention adds, then the MLP."""
    parsed = parse_site(site)
    return parsed.layer or 0, {"q": 0, "k": 0, "v": 0, "z": 1, "attn_out": 1, "mlp_out": 2}[parsed.name]


def patch_paths(
    asked: AskedPairs,
    settings: PathPatching,
    metric: str,
    *,
    seed: int = 0,
    ledgers: Ledgers | None = None,
    token_budget: int | None = None,
    done: Callable[[int], None] = lambda runs: None,
) -> Paths:
    """Each sender by itself, of pairs that fit its positions; the clean run is the base."""
    senders, receivers = path_sites(asked.model, settings)
    columns = asked.columns("clean", settings.positions)
    source = asked.columns("corrupted", settings.positions)
    cells = [Cell((name,), columns, None if columns == source else source) for name in senders]
    ledger = (ledgers or Ledgers()).open("senders", len(cells), len(asked))

    def sending(values: Values) -> Act:
        return _Act(asked.model, receivers, settings.freeze, values)

    def corrupted(chunk: Chunk, plan: CellPlan) -> Mapping[str, Tensor]:
        return chunk.found

    swept = sweep(asked, cells, metric, sending(corrupted), ledger=ledger, token_budget=token_budget, done=done)
    parsed = [parse_site(name) for name in senders]
    table = pd.DataFrame({
        "site": [site.name for site in parsed], "layer": [site.layer for site in parsed],
        "head": [-1 if site.head is None else site.head for site in parsed],
    })  # fmt: skip
    chosen = strongest(swept.changes, settings.controls)
    random = beside_random(
        asked, cells, chosen, metric, corrupted, acting=sending, seed=seed, token_budget=token_budget
    )
    controls = table.iloc[chosen].assign(change=swept.changes[chosen], random=random)
    return Paths(table, tuple(receivers) or ("logits",), swept, controls)


class _Act:
    """Carries out the two runs for groups of senders of one layer."""

    def __init__(self, model: Any, receivers: Sequence[str], freeze: str, values: Values) -> None:
        """``values``: what the senders send, by their sites."""
        self.model, self.receivers, self.freeze, self.values = model, receivers, freeze, values
        names = model.sites.names()
        kinds = ["attn_out", *(["mlp_out"] if freeze == "all" else [])]
        self.frozen = [site for kind in kinds if kind in names for site in model.sites.expand(f"{kind}.*")]
        self.wholes: dict[str, list[int] | None] = {}
        for name in receivers:
            site = parse_site(name)
            whole = f"{site.name}.{site.layer}"
            heads = self.wholes.setdefault(whole, None if site.head is None else [])
            if heads is not None and site.head is not None:
                heads.append(site.head)

    def __call__(self, rerun: Rerun, chunk: Chunk, plan: CellPlan, wanted: list[int], done: Done) -> None:
        clean = run(self.model, chunk.base, dict.fromkeys(self.frozen))
        values = self.values(chunk, plan)
        for group in plan.groups(wanted, rerun.budget, rerun.kept):
            sent = group_writes(plan, group, rerun.kept, values)
            done(group.cells, self._group(rerun, group, sent, clean))

    def _group(self, rerun: Rerun, group: Group, sent: Mapping[str, Write], clean: Mapping[str, Tensor]) -> Tensor:
        """(senders of the group, texts)."""
        copies, kept = len(group.cells), rerun.kept
        first = min(_order(site) for site in sent)
        begin = kept.first_column(group.column)
        held = {
            site: _holding(clean[site][:, begin:].repeat(copies, 1, 1)) for site in self.frozen if _order(site) > first
        }
        # One group may hold heads and the MLP of a layer: the MLP's value is held for those, and sent for itself.
        doing = {**sent, **{site: _then(hold, sent.get(site)) for site, hold in held.items()}}
        if not self.receivers:
            return rerun.rest(group.layer, group.column, copies, doing)
        heard: dict[str, Tensor] = {}
        later = {site: heads for site, heads in self.wholes.items() if _order(site) > first}
        if not later:
            return rerun.base.expand(copies, -1)
        hearing = {site: _hearing(heard, site, doing.get(site)) for site in later}
        last = f"resid_post.{max(parse_site(site).layer or 0 for site in later)}"
        run_rest(self.model, kept, group.layer, group.column, copies, {last: nothing}, {**doing, **hearing})
        layer = min(parse_site(site).layer or 0 for site in later)
        return rerun.rest(
            layer, group.column, copies, {site: _saying(heard[site], heads) for site, heads in later.items()}
        )


def _holding(value: Tensor) -> Write:
    return lambda now: value.to(now)


def _then(first: Write, second: Write | None) -> Write:
    return first if second is None else lambda value: second(first(value))


def _hearing(heard: dict[str, Tensor], site: str, then: Write | None) -> Write:
    """Keeps what arrives at a site; what else is written there still is."""

    def write(value: Tensor) -> Tensor:
        heard[site] = value.clone()
        return value if then is None else then(value)

    return write


def _saying(value: Tensor, heads: list[int] | None) -> Write:
    """Puts a kept value back, of all heads (the third axis) or of some."""

    def write(now: Tensor) -> Tensor:
        if heads is None:
            return value
        new = now.clone()
        new[:, :, heads] = value[:, :, heads]
        return new

    return write
