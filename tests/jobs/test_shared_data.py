"""``probe`` on the real sets a person brings; skipped where they are not at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("path", "classes"), [("sms_spam/sms.tsv", {"ham", "spam"}), ("rotten_tomatoes", {"neg", "pos"})]
)
def test_probe_takes_a_set_as_it_is_found(
    run_job: Callable[..., Any], client: Any, tmp_path: Path, shared: Path, path: str, classes: set[str]
) -> None:
    data = str(shared / "data" / path)
    run = run_job(
        "probe", "--dataset", data, "--dataset.limit", "200", "--poolers", "mean", "--controls.random_twin", "false"
    )
    assert run.info.status == "FINISHED"
    assert run.data.tags["layerwise.dataset"] == data
    metrics = run.data.metrics
    assert metrics["test/accuracy_low"] <= metrics["test/accuracy"] <= metrics["test/accuracy_high"]
    judged = pd.read_parquet(
        client.download_artifacts(run.info.run_id, "tables/test_predictions.parquet", str(tmp_path))
    )
    assert len(judged) == 50
    assert set(judged["label"]) <= classes, judged.columns
    assert metrics["test/accuracy"] == pytest.approx((judged["label"] == judged["predicted"]).mean())
