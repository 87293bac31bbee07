"""``probe`` on texts put in several wordings: what is recorded of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd


def test_the_score_in_each_wording_and_in_unseen_ones_is_recorded(
    run_job: Callable[..., Any], client: Any, tmp_path: Path
) -> None:
    (tmp_path / "wordings.yaml").write_text(
        "dataset: {name: grammar, limit: 80, templates: ['{text}', 'True, or false: {text}']}\n"
        "controls: {shuffles: 0, control_tasks: 0}\n"
    )
    run = run_job("probe", "--config", "wordings.yaml", "--sites", "resid_post.1")
    assert {"confound/template_spread", "confound/unseen_template"} <= run.data.metrics.keys()
    for name in ("templates", "unseen_templates"):
        table = pd.read_parquet(client.download_artifacts(run.info.run_id, f"tables/{name}.parquet", str(tmp_path)))
        assert set(table["template"]) == {"{text}", "True, or false: {text}"}
        assert table["n"].sum() == 120


def test_templates_are_given_as_flags_too(run_job: Callable[..., Any]) -> None:
    run = run_job(
        "probe", "--dataset.name", "cities", "--dataset.limit", "60", "--dataset.templates", "So, {text}", "--sites", "resid_post.1",
        "--controls.shuffles", "0", "--controls.control_tasks", "0",
    )  # fmt: skip
    assert run.data.params["dataset.templates"] == '["So, {text}"]'
    assert "confound/template_spread" not in run.data.metrics
