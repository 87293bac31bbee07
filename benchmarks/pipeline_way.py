"""A search over layers, poolers and classifiers beside the way probing pipelines do it: ``python benchmarks/pipeline_way.py``.

Their way: for every layer and pooler the texts go through the whole model again, in the order they came in, and for every classifier and
fold scikit-learn fits anew. Ours: one pass for all layers and poolers, and solvers that share what classifiers and folds have in common.

Ours is measured whole: 31 layers × 4 poolers × 5 classifiers × 5 folds on 600 statements. Theirs is measured for one layer and pooler at a
time, another one in each round, and multiplied by how many there are. One thread, in turns, after a check that the features are the same.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rounds import rounds
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from layerwise.activations.collect import collect
from layerwise.activations.result import Activations
from layerwise.data.load import load_dataset
from layerwise.data.splits import folds as deal_folds
from layerwise.models.loading import load_model
from layerwise.models.model import LanguageModel
from layerwise.probes.crossval import fold_scores_of
from layerwise.probes.linear import LDAProbe, MassMeanProbe, NearestCentroidProbe
from layerwise.probes.penalised import LogisticProbe, RidgeClassifierProbe

STATEMENTS, FOLDS, BATCH = 600, 5, 32
POOLERS = ("last", "mean", "max", "quantile:0.5")
CELLS = ((5, "mean"), (16, "last"), (27, "quantile:0.5"), (11, "max"))  # layers and poolers that theirs is measured at
ALPHA, C = 100.0, 0.01


@dataclass(frozen=True)
class Search:
    """The model, the statements and their folds."""

    model: LanguageModel
    texts: tuple[str, ...]
    y: np.ndarray
    folds: np.ndarray

    @property
    def sites(self) -> list[str]:
        return ["embed", *self.model.sites.expand("resid_post.*")]

    def extracted(self) -> Activations:
        """Every layer under every pooler, in one pass."""
        return collect(self.model, self.texts, self.sites, list(POOLERS), progress=False)

    def ours(self) -> None:
        """The whole search."""
        activations = self.extracted()
        probes = (RidgeClassifierProbe(ALPHA), LogisticProbe(C), LDAProbe(), MassMeanProbe(), NearestCentroidProbe())
        for key in activations.keys:
            fold_scores_of(probes, activations.matrix(*key), self.y, self.folds)

    def pooled(self, layer: int, pooler: str) -> np.ndarray:
        """(statements, width) by a pass through the whole model that keeps every hidden state and uses one."""
        parts = []
        for start in range(0, len(self.texts), BATCH):
            batch = self.model.tokenizer(
                list(self.texts[start : start + BATCH]), return_tensors="pt", padding=True, padding_side="right"
            )
            with torch.inference_mode():
                hidden = self.model.body(**batch, output_hidden_states=True).hidden_states[layer + 1]
            parts.append(_pool(hidden, batch["attention_mask"], pooler))
        return np.concatenate(parts)

    def theirs(self, layer: int, pooler: str) -> None:
        """The share of one layer and pooler."""
        X, y = self.pooled(layer, pooler), self.y
        made: tuple[Callable[[], Any], ...] = (
            lambda: make_pipeline(StandardScaler(), RidgeClassifier(ALPHA)),
            lambda: make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000)),
            LinearDiscriminantAnalysis,
            _MassMean,
            lambda: make_pipeline(StandardScaler(), NearestCentroid()),
        )
        for make, fold in itertools.product(made, range(FOLDS)):
            out = self.folds[0] == fold
            make().fit(X[~out], y[~out]).predict(X[out])


class _MassMean:
    """The difference of the class means, cut half-way: scikit-learn has none."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> _MassMean:
        means = [X[y == label].mean(0) for label in (0, 1)]
        self.direction, self.middle = means[1] - means[0], (means[0] + means[1]) / 2
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return ((X - self.middle) @ self.direction > 0).astype(np.int64)


def _pool(hidden: torch.Tensor, mask: torch.Tensor, pooler: str) -> np.ndarray:
    """(texts, width) of (texts, tokens, width), padding on the right."""
    lengths = mask.sum(1)
    if pooler == "mean":
        values = (hidden * mask[..., None]).sum(1) / lengths[:, None]
    elif pooler == "max":
        values = hidden.masked_fill(mask[..., None] == 0, -torch.inf).amax(1)
    else:
        share = 1.0 if pooler == "last" else float(pooler.partition(":")[2])
        place = torch.round(share * (lengths - 1)).long()
        values = hidden[torch.arange(len(hidden)), place]
    return values.float().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)
    cities = load_dataset("cities").select(np.arange(STATEMENTS))
    assert cities.labels is not None
    search = Search(load_model(arguments.model), cities.texts, cities.labels, deal_folds(cities.labels, n_folds=FOLDS))
    activations = search.extracted()
    for layer, pooler in CELLS:
        ours = activations.matrix(f"resid_post.{layer}", pooler)
        apart = np.abs(search.pooled(layer, pooler) - ours).max() / ours.std()
        assert apart < 1e-3, f"layer {layer}, {pooler}: features differ by {apart:.1e}"
    turn = itertools.cycle(CELLS)
    found = rounds({"ours": search.ours, "theirs": lambda: search.theirs(*next(turn))}, arguments.rounds)
    cells = len(search.sites) * len(POOLERS)
    print(
        f"{len(search.sites)} layers × {len(POOLERS)} poolers × 5 classifiers × {FOLDS} folds, {STATEMENTS} statements\n"
    )
    print("| time | ours, the whole search | theirs, one layer and pooler | theirs, scaled to all | times as long |")
    print("| --- | --- | --- | --- | --- |")
    for kind in ("wall", "processor"):
        whole, one = (getattr(found[name], kind) for name in ("ours", "theirs"))
        times = [cells * b / a for a, b in zip(whole, one, strict=True)]
        print(
            f"| {kind} | {statistics.median(whole):.1f} s | {statistics.median(one):.1f} s | {cells * statistics.median(one) / 60:.0f} min "
            f"| {statistics.median(times):.0f} [{min(times):.0f}–{max(times):.0f}] |"
        )


if __name__ == "__main__":
    main()
