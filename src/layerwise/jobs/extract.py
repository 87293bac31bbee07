"""``extract``: fill the store with activations of a model on a dataset.

The recipe: read texts, load the model, collect into the store, record what is there and where. Whatever probes, compares or
searches afterwards reads it from there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from layerwise.activations.poolers import Last, Mean, Pooler
from layerwise.data.config import DatasetConfig
from layerwise.errors import UserError, check_seed
from layerwise.models.config import ModelConfig

if TYPE_CHECKING:
    from layerwise.tracking.run import Tracker


@dataclass(frozen=True)
class ExtractConfig:
    """Activations to collect, and where to keep them.

    model: the language model.
    dataset: the texts.
    sites: what to collect: ``resid_post.*``, ``mlp_out.4-8``, several joined by commas; ``all`` is every layer.
    poolers: which tokens stand for a text: ``last``, ``mean``, several joined by commas; ``none`` keeps every token.
    store: folder of the activation store; none: the one in the cache folder.
    dtype: what is kept.
    token_budget: padded tokens a batch.
    max_length: tokens a text is cut to; none: the model's context.
    truncation: ``report`` says how many texts were cut, ``error`` refuses them.
    allow_nonfinite: keep NaN and infinity in place of an error.
    seed: of whatever the model itself draws while it runs.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    sites: list[str] = field(default_factory=lambda: ["resid_post.*"])
    poolers: list[Pooler] = field(default_factory=lambda: [Last(), Mean()])
    store: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    token_budget: int = 4096
    max_length: int | None = None
    truncation: Literal["report", "error"] = "report"
    allow_nonfinite: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.token_budget < 1:
            raise UserError(f"token_budget must be at least 1, got {self.token_budget}.")
        check_seed(self.seed)


def run(config: ExtractConfig, tracker: Tracker) -> None:
    """Read, load, collect, record. Raises UserError for what the person can mend."""
    import torch

    from layerwise.activations.collect import collect, is_stored
    from layerwise.activations.cost import size
    from layerwise.activations.store import Store
    from layerwise.data.load import load_dataset
    from layerwise.models.loading import load_model
    from layerwise.tracking.references import reference_tags

    store = Store(config.store)
    dataset = load_dataset(config.dataset)
    model = load_model(config.model)
    # A finished run is no reason to do nothing once its activations are gone.
    tracker.force = tracker.force or not is_stored(
        model, dataset, config.sites, config.poolers, store,
        dtype=config.dtype, max_length=config.max_length, truncation=config.truncation,
    )  # fmt: skip
    tracker.begin(model=model.fingerprint, data=dataset.digest())
    tracker.name(f"extract: {config.model.name} on {dataset.name}")
    tracker.language_model(model)
    tracker.dataset(dataset, "extract")

    torch.manual_seed(config.seed)
    activations = collect(
        model, dataset, config.sites, config.poolers, store=store, dtype=config.dtype, token_budget=config.token_budget,
        max_length=config.max_length, truncation=config.truncation, allow_nonfinite=config.allow_nonfinite,
    )  # fmt: skip

    report = activations.report
    assert report is not None
    poolers = ",".join(pooler.label for pooler in config.poolers)
    tracker.tags(
        {
            "dataset": config.dataset.name, "sites": ",".join(config.sites), "pooler": poolers,
            **reference_tags("activations", activations.stored),
        }
    )  # fmt: skip
    tracker.metrics(
        {
            "extract/texts": report.texts, "extract/tokens": report.tokens, "extract/truncated": report.truncated,
            "extract/computed_tokens": report.computed_tokens, "extract/seconds": report.seconds,
            "extract/tokens_per_second": report.tokens_per_second, "extract/bytes": report.bytes,
        }
    )  # fmt: skip
    reference = {key: dict(store.find(key).manifest) for key in activations.stored}
    tracker.json({"store": str(store.folder.absolute()), "parts": reference}, "activations")
    notes = "".join(f"note: {note}\n" for note in report.notes)
    tracker.summary(f"{notes}{report}\nstored in {store.folder}, {size(report.bytes)}: {', '.join(activations.stored)}")
