"""The embeddings of every layer: each token's vector, and by layer how long they are and how alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from layerwise.activations.collect import collect
from layerwise.files import atomic_file
from layerwise.measures.similarity import cosine
from layerwise.models.model import LanguageModel
from layerwise.training.inspection.reading import token_names

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LayerEmbeddings:
    """Vectors of all tokens of some texts, one text after another.

    values: by site, (tokens, width) float32. text, position: (tokens,) which text and where in it. tokens: (tokens,) names.
    """

    values: dict[str, Floats]
    text: NDArray[np.int64]
    position: NDArray[np.int64]
    tokens: tuple[str, ...]

    def of_text(self, site: str, text: int) -> Floats:
        """(tokens of the text, width)"""
        return self.values[site][self.text == text]

    def table(self) -> pd.DataFrame:
        """A row a token: text, position, token."""
        return pd.DataFrame({"text": self.text, "position": self.position, "token": self.tokens})

    def by_layer(self) -> pd.DataFrame:
        """A row a site: site, norm (mean), cosine_to_previous (with the same token's vector at the site before, mean), and cosine_of_tokens
        (of any two tokens, mean: how far all vectors point one way; Ethayarajh 2019)."""
        rows, before = [], None
        for site, values in self.values.items():
            wide = values.astype(np.float64)
            norms = np.linalg.norm(wide, axis=1)
            units = wide / np.maximum(norms, 1e-12)[:, None]
            count = len(units)
            pairs = (np.square(units.sum(0)).sum() - np.square(units).sum()) / max(count * (count - 1), 1)
            alike = float("nan")
            if before is not None and before.shape == values.shape:
                alike = float(cosine(before, values).mean())
            rows.append((site, norms.mean(), alike, pairs if count > 1 else float("nan")))
            before = values
        return pd.DataFrame(rows, columns=["site", "norm", "cosine_to_previous", "cosine_of_tokens"])

    def save(self, path: Path | str) -> None:
        """All vectors as one safetensors file: a tensor a site, and ``text`` and ``position``."""
        tensors = {site: torch.from_numpy(np.ascontiguousarray(values)) for site, values in self.values.items()}
        tensors |= {"text": torch.from_numpy(self.text), "position": torch.from_numpy(self.position)}
        with atomic_file(Path(path)) as temporary:
            save_file(tensors, temporary)


def layer_embeddings(
    model: LanguageModel,
    texts: Sequence[str],
    sites: str | Sequence[str] = ("embed", "resid_post.*"),
    *,
    token_budget: int = 4096,
    progress: bool = True,
) -> LayerEmbeddings:
    """Each token's vector at every layer, special tokens included, in one pass.

    Raises UserError for sites the model lacks, and what will not fit into memory.
    """
    found = collect(model, list(texts), sites, "none", token_budget=token_budget, progress=progress)
    assert found.tokenized is not None
    lengths = found.tokenized.lengths
    ids = np.concatenate(found.tokenized.ids)
    return LayerEmbeddings(
        {site: found.tokens(site).values for site in found.sites},
        np.repeat(np.arange(len(lengths)), lengths),
        np.concatenate([np.arange(length) for length in lengths]),
        token_names(model, ids),
    )
