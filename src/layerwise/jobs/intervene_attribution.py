"""``intervention: attribution``: effects of patching estimated from gradients, all at once, and how good the estimates are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerwise.jobs.intervene_pairs import anchor_line, anchor_metrics, begin_on_pairs, need_model, progress_of

if TYPE_CHECKING:
    import pandas as pd

    from layerwise.interventions.sweeps.attribution import Attributed
    from layerwise.jobs.intervene import InterveneConfig
    from layerwise.models.model import LanguageModel
    from layerwise.tracking.run import Tracker

SHOWN = 10


def run(config: InterveneConfig, model: LanguageModel | None, tracker: Tracker) -> str:
    """Estimate, patch a sample, record; returns the summary."""
    from layerwise.interventions.metrics import metric_entry
    from layerwise.interventions.sweeps.asked import of_equal_length
    from layerwise.interventions.sweeps.attribution import attribute, check_differentiable
    from layerwise.interventions.sweeps.axis import fitting
    from layerwise.interventions.sweeps.config import Attribution, Patching
    from layerwise.interventions.sweeps.edges import Graph, attribute_edges
    from layerwise.interventions.sweeps.maps import patching_grid, site_rows

    settings: Any = config.intervention
    assert isinstance(settings, Attribution)
    model = need_model(config, model)
    check_differentiable(config.metric)
    edges = settings.of == "edges"
    Graph(model) if edges else site_rows(model, settings.sites, lambda kind: 1)
    asked, _ = begin_on_pairs(
        config, model, tracker,
        lambda asked: of_equal_length(asked) if edges else of_equal_length(fitting(asked, settings.positions)),
    )  # fmt: skip
    shared: dict[str, Any] = {"seed": config.seed, "token_budget": config.token_budget}
    with progress_of("attribution", 1, asked) as done:
        if edges:
            table, found = attribute_edges(asked, settings, config.metric, **shared, done=done)
        else:
            grid = patching_grid(asked, Patching(sites=settings.sites, positions=settings.positions))
            found = attribute(grid, settings, config.metric, **shared, done=done)
            table = grid.table.drop(columns=["sites", "place"]).assign(score=found.estimates)
    words = metric_entry(config.metric).words
    tracker.metrics(anchor_metrics(config.metric, found.clean, found.corrupted))
    tracker.table(table, settings.of)
    _record_charts(table, found, edges, words, model.name, tracker)
    first = table.reindex(table["score"].abs().sort_values(ascending=False).index).head(SHOWN)
    how = "gradients at the clean prompt" if settings.steps == 1 else f"integrated gradients of {settings.steps} steps"
    return "\n".join([
        f"attribution of {len(table):,} {settings.of} of {model.name} on {len(asked)} pairs of {config.pairs.name}, {how}",
        anchor_line(words, found.clean, found.corrupted),
        "estimated change when the corrupted value is put into the clean run, largest: "
        + ", ".join(f"{_name(row)} {row['score']:+.3f}" for row in first.to_dict("records")),
        *_agreement_lines(found, tracker),
    ])  # fmt: skip


def _record_charts(
    table: pd.DataFrame, found: Attributed, edges: bool, words: str, model: str, tracker: Tracker
) -> None:
    from layerwise.reports.interventions.attribution import agreement_chart, edge_map
    from layerwise.reports.interventions.maps import map_charts

    if edges:
        tracker.figure(edge_map(table, model), "edges")
    else:
        way = "estimated for corrupted values put into the clean run"
        charts = map_charts(
            table.assign(effect=table["score"]), "estimate", way, words, model, f"change of {words.split(',')[0]}"
        )
        for name, chart in charts.items():
            tracker.figure(chart, name)
    if found.agreement is not None:
        tracker.table(found.agreement.table, "sample")
        tracker.figure(agreement_chart(found.agreement.table, model), "agreement")


def _agreement_lines(found: Attributed, tracker: Tracker) -> list[str]:
    if found.agreement is None:
        return []
    tracker.metrics({
        "sample/correlation": found.agreement.correlation, "sample/relative_error": found.agreement.error,
    })  # fmt: skip
    table = found.agreement.table
    first = table.reindex(table["estimate"].abs().sort_values(ascending=False).index).head(max(1, len(table) // 2))
    sizes = [float(first[name].abs().mean()) for name in ("patched", "random")]
    return [
        f"beside true patching of {len(found.agreement.table)} of them: correlation {found.agreement.correlation:.3f}, mean error "
        f"{found.agreement.error:.2f} of the mean change",
        f"control: the {len(first)} strongest move the metric by {sizes[0]:.3f} on average, random changes as large by {sizes[1]:.3f}",
    ]


def _name(row: dict[Any, Any]) -> str:
    if "sender" in row:
        return f"{row['sender']} → {row['receiver']}"
    return f"{row['site']}.{row['layer']}{'' if row['head'] < 0 else '.' + str(row['head'])} at {row['position']}"
