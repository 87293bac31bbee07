"""``intervention: path``: which heads and MLPs speak straight to chosen others, or to the logits?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerwise.jobs.intervene_pairs import anchor_line, anchor_metrics, begin_on_pairs, need_model, progress_of

if TYPE_CHECKING:
    import pandas as pd

    from layerwise.jobs.intervene import InterveneConfig
    from layerwise.models.model import LanguageModel
    from layerwise.tracking.run import Tracker

SHOWN = 10


def run(config: InterveneConfig, model: LanguageModel | None, tracker: Tracker) -> str:
    """Patch the paths of every sender, record; returns the summary."""
    from layerwise.interventions.metrics import metric_entry
    from layerwise.interventions.sweeps.axis import fitting
    from layerwise.interventions.sweeps.config import PathPatching
    from layerwise.interventions.sweeps.ledger import Ledgers
    from layerwise.interventions.sweeps.path import patch_paths, path_sites
    from layerwise.reports.interventions.ablation import part_charts

    settings: Any = config.intervention
    assert isinstance(settings, PathPatching)
    model = need_model(config, model)
    senders, _ = path_sites(model, settings)
    asked, key = begin_on_pairs(config, model, tracker, lambda asked: fitting(asked, [settings.positions]))
    with Ledgers(key) as ledgers, progress_of("path patching", len(senders), asked) as done:
        found = patch_paths(
            asked, settings, config.metric, seed=config.seed, ledgers=ledgers, token_budget=config.token_budget, done=done
        )  # fmt: skip
    table = found.senders.assign(
        value=found.swept.values.mean(1), change=found.swept.changes, effect=found.swept.effects
    )
    words = metric_entry(config.metric).words
    to = ", ".join(settings.receivers)
    tracker.metrics(anchor_metrics(config.metric, found.swept.base, found.swept.source))
    tracker.table(table, "paths")
    if len(found.controls):
        tracker.table(found.controls, "controls")
    title = f"What parts of {model.name} say to {to}"
    for name, chart in part_charts(table.rename(columns={"site": "part"}), words, title, "path").items():
        tracker.figure(chart, name)
    first = table.reindex(table["change"].abs().sort_values(ascending=False).index).head(SHOWN)
    named = ", ".join(f"{_name(row)} {row.change:+.3f}" for row in first.itertuples())
    return "\n".join([
        f"path patching of {len(table)} senders to {to} on {len(asked)} pairs of {config.pairs.name}, {settings.freeze} held",
        anchor_line(words, found.swept.base, found.swept.source),
        f"those whose corrupted value changes it most: {named}",
        *_control_lines(found.controls),
    ])  # fmt: skip


def _control_lines(controls: pd.DataFrame) -> list[str]:
    return [
        f"control: {_name(row)} {row.change:+.3f}, a random change as large {row.random:+.3f}"
        for row in controls.head(3).itertuples()
    ]


def _name(row: Any) -> str:
    return f"{row.site}.{row.layer}" + ("" if row.head < 0 else f".{row.head}")
