"""``probe`` on the real sets a person brings; skipped where they are not at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("path", "label", "classes"),
    [
        ("sms_spam/sms.tsv", None, {"ham", "spam"}),
        ("rotten_tomatoes", None, {"neg", "pos"}),
        ("ud_english_ewt", "sentence:Tense", {"Past", "Pres"}),
    ],
)
def test_probe_takes_a_set_as_it_is_found(
    run_job: Callable[..., Any],
    client: Any,
    tmp_path: Path,
    shared: Path,
    path: str,
    label: str | None,
    classes: set[str],
) -> None:
    data = str(shared / "data" / path)
    named = () if label is None else ("--dataset.label", label)
    run = run_job(
        "probe", "--dataset", data, *named, "--dataset.limit", "200", "--poolers", "mean", "--controls.random_twin", "false"
    )  # fmt: skip
    assert run.info.status == "FINISHED"
    assert run.data.tags["layerwise.dataset"] == data
    metrics = run.data.metrics
    assert metrics["test/accuracy_low"] <= metrics["test/accuracy"] <= metrics["test/accuracy_high"]
    judged = pd.read_parquet(
        client.download_artifacts(run.info.run_id, "tables/test_predictions.parquet", str(tmp_path))
    )
    assert 50 <= len(judged) < 100  # a quarter, or the split that the set brings
    assert set(judged["label"]) <= classes, judged.columns
    assert metrics["test/accuracy"] == pytest.approx((judged["label"] == judged["predicted"]).mean())
