"""What an alignment keeps of its texts: sources' values, collected once, and of bases what lies before the exchange."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from layerwise.activations.collect import collect
from layerwise.activations.poolers import parse_pooler
from layerwise.activations.store import Store
from layerwise.errors import UserError
from layerwise.interventions.alignment.causal_model import Setting
from layerwise.interventions.alignment.stacked import Cells, Stack
from layerwise.interventions.alignment.tasks import AlignmentTask, TextTask
from layerwise.interventions.cells import find_cells
from layerwise.interventions.patching import last_columns
from layerwise.interventions.positions import Positions
from layerwise.interventions.prompts import Prompts
from layerwise.interventions.running import taken
from layerwise.interventions.units import Place
from layerwise.models.batch import Batch
from layerwise.models.model import LanguageModel
from layerwise.models.readout import Readout
from layerwise.models.rest import Pass, can_reuse, keep_pass, run_rest
from layerwise.models.taps import run, tapped

Wanted = tuple[Place, str]
"""A place and positions there."""


def columns_of(prompts: Prompts, positions: str) -> Tensor:
    """(n, count) the columns that positions mean in each text. Raises UserError where texts have unequally many."""
    cells = find_cells(Positions(positions), prompts, "the alignment")
    counts = set(cells.counts)
    if len(counts) != 1:
        raise UserError(
            f"positions {positions!r} are {min(counts)} tokens of one text and {max(counts)} of another: name as many in each, "
            f"for instance {positions + ':last' if positions.startswith('part:') else 'last'}."
        )
    return cells.column.view(cells.n, counts.pop())


def collect_sources(
    model: Any,
    task: AlignmentTask,
    settings: Sequence[Setting],
    wanted: Sequence[Wanted],
    *,
    token_budget: int,
    store: Store | None = None,
) -> dict[tuple[str, str], Tensor]:
    """By (place, positions): (n, count, width), the values of all settings; one pass over the texts serves every place.

    What the store can hold, whole tensors at the first, the last or a numbered token, is read from it and kept there.
    """
    kept: dict[tuple[str, str], Tensor] = {}
    if store is not None and isinstance(task, TextTask) and isinstance(model, LanguageModel):
        kept = _from_store(model, [task.text(setting)[0] for setting in settings], wanted, store, token_budget)
    left = [pair for pair in wanted if (str(pair[0]), pair[1]) not in kept]
    if not left:
        return kept
    prompts = task.encode(model, settings)
    found: dict[tuple[str, str], list[Tensor]] = {}
    for rows in token_batches(prompts.batch, token_budget):
        part = part_of(prompts, rows)
        for _, positions in left:
            columns_of(part, positions)
        sites = dict.fromkeys(place.site for place, _ in left)
        run(model, part.batch, {site: _reader(model, part, site, left, found) for site in sites})
    return {**kept, **{key: torch.cat(parts) for key, parts in found.items()}}


def _reader(
    model: Any, prompts: Prompts, site: str, wanted: Sequence[Wanted], found: dict[tuple[str, str], list[Tensor]]
) -> Callable[[Tensor], Tensor]:
    """A read that adds one batch's values at a site to ``found``."""
    tokens = None if model.sites.stacks else prompts.batch.mask.shape[1]

    def read(value: Tensor) -> Tensor:
        for place, positions in wanted:
            if place.site == site:
                rows = taken(value, place, find_cells(Positions(positions), prompts, "the alignment"), tokens).rows
                found.setdefault((str(place), positions), []).append(rows.view(len(prompts), -1, rows.shape[-1]))
        return value.new_empty(0)

    return read


def _from_store(
    model: LanguageModel, texts: list[str], wanted: Sequence[Wanted], store: Store, token_budget: int
) -> dict[tuple[str, str], Tensor]:
    poolers = {
        positions: "index:" + positions if positions.lstrip("-").isdigit() else positions
        for _, positions in wanted
        if positions in ("first", "last") or positions.lstrip("-").isdigit()
    }
    whole = [(place, positions) for place, positions in wanted if place.heads is None and positions in poolers]
    if not whole:
        return {}
    sites = list(dict.fromkeys(place.site for place, _ in whole))
    labels = [
        parse_pooler(poolers[positions]).label for positions in dict.fromkeys(positions for _, positions in whole)
    ]
    found = collect(
        model, texts, sites, labels, store=store, token_budget=token_budget, truncation="error", progress=False
    )
    return {
        (str(place), positions): torch.from_numpy(
            found.matrix(place.site, parse_pooler(poolers[positions]).label)
        )[:, None].to(model.device, model.dtype)
        for place, positions in whole
    }  # fmt: skip


class Bases(Protocol):
    """n texts whose exchanged runs are asked for, each time from as late as the exchange allows."""

    prompts: Prompts

    def start(self, site: str) -> tuple[str, int]:
        """The site that is written for one that is named, and the block where a run must begin for it."""

    def cost(self, layer: int, column: int) -> int:
        """Tokens that one text's run has from there."""

    def scores(self, stack: Stack, cells: Cells, rows: Tensor, layer: int, *, grad: bool = False) -> Tensor:
        """(k, rows, outputs): what the network answers under each plan of a stack; of a language model, logits of the answers."""


def make_bases(
    model: Any, task: AlignmentTask, settings: Sequence[Setting], *, memory: int, token_budget: int
) -> StoredTexts | WholeRuns:
    """Bases of a language model start again where the exchange is; those of other modules run whole."""
    prompts = task.encode(model, settings)
    candidates = task.candidates(model)
    if not isinstance(model, LanguageModel):
        return WholeRuns(model, prompts)
    assert candidates is not None
    return StoredTexts(model, prompts, candidates, memory=memory, token_budget=token_budget)


class WholeRuns:
    """Bases of any module, whose forward runs whole each time."""

    def __init__(self, model: Any, prompts: Prompts) -> None:
        self.model, self.prompts = model, prompts

    def start(self, site: str) -> tuple[str, int]:
        return site, 0

    def cost(self, layer: int, column: int) -> int:
        return int(self.prompts.batch.mask.shape[1])

    def scores(self, stack: Stack, cells: Cells, rows: Tensor, layer: int, *, grad: bool = False) -> Tensor:
        part = part_of(self.prompts, rows).batch
        copies = len(stack.plans)
        inputs = {name: value.repeat(copies, *[1] * (value.dim() - 1)) for name, value in part.inputs.items()}
        tokens = int(part.mask.shape[1])
        with torch.set_grad_enabled(grad), tapped(self.model, {}, stack.writes(cells, tokens, {}, tokens)):
            output = self.model.module(**inputs)
        return outputs_of(output).view(copies, len(rows), -1)


class StoredTexts:
    """Bases of a language model: residuals, keys and values of all texts are kept where they fit, or made again by batch.

    memory: bytes that may be kept.
    """

    def __init__(
        self, model: LanguageModel, prompts: Prompts, candidates: Tensor, *, memory: int, token_budget: int
    ) -> None:
        self.model, self.prompts, self.candidates = model, prompts, candidates
        self.readout, self.ends = Readout.of(model), last_columns(prompts.batch)
        stacks = model.sites.stacks
        self.prefix = "decoder." if "decoder." in stacks else ""
        self.layers = stacks[self.prefix].n_layers
        self.reuses = not self.prefix and can_reuse(model)
        self._budget = token_budget
        first = self._pass(torch.arange(min(2, len(prompts)), device=model.device))
        size = sum(value.nbytes for value in (*first.residuals, *(part for pair in first.states for part in pair)))
        self.chained = self._is_chained(first)
        self._kept = None
        if size / len(first.batch.mask) * len(prompts) <= memory:
            self._kept = self._keep()

    def start(self, site: str) -> tuple[str, int]:
        """What leaves a block is what enters the next, so a run for it begins there, if that holds in this model."""
        parsed = self.model.sites.one(site)
        layer = self.model.sites.layer_of(str(parsed)) or 0
        if parsed.name == f"{self.prefix}resid_post" and self.chained and layer + 1 < self.layers:
            return f"{self.prefix}resid_pre.{layer + 1}", layer + 1
        return site, layer

    def cost(self, layer: int, column: int) -> int:
        return int(self.prompts.batch.mask.shape[1]) - (column if self.reuses else 0)

    def scores(self, stack: Stack, cells: Cells, rows: Tensor, layer: int, *, grad: bool = False) -> Tensor:
        kept = self._rows(rows) if self._kept is not None else self._pass(rows)
        copies, ends = len(stack.plans), self.ends[rows].repeat(len(stack.plans))
        column = min(cells.first, int(ends.min()))
        begin = kept.first_column(column)

        def at_ends(states: Tensor) -> Tensor:
            return states[torch.arange(len(states), device=states.device), ends - begin]

        names = {units[0].place.site: self.start(units[0].place.site)[0] for units in stack.units}
        writes = stack.writes(cells, kept.length, names, None)
        site = self.readout.site
        states = run_rest(self.model, kept, layer, column, copies, {site: at_ends}, writes, grad=grad)[site]
        with torch.set_grad_enabled(grad):
            return self.readout.logits(states, self.candidates).view(copies, len(rows), -1)

    def _pass(self, rows: Tensor) -> Pass:
        return keep_pass(self.model, part_of(self.prompts, rows).batch, prefix=self.prefix)

    def _is_chained(self, first: Pass) -> bool:
        names = [f"{self.prefix}resid_post.{layer}" for layer in range(self.layers - 1)]
        found = run(self.model, first.batch, dict.fromkeys(names))
        return all(torch.equal(found[name], after) for name, after in zip(names, first.residuals[1:], strict=True))

    def _keep(self) -> Pass:
        passes = [self._pass(rows) for rows in token_batches(self.prompts.batch, self._budget)]
        residuals = tuple(torch.cat(parts) for parts in zip(*(one.residuals for one in passes), strict=True))
        states = tuple(
            (torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer]))
            for layer in zip(*(one.states for one in passes), strict=True)
        )
        return Pass(self.prompts.batch, self.prefix, residuals, states, {})

    def _rows(self, rows: Tensor) -> Pass:
        assert self._kept is not None
        batch, kept = part_of(self.prompts, rows).batch, self._kept
        return Pass(batch, self.prefix, _Chosen(kept.residuals, rows), _Chosen(kept.states, rows), {})  # type: ignore[arg-type]


class _Chosen:
    """Some rows of the tensors of all layers, taken out where a layer is asked for."""

    def __init__(self, layers: Sequence[Any], rows: Tensor) -> None:
        self.layers, self.rows = layers, rows

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, layer: int) -> Any:
        found = self.layers[layer]
        return found[self.rows] if isinstance(found, Tensor) else tuple(part[self.rows] for part in found)


def part_of(prompts: Prompts, rows: Tensor) -> Prompts:
    """Some of the texts, padded as before."""
    batch = prompts.batch
    inputs = {name: value[rows] for name, value in batch.inputs.items()}
    chosen = rows.tolist()
    return Prompts(
        Batch(inputs, batch.mask[rows], batch.lengths[rows]),
        None if prompts.offsets is None else tuple(prompts.offsets[row] for row in chosen),
        None if prompts.parts is None else tuple(prompts.parts[row] for row in chosen),
    )


def token_batches(batch: Batch, token_budget: int) -> Sequence[Tensor]:
    """The numbers of the texts, as many at once as the budget allows."""
    n, tokens = batch.mask.shape
    return torch.arange(n, device=batch.mask.device).split(max(1, token_budget // tokens))


def outputs_of(output: Any) -> Tensor:
    """The tensor that a module returns, or the logits it returns beside others."""
    return output if isinstance(output, Tensor) else output.logits
