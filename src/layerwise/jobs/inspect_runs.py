"""What ``inspect`` asks of runs: curves over one axis, one head through checkpoints, and whether a model is what its run says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from layerwise.errors import UserError
from layerwise.models.loading import load_model
from layerwise.reports.inspection.attention import progress_grid, progress_lines
from layerwise.reports.inspection.metrics import metric_lines
from layerwise.tracking import frames
from layerwise.tracking.histories import checkpoints, histories, made_by
from layerwise.training.inspection.attention import head_progress
from layerwise.training.inspection.stability import check_stability

if TYPE_CHECKING:
    from layerwise.jobs.inspect import InspectConfig
    from layerwise.models.model import LanguageModel
    from layerwise.tracking.histories import Origin
    from layerwise.tracking.run import Tracker
    from layerwise.training.inspection.config import MetricPlot


def draw_metrics(config: InspectConfig, tracker: Tracker) -> list[str]:
    """A figure and a table for each plot."""
    lines = []
    for number, plot in enumerate(config.plots, start=1):
        name = "metrics" if len(config.plots) == 1 else f"metrics_{number}"
        runs = _runs_of(config, plot, tracker)
        found = histories(tracker.server, runs, plot.metrics, plot.x)
        tracker.figure(metric_lines(found, plot.x, plot.y_scale), name)
        tracker.table(found, name)
        lines.append(f"  {', '.join(plot.metrics)} of {len(runs)} runs by {plot.x}: figures/{name}.html")
    return lines


def _runs_of(config: InspectConfig, plot: MetricPlot, tracker: Tracker) -> list[str]:
    if plot.runs:
        return plot.runs
    if plot.filter is not None:
        found: list[str] = frames.runs(tracker.server, plot.filter)["run_id"].tolist()
        if not found:
            raise UserError(f"no run matches {plot.filter!r}.")
        return found
    return [_origin(config, tracker, "plots without runs or a filter are").run_id]


def _origin(config: InspectConfig, tracker: Tracker, what: str) -> Origin:
    """The run that made the model. Raises UserError for a model that is not of a run."""
    origin = made_by(tracker.server, config.model.name)
    if origin is None:
        raise UserError(f"{what} of the model's run, and {config.model.name} is not of one: name runs:/RUN_ID.")
    return origin


def follow_head(config: InspectConfig, site: str, tracker: Tracker) -> list[str]:
    """One head at every checkpoint of the model's run."""
    origin = _origin(config, tracker, "checkpoints are")
    kept = checkpoints(tracker.server, origin.run_id)

    def loaded() -> Iterator[tuple[int, LanguageModel]]:
        for checkpoint in kept:
            yield checkpoint.step, load_model(replace(config.model, name=checkpoint.uri))

    found = head_progress(loaded(), config.prompts[0], site, config.heads)
    tracker.figure(progress_grid(found), "head_by_checkpoint")
    tracker.figure(progress_lines(found), "head_scores_by_checkpoint")
    tracker.table(found.scores, "head_by_checkpoint")
    for row in found.scores.to_dict("records"):
        tracker.metrics(
            {"follow/induction": row["induction"], "follow/previous_token": row["previous_token"]}, row["step"]
        )
    first, last = found.scores["induction"].iloc[[0, -1]]
    steps = f"{found.steps[0]:,} to {found.steps[-1]:,}"
    return [f"  {site} at {len(found.steps)} checkpoints, steps {steps}: induction {first:.3f} to {last:.3f}"]


def see_stability(config: InspectConfig, tracker: Tracker) -> list[str]:
    """Load twice and check; for a model that a training made, its validation loss too."""
    origin = made_by(tracker.server, config.model.name)
    loss, logged, note = _validation(origin, tracker)
    if note:
        print(f"note: {note}", file=sys.stderr)
    found = check_stability(lambda: load_model(config.model), loss, logged, seed=config.seed)
    tracker.table(found.table(), "stability")
    tracker.metrics({"stability/passed": float(found.passed)})
    return [f"stability: {'passed' if found.passed else 'NOT PASSED'}", str(found)]


def _validation(
    origin: Origin | None, tracker: Tracker
) -> tuple[Callable[[LanguageModel], float] | None, float | None, str]:
    """The loss on what the model was validated on, what it was when the model was kept, and a note where neither is known."""
    from layerwise.config import configure, parse_mapping
    from layerwise.config.build import Layer
    from layerwise.jobs.train import TrainConfig
    from layerwise.tracking.query import config_of
    from layerwise.training.measuring import predict_tokens
    from layerwise.training.prepared import prepare_data

    if origin is None or origin.job != "train":
        return None, None, "no training made this model, so there is no validation loss to check."
    logged = origin.metrics.get("val/loss")
    if logged is None:
        return None, None, f"run {origin.run_id} logged no val/loss with this model, so there is none to check."
    where = f"the config of run {origin.run_id}"
    values: dict[str, Any] = parse_mapping(config_of(tracker.server, origin.run_id)[1], where)
    trained: TrainConfig = configure(TrainConfig, Layer(values, where))
    data = prepare_data(trained.data, trained.tokens, trained.context, trained.seed)
    batch_size = trained.evaluation.batch_size or trained.training.batch_size

    def loss(model: LanguageModel) -> float:
        total, _, tokens = predict_tokens(
            model.module, data.validation, batch_size=batch_size, pad_id=data.tokenizer.pad_token_id, device=model.device,
            limit=trained.evaluation.samples,
        ).tolist()  # fmt: skip
        return float(total / tokens)

    return loss, logged, ""
