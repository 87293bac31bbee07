"""The texts of a probe's run, divided as they were there: those it was fitted on and those it never saw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerwise.errors import UserError

if TYPE_CHECKING:
    from layerwise.data.dataset import TextDataset
    from layerwise.jobs.probe import ProbeConfig
    from layerwise.tracking.server import Server


def texts_of(server: Server, uri: str) -> tuple[TextDataset, TextDataset]:
    """(development, held out) texts of the run of ``probe`` or ``search`` that logged a probe.

    Raises UserError for a probe in a folder, or of another job: its texts must be named.
    """
    from layerwise.data.load import load_dataset
    from layerwise.data.splits import train_test

    config = _config(server, uri)
    dataset = load_dataset(config.dataset)
    development, test = train_test(dataset, config.evaluation.test_size, config.seed)
    return dataset.select(development), dataset.select(test)


def _config(server: Server, uri: str) -> ProbeConfig:
    from layerwise.config import Layer, configure, parse_mapping, read_mapping
    from layerwise.jobs.probe import ProbeConfig
    from layerwise.jobs.search import SearchConfig
    from layerwise.tracking.lineage import probe_run
    from layerwise.tracking.query import config_of

    run_id = probe_run(server, uri)
    if run_id is None:
        raise UserError(f"{uri} belongs to no run, so its texts are not known: name them with texts.")
    job, text = config_of(server, run_id)
    where = f"config.yaml of run {run_id}"
    values = parse_mapping(text, where)
    if job == "probe":
        return configure(ProbeConfig, Layer(values, where))
    if job != "search":
        raise UserError(
            f"run {run_id} is of the job {job or '?'}, so the probe's texts are not known: name them with texts."
        )
    search = configure(SearchConfig, Layer(values, where))
    base: dict[str, Any] = dict(search.base)
    path = base.pop("config", None)
    layers = [Layer(read_mapping(Path(path).expanduser()), path)] if path is not None else []
    found = configure(ProbeConfig, *layers, Layer(base, where))
    if not search.datasets:
        return found
    named = server.client.get_run(run_id).data.tags.get("layerwise.dataset")
    one = next((dataset for dataset in search.datasets if dataset.name == named), search.datasets[0])
    from dataclasses import replace

    return replace(found, dataset=one)
