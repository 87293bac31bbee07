"""``intervention: ablation``: which layers, MLPs and heads does the behaviour need?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from layerwise.jobs.intervene_pairs import anchor_line, anchor_metrics, begin_on_pairs, need_model, progress_of

if TYPE_CHECKING:
    from layerwise.interventions.sweeps.ablation import Ablated
    from layerwise.jobs.intervene import InterveneConfig
    from layerwise.models.model import LanguageModel
    from layerwise.tracking.run import Tracker

SHOWN = 10


def run(config: InterveneConfig, model: LanguageModel | None, tracker: Tracker) -> str:
    """Ablate every part, record maps and curves; returns the summary."""
    from layerwise.interventions.metrics import metric_entry
    from layerwise.interventions.sweeps.ablation import ablate, ablation_parts
    from layerwise.interventions.sweeps.asked import of_equal_length
    from layerwise.interventions.sweeps.config import Ablation
    from layerwise.interventions.sweeps.ledger import Ledgers
    from layerwise.reports.interventions.ablation import part_charts

    settings: Any = config.intervention
    assert isinstance(settings, Ablation)
    model = need_model(config, model)
    parts = ablation_parts(model, settings.parts)
    asked, key = begin_on_pairs(
        config, model, tracker, of_equal_length if settings.method == "corrupted" else lambda asked: asked
    )
    with Ledgers(key) as ledgers, progress_of("ablation", len(parts), asked) as done:
        found = ablate(
            asked, settings, config.metric, seed=config.seed, ledgers=ledgers, token_budget=config.token_budget, done=done
        )  # fmt: skip
    table = _table(found)
    tracker.metrics(anchor_metrics(config.metric, found.swept.base, found.swept.source))
    tracker.table(table, "ablation")
    if len(found.controls):
        tracker.table(found.controls.drop(columns="sites"), "controls")
    for part, rows in table[table["head"] < 0].groupby("part", sort=False):
        tracker.curve(f"{part}/change", dict(zip(rows["layer"], rows["change"], strict=True)), best="min")
    words = metric_entry(config.metric).words
    title = f"Parts of {model.name} taken away, one at a time ({settings.method})"
    for name, chart in part_charts(table, words, title, "ablation").items():
        tracker.figure(chart, name)
    return "\n".join(_lines(config, settings.method, found, table, words))


def _table(found: Ablated) -> pd.DataFrame:
    return found.parts.drop(columns="sites").assign(
        value=found.swept.values.mean(1), change=found.swept.changes, effect=found.swept.effects
    )


def _lines(config: InterveneConfig, method: str, found: Ablated, table: pd.DataFrame, words: str) -> list[str]:
    lines = [
        f"ablation ({method}) of {len(table)} parts on {found.swept.values.shape[1]} pairs of {config.pairs.name}",
        anchor_line(words, found.swept.base, found.swept.source),
    ]
    for part, rows in table.groupby("part", sort=False):
        first = rows.reindex(rows["change"].abs().sort_values(ascending=False).index).head(SHOWN)
        named = ", ".join(f"{_place(row)} {row.change:+.3f}" for row in first.itertuples())
        lines.append(f"{part} whose loss changes it most: {named}")
    for row in found.controls.head(3).itertuples():
        lines.append(f"control: {row.part} {_place(row)} {row.change:+.3f}, a random change as large {row.random:+.3f}")
    return lines


def _place(row: Any) -> str:
    return f"{row.layer}" if row.head < 0 else f"{row.layer}.{row.head}"
