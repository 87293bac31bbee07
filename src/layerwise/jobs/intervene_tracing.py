"""``intervention: tracing``: causal tracing: after noise on the subject, where does restoring the clean run bring the answer back?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from layerwise.jobs.intervene_maps import map_lines, record_map
from layerwise.jobs.intervene_pairs import anchor_metrics, begin_on_pairs, need_model, progress_of

if TYPE_CHECKING:
    from layerwise.jobs.intervene import InterveneConfig
    from layerwise.models.model import LanguageModel
    from layerwise.tracking.run import Tracker


def run(config: InterveneConfig, model: LanguageModel | None, tracker: Tracker) -> str:
    """Noise, restore, record; returns the summary."""
    from layerwise.interventions.metrics import metric_entry
    from layerwise.interventions.sweeps.config import Tracing
    from layerwise.interventions.sweeps.cost import cost_line
    from layerwise.interventions.sweeps.ledger import Ledgers
    from layerwise.interventions.sweeps.maps import site_rows, trace, tracing_grid

    settings: Any = config.intervention
    assert isinstance(settings, Tracing)
    model = need_model(config, model)
    site_rows(model, settings.sites, lambda kind: settings.window)
    asked, key = begin_on_pairs(config, model, tracker)
    grid = tracing_grid(asked, settings)
    print(cost_line(grid.asked, grid.cells("clean", "clean"), settings.draws), file=sys.stderr)
    with Ledgers(key) as ledgers, progress_of("tracing", len(grid.table) * settings.draws, grid.asked) as done:
        found = trace(
            grid, settings, config.metric, seed=config.seed, ledgers=ledgers, token_budget=config.token_budget, done=done
        )  # fmt: skip
    words = metric_entry(config.metric).words
    clean, noised = found.swept.source, found.swept.base
    tracker.metrics(anchor_metrics(config.metric, clean, noised, "noised"))
    record_map(found, words, model.name, tracker)
    return "\n".join([
        f"causal tracing of {model.name} on {len(grid.asked)} prompts of {config.pairs.name}: noise on the {settings.part}, "
        f"{settings.noise:g} standard deviations, {settings.draws} draws",
        f"{words}: {clean.mean():.3f} clean, {noised.mean():.3f} under noise",
        *map_lines(found),
    ])  # fmt: skip
