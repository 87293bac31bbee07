"""Questions to the tracking server, answered as pandas frames.

>>> from layerwise import query
>>> query.runs("model=smollm2, cv/accuracy > 0.8, probe.kind=ridge")

Every function reads the server of ``MLFLOW_TRACKING_URI`` (else ``mlflow.db`` here), and nothing but it: no model runs, no activations are
read. Deleted runs and runs that only repeat or continue another one are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from layerwise.tracking import differences as _differences
from layerwise.tracking import frames as _frames
from layerwise.tracking import histories as _histories
from layerwise.tracking import significance as _significance
from layerwise.tracking import standings as _standings
from layerwise.tracking import studies as _studies
from layerwise.tracking import tables as _tables
from layerwise.tracking.server import connect

if TYPE_CHECKING:
    from layerwise.comparison.comparison import Comparison

Names = str | Sequence[str] | None


def runs(filter: str | None = None, job: Names = None, experiments: Names = None, trials: bool = True) -> pd.DataFrame:
    """A row per run, oldest first: run_id, name, experiment, job, status, started, ended, seconds; ``layerwise.*`` tags by bare name (model,
    dataset, study, trial, site, pooler, classifier, …); ``digest:<role>``, ``metric:<name>``, ``param:<name>``, ``tag:<name>``.

    Args:
        filter: ``model=smollm2, cv/accuracy > 0.8, probe.kind=ridge|lda, digest=3f2a``; see ``layerwise.tracking.filters``.
        job: ``probe``, ``search``, …, or several.
        experiments: their names; all by default.
        trials: whether the trials of searches are wanted.

    Raises:
        UserError: for an unknown experiment, a filter that cannot be read, or a name in it that no run has.
    """
    return _frames.runs(connect(), filter, job, experiments, trials)


def studies(filter: str | None = None, experiments: Names = None) -> pd.DataFrame:
    """A row per study: study, model, dataset, searched, metric, direction, status, best, complete, pruned, failed, site, pooler,
    classifier, winner_run, run_id, started, seconds, data_digest, ``metric:<name>``."""
    return _studies.studies(connect(), filter, experiments)


def trials(study: str) -> pd.DataFrame:
    """A row per trial of a study (its name or run id): number, state, run_id, value, low, high, site, name, layer, pooler, classifier,
    seconds, ``param:<name>`` of what was searched, ``metric:<name>``. A study that is still running shows what it has so far."""
    return _studies.trials(connect(), study)


def metrics(runs: Sequence[str], names: Sequence[str], x: str = "step") -> pd.DataFrame:
    """Every value of some metrics of some runs (ids): run_id, run, metric, step, x, value.

    ``names``: ``val/*`` are all that begin so. ``x``: ``step``, ``time`` in seconds, or a metric logged at the same steps."""
    return _histories.histories(connect(), runs, names, x)


def checkpoints(run: str) -> pd.DataFrame:
    """The models a run logged, by step: step, name, uri (what ``load_model`` takes)."""
    return pd.DataFrame(_histories.checkpoints(connect(), run), columns=["step", "name", "uri"])


def table(run: str, name: str) -> pd.DataFrame:
    """A table that a run logged: ``table(run_id, "test_predictions")``. Raises UserError with the names of those it has."""
    return _tables.table(connect(), run, name)


def comparison(run: str) -> Comparison:
    """The comparison that a run of ``compare`` kept, to be selected from, sampled, tabled and gone on with.

    Raises:
        UserError: for a run that is not there, or has none.
    """
    from layerwise.comparison.saving import load

    with _tables.artifact_folder(connect(), run, "comparison") as folder:
        return load(folder)


def leaderboard(
    filter: str | None = None, metric: str | None = None, studies: Sequence[str] = (), experiments: Names = None
) -> pd.DataFrame:
    """Finished studies and single runs that have a score, by dataset and metric, best on held-out items first.

    Columns: model, dataset, label, metric, test, test_low, test_high, cv, cv_low, cv_high, site, layer, pooler, classifier, majority,
    bag_of_words, shuffled, random_twin, selectivity, optimism, job, study, started, seconds, data_digest, train_digest,
    test_digest, seed, folds, repeats, run_id. ``metric``: one for all, such as auroc; by default each run's own.
    """
    return _standings.leaderboard(connect(), filter, metric, experiments, studies)


def best(
    filter: str | None = None, metric: str | None = None, studies: Sequence[str] = (), experiments: Names = None
) -> pd.DataFrame:
    """The best row of ``leaderboard`` for each model, dataset and metric, chosen by cross-validation and shown with its held-out score."""
    return _standings.best(leaderboard(filter, metric, studies, experiments))


def curves(board: pd.DataFrame | None = None, filter: str | None = None) -> pd.DataFrame:
    """Cross-validated score by layer of the rows of a ``leaderboard`` (by default of ``best(filter)``): label, model, dataset, metric, name,
    layer, site, score, low, high, pooler, classifier, run_id. Where several poolers or classifiers were tried, the best at each layer."""
    return _standings.curves(connect(), best(filter) if board is None else board)


def significance(
    board: pd.DataFrame | None = None,
    filter: str | None = None,
    runs: Sequence[str] = (),
    metric: str | None = None,
    correction: _significance.Correction = "holm",
    level: float = 0.05,
) -> pd.DataFrame:
    """Which differences are more than chance, for every pair on the same dataset: a, b, score_a, score_b, difference, low, high, test, n, p,
    p_corrected, significant, note.

    Paired on the same held-out items (exact McNemar or paired bootstrap), else on the same folds (corrected resampled t-test); pairs
    that share neither have no p-value and a note that says why.

    Args:
        board: rows of ``leaderboard`` to compare; by default ``best(filter, metric)``.
        runs: ids to compare instead; trials of a study may be among them.
        correction: of the p-values for their number: ``holm`` or ``benjamini_hochberg``.
    """
    server = connect()
    if runs:
        board = _standings.of_runs(server, runs, metric)
    elif board is None:
        board = best(filter, metric)
    return _significance.significance(server, board, correction, level)


def failures(filter: str | None = None, experiments: Names = None) -> pd.DataFrame:
    """Runs that failed or were stopped, latest first, and why: job, model, dataset, study, trial, status, error, started, seconds, name,
    run_id."""
    return _standings.failures(connect(), filter, experiments)


def difference(a: str, b: str, everything: bool = False) -> pd.DataFrame:
    """What differs between two runs (ids): section (run, config, model, data, code, result, metric), name, a, b, and for metrics
    difference (b less a). ``everything``: also what is alike."""
    return _differences.difference(connect(), a, b, everything)
