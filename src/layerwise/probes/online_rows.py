"""A dataset as rows for online probes, batch by batch, straight out of the forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from layerwise.activations.passes import Passes
from layerwise.activations.poolers import NoPool, Pooler, parse_pooler
from layerwise.data.dataset import TextDataset
from layerwise.errors import UserError
from layerwise.models.model import LanguageModel
from layerwise.models.tokens import Tokens
from layerwise.probes.online_probe import OnlineProbeConfig
from layerwise.probes.problem import labelled_tokens

Ints = NDArray[np.int64]
Rows = tuple[NDArray[np.float32], Ints, Ints]  # features, class ids (−1: none), numbers of the texts


class RowStream:
    """What each probe sees of a dataset's texts. ``classes``: the class ids that occur.

    Raises UserError for data without classes, and for pooled probes on labelled pieces of texts.
    """

    def __init__(
        self,
        model: LanguageModel,
        dataset: TextDataset,
        configs: Mapping[str, OnlineProbeConfig],
        max_length: int | None,
    ) -> None:
        self.model, self.dataset = model, dataset
        self.places: dict[str, tuple[str, Pooler]] = {
            name: (config.site, parse_pooler(config.pooler)) for name, config in configs.items()
        }
        self.tokens: Tokens = model.tokenize(list(dataset.texts), dataset.pairs, max_length)
        self.by_token: list[Ints] | None = None
        if dataset.task == "tokens":
            pooled = [name for name, config in configs.items() if config.pooler != "none"]
            if pooled:
                raise UserError(
                    f"{dataset.name!r} labels tokens, so its probes need the pooler none; {pooled[0]} has another."
                )
            self.by_token = self._token_classes()
            self.classes = np.unique(np.concatenate(self.by_token))
            self.classes = self.classes[self.classes >= 0]
        elif dataset.task == "classification" and dataset.labels is not None:
            self.classes = np.unique(dataset.labels)
        else:
            raise UserError(f"online probes tell classes apart; the task of {dataset.name!r} is {dataset.task}.")
        self._passes: tuple[list[str], Passes] | None = None

    def _token_classes(self) -> list[Ints]:
        """Each text's (tokens,) class ids, −1 where a token has no label."""
        rows, labels, _ = labelled_tokens(self.tokens, self.dataset)
        classes = np.full(int(self.tokens.lengths.sum()), -1, dtype=np.int64)
        classes[rows] = labels
        return np.split(classes, np.cumsum(self.tokens.lengths)[:-1])

    def read(self, rows: Ints, names: list[str]) -> dict[str, Rows]:
        """One pass over some texts: what each of the named probes sees of them."""
        if self._passes is None or self._passes[0] != names:
            wanted: dict[str, tuple[Pooler, ...]] = {}
            for site, pooler in (self.places[name] for name in names):
                wanted[site] = (*wanted.get(site, ()), pooler)
            self._passes = names, Passes(self.model, self.tokens, wanted, spans=self.dataset.spans)
        parts: dict[str, list[Rows]] = {name: [] for name in names}
        for block in self._passes[1](rows):
            for name in names:
                site, pooler = self.places[name]
                texts = block.rows
                if isinstance(pooler, NoPool):
                    texts = np.repeat(texts, block.lengths[pooler])
                parts[name].append((block.values[site, pooler].numpy(), self._labels(texts, block.rows), texts))
        return {name: _joined(found) for name, found in parts.items()}

    def labels(self, name: str) -> Ints:
        """(rows,) class ids of all that a probe sees, in the order of the texts; −1 where a token has no label."""
        rows = np.arange(len(self.dataset))
        by_token = isinstance(self.places[name][1], NoPool)
        return self._labels(np.repeat(rows, self.tokens.lengths) if by_token else rows, rows)

    def _labels(self, texts: Ints, rows: Ints) -> Ints:
        if self.by_token is not None:
            return np.concatenate([self.by_token[row] for row in rows])
        assert self.dataset.labels is not None
        return self.dataset.labels[texts]


def _joined(parts: Sequence[Rows]) -> Rows:
    features, labels, texts = (np.concatenate(column) for column in zip(*parts, strict=True))
    return features, labels, texts
