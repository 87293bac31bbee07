"""Charts of trainings, and the comparison of changes they draw."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from layerwise.jobs.train_ablations import differences
from layerwise.reports.training import ablation_chart, learning_curves, samples_page, samples_section

HISTORIES = {
    "batch/loss": [(1, 3.0), (2, 2.5), (3, 2.0)],
    "val/loss": [(3, 2.1), (0, 3.1)],
    "val/accuracy": [(0, 0.1), (3, 0.4)],
    "test/loss": [(3, 2.2)],
    "progress/tokens": [(1, 10.0), (2, 20.0)],
}


def test_a_curve_for_each_kind_of_metric() -> None:
    charts = learning_curves(HISTORIES, "copy")
    assert set(charts) == {"curve_loss", "curve_accuracy"}
    named = {one.name: one for one in charts["curve_loss"].series}
    assert set(named) == {"batch", "validation"}  # a test set has one value, and one value is no curve
    assert list(named["validation"].x) == [0, 3]
    assert list(named["validation"].y) == [3.1, 2.1]
    assert named["batch"].muted
    assert charts["curve_loss"].plotly().data


def test_changes_are_compared_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=6)
    other = base + 0.5 + 0.1 * rng.normal(size=6)
    broken = np.array([*base[:5] + 1, np.nan])
    rows = [
        {"training": name, "seed": seed, "value": value}
        for name, values in (("base", base), ("other", other), ("broken", broken))
        for seed, value in enumerate(values)
    ]
    table = differences(pd.DataFrame(rows)).set_index("change")
    theirs = stats.ttest_rel(other, base)
    assert table.loc["other", "difference"] == pytest.approx((other - base).mean())
    assert table.loc["other", "p"] == pytest.approx(theirs.pvalue)
    assert [table.loc["other", "low"], table.loc["other", "high"]] == pytest.approx(
        list(theirs.confidence_interval(0.95))
    )
    assert table.loc["broken", "pairs"] == 5
    assert list(table.index) == ["other", "broken"]
    chart = ablation_chart(table.reset_index(), "val/loss")
    assert chart.categories == ["broken", "other"]  # the larger first


def test_a_change_without_two_pairs_has_no_interval() -> None:
    values = pd.DataFrame(
        [
            {"training": "base", "seed": 0, "value": 1.0},
            {"training": "base", "seed": 1, "value": 1.0},
            {"training": "other", "seed": 0, "value": 2.0},
            {"training": "other", "seed": 1, "value": np.nan},
        ]
    )
    [row] = differences(values).to_dict("records")
    assert row["difference"] == 1
    assert np.isnan([row["low"], row["high"], row["p"], row["p_holm"]]).all()


def test_a_page_of_what_was_written() -> None:
    rows = [
        {"step": 0, "prompt": "ab>", "text": "<b>", "expected": "ab", "right": False},
        {"step": 20, "prompt": "ab>", "text": "ab", "expected": "ab", "right": True},
        {"step": 20, "prompt": "c", "text": "d", "expected": None, "right": None},
    ]
    page = samples_page([samples_section(20, rows[1:]), samples_section(0, rows[:1])], "a model")
    assert page.index("step 20") < page.index("step 0")
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert (page.count("✓ right"), page.count("✗ wrong")) == (1, 1)
    free = samples_section(1, rows[2:])
    assert "expected" not in free
    assert "right</td>" not in free
