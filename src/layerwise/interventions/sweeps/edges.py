"""Edge attribution: how much of the answer goes straight from one part of the model to another, for all pairs of parts at once.

The score of an edge is what the sender adds to the residual in the corrupted run, less what it adds in the clean one, times the gradient
of the metric by what that receiver alone takes from the residual (Syed et al. 2023); the gradient is the mean over points between the two
prompts' embeddings (EAP-IG, Hanna et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.patching import Rerun, whole_run
from layerwise.interventions.sweeps.asked import AskedPairs
from layerwise.interventions.sweeps.attribution import (
    Agreement,
    Attributed,
    begin_chunk,
    check_differentiable,
    sample_of,
)
from layerwise.interventions.sweeps.config import Attribution
from layerwise.interventions.sweeps.controls import as_large
from layerwise.interventions.sweeps.gradients import Leaves, between, run_with_gradients
from layerwise.interventions.sweeps.sweep import Chunk
from layerwise.models.names import Site, parse_site
from layerwise.models.readout import Readout
from layerwise.models.rest import run_rest

LOGITS = "logits"


@dataclass(frozen=True)
class Receiver:
    """A site that takes from the residual ``entry``, and how many senders come before it."""

    site: str
    entry: str
    before: int


class Graph:
    """The parts of a model and the edges between them.

    senders: ``embed``, heads (``z.3.1``) and MLPs (``mlp_out.3``) in the order they add to the residual. receivers: queries, keys, values
    of heads, MLPs (what each takes in, under the name of what it gives), and ``logits``.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        names, layers, heads = model.sites.names(), model.sites.n_layers, model.sites.n_heads
        lacking = [name for name in ("q", "k", "v", "z", "mlp_out") if name not in names]
        if lacking:
            raise UserError(f"{model.name} has no {', '.join(lacking)}, so its edges have no names.\nTake of: cells.")
        self.sequential = "resid_mid" in names
        self.senders, self.receivers = ["embed"], []
        for layer in range(layers):
            entry = f"resid_pre.{layer}"
            for kind in ("q", "k", "v"):
                self.receivers += [
                    Receiver(f"{kind}.{layer}.{head}", entry, len(self.senders))
                    for head in range(model.sites.heads_of(kind))
                ]
            before = len(self.senders)
            self.senders += [f"z.{layer}.{head}" for head in range(heads)]
            if self.sequential:
                entry, before = f"resid_mid.{layer}", len(self.senders)
            self.receivers.append(Receiver(f"mlp_out.{layer}", entry, before))
            self.senders.append(f"mlp_out.{layer}")
        self.last = f"resid_post.{layers - 1}"
        self.receivers.append(Receiver(LOGITS, self.last, len(self.senders)))

    @property
    def read(self) -> list[str]:
        """The sites whose values the senders' contributions are made of."""
        return [
            f"{kind}.{layer}" for layer in range(self.model.sites.n_layers) for kind in ("z", "attn_out", "mlp_out")
        ]

    @property
    def tapped(self) -> list[str]:
        """The sites that gradients are taken at."""
        kinds = ("resid_pre", *(("resid_mid",) if self.sequential else ()), "q", "k", "v", "mlp_out")
        return [f"{kind}.{layer}" for layer in range(self.model.sites.n_layers) for kind in kinds] + [self.last]

    def exists(self) -> np.ndarray:
        """(senders, receivers) True where the sender comes before the receiver."""
        before = np.array([receiver.before for receiver in self.receivers])
        return np.arange(len(self.senders))[:, None] < before

    @torch.no_grad()
    def contributions(self, chunk: Chunk) -> Tensor:
        """(senders, texts, tokens, width): what each adds to the residual in the corrupted run, less what it adds in the clean one."""
        clean, corrupted = chunk.pass_.read, chunk.found
        parts = [(corrupted["resid_pre.0"] - clean["resid_pre.0"])[None]]
        for layer in range(self.model.sites.n_layers):
            parts += [
                self._heads(layer, clean, corrupted),
                (corrupted[f"mlp_out.{layer}"] - clean[f"mlp_out.{layer}"])[None],
            ]
        return torch.cat(parts)

    def _heads(self, layer: int, clean: Any, corrupted: Any) -> Tensor:
        """(heads, texts, tokens, width). Raises UserError where heads do not add up to what attention adds (a norm behind them)."""
        port, out = (self.model.sites.port(Site(name, layer)) for name in ("z", "attn_out"))
        projection = port.module(self.model.module)
        change = corrupted[f"z.{layer}"] - clean[f"z.{layer}"]
        heads = change.shape[2]
        alone = change[None] * torch.eye(heads).to(change)[:, None, None, :, None]
        none = projection(torch.zeros_like(change).flatten(2))
        given: Tensor = (projection(alone.flatten(3)) - none) * out.scale
        want = corrupted[f"attn_out.{layer}"] - clean[f"attn_out.{layer}"]
        if float((given.sum(0) - want).abs().max()) > 1e-3 * max(float(want.abs().max()), 1e-6):
            raise UserError(
                f"heads of {self.model.name} do not add up to what its attention adds to the residual, so they have no edges of their own.\n"
                "Take of: cells."
            )
        return given


def attribute_edges(
    asked: AskedPairs,
    settings: Attribution,
    metric: str,
    *,
    seed: int = 0,
    token_budget: int | None = None,
    done: Callable[[int], None] = lambda texts: None,
) -> tuple[pd.DataFrame, Attributed]:
    """A row for each edge (``sender``, ``receiver``, ``score``), and the scores with a sample of edges patched truly.

    The pairs must have prompts of equal length. Raises UserError for a metric without gradient and an architecture without such parts.
    """
    check_differentiable(metric)
    graph, readout = Graph(asked.model), Readout.of(asked.model)
    exists = graph.exists()
    scores = torch.zeros(exists.shape, dtype=torch.float64)
    anchors = np.empty((2, len(asked)))
    chunks: list[tuple[Chunk, Any]] = []
    for rows in asked.chunks(token_budget):
        chunk, measure, goal = begin_chunk(asked, rows, graph.read, metric, readout)
        changes = graph.contributions(chunk)

        def add(leaves: Leaves, value: Tensor, changes: Tensor = changes) -> None:
            _add_scores(graph, leaves, value, changes, scores)

        for at in between(settings.steps):
            run_with_gradients(asked, chunk, measure, readout, graph.tapped, at, add)
        anchors[0, rows] = whole_run(measure, readout, chunk.pass_.read[readout.site]).double().cpu().numpy()
        anchors[1, rows] = whole_run(goal, readout, chunk.found[readout.site]).double().cpu().numpy()
        chunks.append((chunk, measure))
        done(len(rows))
    estimates = (scores / settings.steps / len(asked)).numpy()
    edges = np.argwhere(exists)
    table = pd.DataFrame({
        "sender": [graph.senders[sender] for sender, _ in edges],
        "receiver": [graph.receivers[receiver].site for _, receiver in edges],
        "score": estimates[exists],
    })  # fmt: skip
    agreement = None
    if settings.sample:
        chosen = sample_of(table["score"].to_numpy(), settings.sample, seed)
        patched, random = np.zeros(len(chosen)), np.zeros(len(chosen))
        draw = torch.Generator().manual_seed(seed)
        for chunk, measure in chunks:
            rerun, changes = Rerun(asked.model, chunk.pass_, measure, readout), graph.contributions(chunk)
            patched += _patched(graph, rerun, changes, edges[chosen])
            random += _patched(graph, rerun, changes, edges[chosen], draw)
        picked = table.iloc[chosen].rename(columns={"score": "estimate"})
        agreement = Agreement(
            picked.assign(patched=patched / len(asked), random=random / len(asked)).reset_index(drop=True)
        )
    return table, Attributed(table["score"].to_numpy(), anchors[0], anchors[1], agreement)


def _add_scores(graph: Graph, leaves: Leaves, value: Tensor, changes: Tensor, scores: Tensor) -> None:
    """Adds (senders, receivers) scores of one point, summed over texts and tokens."""
    wholes = [f"{kind}.{layer}" for layer in range(graph.model.sites.n_layers) for kind in ("q", "k", "v", "mlp_out")]
    found = torch.autograd.grad(value, [leaves.added[site] for site in (*wholes, graph.last)], retain_graph=True)
    gradients = dict(zip((*wholes, graph.last), found, strict=True))
    column = 0
    while column < len(graph.receivers):
        receiver = graph.receivers[column]
        if receiver.site == LOGITS:
            taken = gradients[graph.last][None]
        else:
            parsed = parse_site(receiver.site)
            whole = f"{parsed.name}.{parsed.layer}"
            taken = _entering(leaves, whole, receiver.entry, gradients[whole])
        part = torch.einsum("sntd,rntd->sr", changes[: receiver.before], taken.detach())
        scores[: receiver.before, column : column + len(taken)] += part.double().cpu()
        column += len(taken)


def _entering(leaves: Leaves, site: str, entry: str, gradient: Tensor) -> Tensor:
    """(heads or 1, texts, tokens, width): the gradient by what each head at ``site``, or the MLP, takes from the residual ``entry``."""
    each = gradient[None]
    if gradient.dim() == 4:
        heads = gradient.shape[2]
        each = each * torch.eye(heads).to(gradient)[:, None, None, :, None]
    [taken] = torch.autograd.grad(
        leaves.seen[site], leaves.added[entry], each, retain_graph=True, is_grads_batched=True
    )
    return taken


@torch.no_grad()
def _patched(
    graph: Graph, rerun: Rerun, changes: Tensor, edges: np.ndarray, draw: torch.Generator | None = None
) -> np.ndarray:
    """(edges,): the true change, summed over texts, when the receiver alone gets the sender's corrupted contribution.

    changes: :meth:`Graph.contributions`. draw: each is made in a random direction instead, as large.
    """
    kept, found = rerun.kept, np.zeros(len(edges))
    for number, (sender, column) in enumerate(edges):
        receiver = graph.receivers[column]
        change = changes[sender] if draw is None else as_large(changes[sender], draw)

        def moved(value: Tensor, change: Tensor = change) -> Tensor:
            return value + change

        parsed = parse_site(receiver.entry)
        layer = parsed.layer or 0
        if receiver.site == LOGITS:
            values = rerun.rest(layer, 0, 1, {receiver.entry: moved})
        else:
            site = parse_site(receiver.site)
            whole = f"{site.name}.{site.layer}"
            heard = run_rest(graph.model, kept, layer, 0, 1, {whole: None}, {receiver.entry: moved})[whole]

            def said(value: Tensor, heard: Tensor = heard, head: int | None = site.head) -> Tensor:
                new = value.clone()
                if head is None:
                    return heard
                new[:, :, head] = heard[:, :, head]
                return new

            values = rerun.rest(layer, 0, 1, {whole: said})
        found[number] = float((values[0] - rerun.base).sum())
    return found
