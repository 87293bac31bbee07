"""How alike every layer of one model is to every layer of another, on the same tokens, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerwise.comparison.inside.rows import SHARE_OF_A_TEXT, Rows, Window, rows_in_a_window, sites_of, windows
from layerwise.errors import UserError, unknown
from layerwise.measures.similarity import (
    MinibatchCKA,
    linear_kernel,
    median_distance,
    mutual_neighbours,
    neighbours_form,
    procrustes,
    procrustes_form,
    rbf_kernel,
    rsa,
    rsa_form,
    svcca,
    svcca_form,
)
from layerwise.models.model import LanguageModel
from layerwise.progress import Progress

OF_ALL_TOKENS = ("cka", "kernel_cka")
SAMPLE_RSA = 1000  # it holds a number for every pair of tokens and every layer
# What prepares a layer once, and what compares two that are prepared.
OF_A_SAMPLE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], float]]] = {
    "svcca": (lambda x: svcca_form(x).float(), lambda x, y: svcca(x.double(), y.double())),
    "procrustes": (lambda x: procrustes_form(x).float(), lambda x, y: procrustes(x.double(), y.double())),
    "rsa": (lambda x: rsa_form(x[:SAMPLE_RSA]), rsa),
    "mutual_knn": (neighbours_form, mutual_neighbours),
}
MEASURES = (*OF_ALL_TOKENS, *OF_A_SAMPLE)


@dataclass(frozen=True)
class LayerSimilarity:
    """Layer by layer, 1 where two are the same.

    values: by measure ``(sites of a, sites of b)``. tokens: how many were compared; sample: how many of them by the measures that are
    not added up over minibatches.
    """

    values: dict[str, np.ndarray]
    sites_a: tuple[str, ...]
    sites_b: tuple[str, ...]
    models: tuple[str, str]
    tokens: int
    sample: int
    minibatch: int

    def frame(self, measure: str) -> pd.DataFrame:
        """Sites of a by sites of b."""
        if measure not in self.values:
            raise unknown("measure", measure, self.values)
        return pd.DataFrame(self.values[measure], index=list(self.sites_a), columns=list(self.sites_b))

    def table(self) -> pd.DataFrame:
        """A row for each pair of sites: site_a, site_b, and a column for every measure."""
        pairs = [(one, other) for one in self.sites_a for other in self.sites_b]
        frame = pd.DataFrame(pairs, columns=["site_a", "site_b"])
        return frame.assign(**{name: values.ravel() for name, values in self.values.items()})


def layer_similarity(
    model_a: LanguageModel,
    model_b: LanguageModel,
    texts: Sequence[str],
    measures: Sequence[str] = ("cka",),
    *,
    sites: str | Sequence[str] = "resid_post.*",
    sites_b: str | Sequence[str] | None = None,
    tokens: int = 10_000,
    minibatch: int = 256,
    sample: int = 2000,
    max_length: int | None = None,
    token_budget: int = 2048,
    seed: int = 0,
    progress: bool = True,
) -> LayerSimilarity:
    """Similarity of all pairs of sites of two models, of any widths, depths and tokenizers, on the same tokens.

    ``cka`` (linear) and ``kernel_cka`` (RBF, its bandwidth the median distance of a minibatch's tokens) are added up over minibatches of tokens that are drawn
    from many texts, with the unbiased estimate of HSIC; ``svcca`` (99 % of the variance), ``procrustes``, ``rsa`` and ``mutual_knn``
    (10 neighbours) are of a sample. Memory does not grow with ``tokens``: about half a GiB beside the models.

    Args:
        sites, sites_b: of the first model and the second (by default the same).
        tokens: at most so many, a few of each text; the first token of a text is left out.
        minibatch: tokens whose Gram matrices are made at once.
        sample: tokens at most, for the measures of a sample.

    Raises UserError for unknown measures and sites, and for fewer than 8 tokens.
    """
    for name in measures:
        if name not in MEASURES:
            raise unknown("measure of similarity", name, MEASURES)
    if not measures or minibatch < 4 or sample < 4 or tokens < 8:
        raise UserError(
            "a similarity needs a measure, at least 8 tokens, and at least 4 in a minibatch and a sample; got "
            f"measures {list(measures)}, tokens {tokens}, minibatch {minibatch}, sample {sample}."
        )
    names_a, names_b = sites_of(model_a, sites), sites_of(model_b, sites if sites_b is None else sites_b)
    at_once = rows_in_a_window(model_a, model_b, names_a, names_b)
    rows = Rows.of(model_a, model_b, texts, tokens, max(at_once // SHARE_OF_A_TEXT, 4), max_length, seed)
    if len(rows) < 8:
        raise UserError(f"a similarity needs at least 8 tokens to compare, and these texts have {len(rows)}.")
    adding = _Adding([name for name in measures if name in OF_ALL_TOKENS], names_a, names_b, minibatch, seed)
    picked = _Sample(len(rows), sample if any(name in OF_A_SAMPLE for name in measures) else 0, seed)
    with Progress(
        f"compare layers of {model_a.name} and {model_b.name}", len(rows), "token", quiet=not progress
    ) as bar:
        for window in windows(model_a, model_b, rows, names_a, names_b, at_once, minibatch, token_budget):
            adding.add(window)
            picked.add(window)
            bar.advance(len(window))
    found = adding.values() | picked.values([name for name in measures if name in OF_A_SAMPLE])
    return LayerSimilarity(
        {name: found[name] for name in measures}, tuple(names_a), tuple(names_b), (model_a.name, model_b.name),
        len(rows), picked.size, minibatch,
    )  # fmt: skip


class _Adding:
    """The measures that are added up over minibatches."""

    def __init__(self, measures: list[str], sites_a: list[str], sites_b: list[str], minibatch: int, seed: int) -> None:
        self.sites_a, self.sites_b, self.minibatch = sites_a, sites_b, minibatch
        self.meters = {name: MinibatchCKA(len(sites_a), len(sites_b)) for name in measures}
        self.draw = np.random.default_rng(seed)
        self.bandwidths: dict[tuple[str, str], float] = {}

    def add(self, window: Window) -> None:
        if not self.meters:
            return
        # Neighbours in a text are alike: a minibatch has tokens of all texts of its window.
        order = torch.from_numpy(self.draw.permutation(len(window)))
        for part in order.tensor_split(max(len(order) // self.minibatch, 1)):
            a, b = self._picked(window.a, self.sites_a, part), self._picked(window.b, self.sites_b, part)
            for name, meter in self.meters.items():
                meter.add(self._grams(name, "a", self.sites_a, a), self._grams(name, "b", self.sites_b, b))

    @staticmethod
    def _picked(values: dict[str, Tensor], sites: list[str], part: Tensor) -> list[Tensor]:
        return [values[site][part.to(values[site].device)] for site in sites]

    def _grams(self, name: str, side: str, sites: list[str], values: list[Tensor]) -> list[Tensor]:
        if name == "cka":
            # About their mean float32 is enough: the sums over minibatches are float64.
            return [linear_kernel(x - x.mean(0)) for x in values]
        grams = []
        for site, x in zip(sites, (x.double() for x in values), strict=True):
            # One kernel for all minibatches, or their estimates would be of different things.
            if (side, site) not in self.bandwidths:
                self.bandwidths[side, site] = median_distance(x) or 1.0
            grams.append(rbf_kernel(x, self.bandwidths[side, site]))
        return grams

    def values(self) -> dict[str, np.ndarray]:
        return {name: meter.value() for name, meter in self.meters.items()}


class _Sample:
    """A random sample of all rows, filled window by window."""

    def __init__(self, total: int, size: int, seed: int) -> None:
        self.size = min(total, size)
        self.chosen = np.sort(np.random.default_rng(seed).permutation(total)[: self.size])
        self.seen = 0
        self.parts: list[Window] = []

    def add(self, window: Window) -> None:
        if not self.size:
            return
        first, last = np.searchsorted(self.chosen, [self.seen, self.seen + len(window)])
        mine = torch.from_numpy(self.chosen[first:last] - self.seen)
        self.seen += len(window)
        sides = ({site: x[mine.to(x.device)].cpu() for site, x in values.items()} for values in (window.a, window.b))
        self.parts.append(Window(*sides))

    def values(self, measures: list[str]) -> dict[str, np.ndarray]:
        if not measures:
            return {}
        # In random order, so that the first of them are a sample too.
        order = torch.from_numpy(np.random.default_rng(0).permutation(self.size))
        sides = [
            [
                torch.cat([getattr(part, side)[site] for part in self.parts])[order]
                for site in getattr(self.parts[0], side)
            ]
            for side in ("a", "b")
        ]
        self.parts.clear()
        found = {}
        for name in measures:
            form, compare = OF_A_SAMPLE[name]
            a, b = ([form(x.double()) for x in side] for side in sides)
            found[name] = np.array([[compare(x, y) for y in b] for x in a])
        return found
