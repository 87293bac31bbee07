"""``intervention: patching``: where in the model is what decides the answer?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from layerwise.jobs.intervene_maps import map_lines, record_map
from layerwise.jobs.intervene_pairs import anchor_line, anchor_metrics, begin_on_pairs, need_model, progress_of

if TYPE_CHECKING:
    from layerwise.jobs.intervene import InterveneConfig
    from layerwise.models.model import LanguageModel
    from layerwise.tracking.run import Tracker


def run(config: InterveneConfig, model: LanguageModel | None, tracker: Tracker) -> str:
    """Patch every cell of the map, record it; returns the summary."""
    from layerwise.interventions.metrics import metric_entry
    from layerwise.interventions.sweeps.axis import fitting
    from layerwise.interventions.sweeps.config import Patching
    from layerwise.interventions.sweeps.cost import cost_line
    from layerwise.interventions.sweeps.ledger import Ledgers
    from layerwise.interventions.sweeps.maps import BASES, patch_map, patching_grid, site_rows

    settings: Any = config.intervention
    assert isinstance(settings, Patching)
    model = need_model(config, model)
    site_rows(model, settings.sites, lambda kind: settings.window)
    asked, key = begin_on_pairs(config, model, tracker, lambda asked: fitting(asked, settings.positions))
    grid = patching_grid(asked, settings)
    directions = [name for name in BASES if settings.direction in (name, "both")]
    print(cost_line(grid.asked, grid.cells("clean", "corrupted"), len(directions)), file=sys.stderr)
    words = metric_entry(config.metric).words
    lines: list[str] = []
    with Ledgers(key) as ledgers, progress_of("patching", len(grid.table) * len(directions), grid.asked) as done:
        for direction in directions:
            found = patch_map(
                grid, direction, config.metric, controls=settings.controls, seed=config.seed, ledgers=ledgers,
                token_budget=config.token_budget, done=done,
            )  # fmt: skip
            if not lines:
                clean, corrupted = found.swept.source, found.swept.base
                if direction == "noising":
                    clean, corrupted = corrupted, clean
                tracker.metrics(anchor_metrics(config.metric, clean, corrupted))
                lines = [
                    f"patching of {len(grid.table)} cells of {model.name} on {len(grid.asked)} pairs of {config.pairs.name}",
                    anchor_line(words, clean, corrupted),
                ]
            record_map(found, words, model.name, tracker)
            lines += map_lines(found)
    return "\n".join(lines)
