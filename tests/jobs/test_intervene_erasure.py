"""``intervene`` with ``erasure``: what probes still find, what the model still does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from layerwise.__main__ import main

QUICK = (
    "intervene",
    "--intervention",
    "erasure",
    "--texts",
    "numbers",
    "--texts.limit",
    "80",
    "--intervention.neutral.limit",
    "4",
)


def table(client: Any, run: Any, name: str, folder: Path) -> pd.DataFrame:
    return pd.read_parquet(client.download_artifacts(run.info.run_id, f"tables/{name}.parquet", str(folder)))


def test_a_concept_is_erased_everywhere_and_looked_for(
    run_job: Callable[..., Any], client: Any, tmp_path: Path
) -> None:
    from layerwise.tracking.servable_steered import load_steered

    words = ("dog", "cat", "she", "he", "the", "a", "runs", "four", "five", "city")
    rows = [f"{one} {two} {last},{last}" for one in words for two in words[:4] for last in ("smaller", "larger")]
    Path("sizes.csv").write_text("\n".join(["text,label", *rows]))
    flags = ("--texts", "sizes.csv", "--intervention.question.prompt", "four {text} five", "--intervention.rounds", "2")
    run = run_job(*QUICK[:3], *QUICK[-2:], *flags)
    probes = table(client, run, "decodable", tmp_path)
    assert set(probes["method"]) == {"nothing erased", "leace", "inlp", "mean_projection", "random"}
    assert probes.groupby("method")["layer"].apply(list).map(len).eq(2).all()
    leace = probes[probes["method"] == "leace"]
    # Nothing linear is left in the texts it was fitted to; random directions leave it all.
    assert leace["training_accuracy"].max() <= 0.6
    assert probes[probes["method"] == "random"]["training_accuracy"].min() == 1
    arms = table(client, run, "arms", tmp_path).set_index("method")
    assert arms.loc["nothing erased", "effect"] == 0
    assert (arms.drop("nothing erased")["effect"].abs() > 0).all()
    assert 1 <= arms.loc["inlp", "rank"] <= 2
    np.testing.assert_allclose(run.data.metrics["perplexity/leace"], arms.loc["leace", "perplexity"])
    figures = {item.path for item in client.list_artifacts(run.info.run_id, "figures")}
    assert {"figures/decodable.html", "figures/decodable.png"} <= figures
    erased = load_steered(f"runs:/{run.info.run_id}/erased_leace").intervened
    assert [step.operation.kind for step in erased.plan.steps] == ["erase", "erase"]


def test_each_site_alone(run_job: Callable[..., Any], client: Any, tmp_path: Path) -> None:
    run = run_job(
        *QUICK, "--intervention.apart", "--intervention.methods", "leace,random", "--intervention.tokens", "all"
    )
    arms = table(client, run, "arms", tmp_path)
    assert sorted(arms["site"]) == ["", "resid_post.0", "resid_post.0", "resid_post.1", "resid_post.1"]
    figures = {item.path for item in client.list_artifacts(run.info.run_id, "figures")}
    assert {"figures/effect_by_site.html", "figures/perplexity_by_site.png"} <= figures


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "name labelled texts"),
        (("--texts", "numbers", "--intervention.rounds", "0"), "at least 1"),
        (("--texts", "numbers", "--intervention.methods", "leaze"), "leace"),
    ],
)
def test_mistakes_are_told(
    run_job: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    tiny_model_folder: Path,
    flags: tuple[str, ...],
    message: str,
) -> None:
    assert main(["intervene", "--model", str(tiny_model_folder), "--intervention", "erasure", *flags]) == 2
    assert message in capsys.readouterr().err
