"""``online`` from the command line to the tracking server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

import layerwise


def test_probes_are_trained_scored_and_the_best_kept(run_job: Callable[..., Any], client: Any, tmp_path: Path) -> None:
    words = ["good", "bad"]
    rows = [
        {"text": f"the {noun} was {words[k]} .", "label": words[k]}
        for noun in ("dog", "cat", "movie", "city") * 15
        for k in (0, 1)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "plain.csv", index=False)
    run = run_job(
        "online", "--dataset", "plain.csv", "--sites", "mlp_out.*,resid_post.1", "--pooler", "mean", "--epochs", "20"
    )
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/accuracy"] > 0.9
    found = pd.read_parquet(client.download_artifacts(run.info.run_id, "tables/sites.parquet", str(tmp_path)))
    assert found["site"].tolist() == ["mlp_out.0", "mlp_out.1", "resid_post.1"]
    assert len(client.get_metric_history(run.info.run_id, "test_curve/accuracy_mlp_out")) == 2
    probe = layerwise.load_probe(f"runs:/{run.info.run_id}")
    assert probe.predict(["the dog was good .", "the dog was bad ."])["label"].tolist() == ["good", "bad"]
