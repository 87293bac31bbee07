"""``intervene``: act inside a model and see what its behaviour does: ablate, patch, trace, steer, erase, align.

What is done is a ``kind``; the recipe of each lies in ``intervene_<kind>.py`` and is run on the loaded model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

from layerwise.data.config import DatasetConfig
from layerwise.data.pairs.config import PairsConfig
from layerwise.errors import UserError, check_seed
from layerwise.interventions.alignment.config import Alignment
from layerwise.interventions.erasure.config import Erasure
from layerwise.interventions.exchange.config import AnyPlan
from layerwise.interventions.steering.config import ITI, CausalCheck, Steering
from layerwise.interventions.sweeps.config import Ablation, Attribution, Patching, PathPatching, Tracing
from layerwise.models.config import ModelConfig

if TYPE_CHECKING:
    from layerwise.tracking.run import Tracker

# The settings of each kind; its recipe is ``run(config, model, tracker)`` in jobs/intervene_<kind>.py and returns the summary.
Intervention = (
    Ablation
    | Patching
    | Tracing
    | PathPatching
    | Attribution
    | CausalCheck
    | Steering
    | ITI
    | Erasure
    | Alignment
    | AnyPlan
)


@dataclass(frozen=True)
class InterveneConfig:
    """A model, what is done inside it, and on what.

    model: which language model; null where the kind trains its own.
    intervention: what is done, a kind with its settings.
    pairs: prompts with answers, each beside one that differs in what decides the answer.
    texts: texts in their place, or beside them, for kinds that read some.
    metric: what is looked at: logit_difference, log_probability, probability, rank, accuracy, preference, kl, kl_tokens, loss, perplexity,
        or a function of one's own as ``my_metrics.py:surprise``.
    store: folder of the activation store; none: the one in the cache folder.
    token_budget: padded tokens of one forward; none: what suits the device. Less of them takes less memory.
    seed: of draws, splits and intervals.
    """

    model: ModelConfig | None = field(default_factory=ModelConfig)
    intervention: Intervention = field(default_factory=Ablation)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    texts: DatasetConfig | None = None
    metric: str = "logit_difference"
    store: str | None = None
    token_budget: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.token_budget is not None and self.token_budget < 1:
            raise UserError(f"token_budget must be at least 1, got {self.token_budget}.")


def run(config: InterveneConfig, tracker: Tracker) -> None:
    """Load the model, run the kind's recipe, record. Raises UserError for what the person can mend."""
    from layerwise.models.loading import load_model

    recipe = import_module(f"layerwise.jobs.intervene_{config.intervention.kind}")
    model = None if config.model is None else load_model(config.model)
    tracker.summary(recipe.run(config, model, tracker))
