"""What comparisons look like: token pages, item pages, bars and scatters, each from plain frames."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from layerwise.errors import UserError
from layerwise.reports.comparison.charts import Bar, Bars, Scatter
from layerwise.reports.comparison.items import ShownItem, items_page, table_page
from layerwise.reports.comparison.tokens import compared_tokens
from layerwise.reports.heat_map import HeatMap

TEXTS = ["Rome is in Italy.", "naïve"]
TABLE = pd.DataFrame(
    {
        "text": [0, 0, 0, 0, 1],
        "start": [0, 4, 7, 10, 0],
        "end": [4, 7, 9, 17, 5],
        "token": ["Rome", " is", " in", " Italy.", "naïve"],
        "kl": [np.nan, 0.5, 0.1, 2.0, 0.2],
        "entropy_difference": [np.nan, -1.0, 1.0, 0.0, 0.5],
        "top_a": [[], [" is", " was"], [" in"], ["<script>"], ["x"]],
    }
)
MEASURES = {"kl": "KL(a ‖ b), nats", "entropy_difference": "entropy of a less that of b"}


class Read(HTMLParser):
    """The tokens of a page: content, style, tip; scripts and the text without tokens."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tokens: list[tuple[str, str, str]] = []
        self.scripts, self.text, self.inside = 0, "", False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.scripts += tag == "script"
        self.inside = self.inside or given.get("class") == "text"
        if tag == "span" and str(given.get("class", "")).startswith("t"):
            self.tokens.append(("", given["style"], given["data-score"]))

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "p"

    def handle_data(self, data):
        if self.inside:
            self.text += data


def test_tokens_carry_every_measure_and_everything_is_told_on_hover() -> None:
    page = compared_tokens(TEXTS, TABLE, MEASURES, ["top_a"], "a and b")
    read = Read(page)
    assert "Rome is in Italy." in read.text
    assert "naïve" in read.text
    strength = [float(re.search(r"--c0:rgba\(.*?,([\d.]+)\)", style)[1]) for _, style, _ in read.tokens[1:4]]
    assert strength[2] > strength[0] > strength[1] > 0
    assert "--c0:transparent" in read.tokens[0][1]
    blue, orange = (re.search(r"--c1:rgba\((\d+),", style)[1] for _, style, _ in read.tokens[1:3])
    assert int(blue) < int(orange)
    tip = read.tokens[1][2].split("\n")
    assert tip[0] == "␣is   characters 4 to 7"
    assert any(line.split() == ["kl", "0.5"] for line in tip)
    assert any(line.split() == ["top_a", "␣is", "␣was"] for line in tip)
    assert read.scripts == 0
    assert "KL(a ‖ b), nats" in page
    assert page.count('type="radio"') == 2


def test_one_measure_needs_no_choice_and_gaps_between_tokens_stay_as_they_are() -> None:
    page = compared_tokens(TEXTS[:1], TABLE[:4].drop(index=2), {"kl": "KL"}, [], "x")
    assert 'type="radio"' not in page
    assert "Rome is in Italy." in Read(page).text


@pytest.mark.parametrize(
    ("table", "measures", "message"),
    [
        (TABLE[:0], MEASURES, "no tokens to show"),
        (TABLE, {}, "name a measure"),
        (TABLE, {"lk": "x"}, "unknown column of tokens 'lk'. Did you mean 'kl'?"),
    ],
)
def test_pages_of_tokens_say_what_they_lack(table, measures, message) -> None:
    with pytest.raises(UserError) as error:
        compared_tokens(TEXTS, table, measures, [], "x")
    assert message in str(error.value)


ITEM = ShownItem(
    3, "q7", "Rome is in\n<b>", ("Italy", "Spain"), 0, {"a": [-1.0, -2.0], "b": [-3.0, -0.5]}, {"a": 0, "b": 1},
    {"a": "Italy, of course"}, {"log_disagreement": 0.25, "category": "capitals"},
)  # fmt: skip


def test_an_item_shows_choices_truth_scores_and_features() -> None:
    page = items_page([ITEM], "log p", "chosen")
    assert "<b>\n" not in page
    assert re.search(r'<tr class="true"><td class="content">Italy</td><td class="score chosen">−1</td>', page)
    assert 'class="score wrong">−0.5' in page
    assert "Italy, of course" in page
    with pytest.raises(UserError, match="no items to show"):
        items_page([], "log p", "x")


def test_an_item_without_a_known_truth_is_not_called_wrong() -> None:
    page = items_page([ShownItem(0, "0", "p", ("x", "y"), None, {"a": [0.0, 1.0]}, {"a": 1})], "log p", "t")
    assert 'class="score chosen"' in page
    assert 'class="score wrong"' not in page


def test_the_table_page_holds_the_rows_as_data_that_cannot_end_its_script() -> None:
    frame = pd.DataFrame({"prompt": ["</script><script>alert(1)</script>", "b"], "x": [0.5, np.nan], "right": [True, False], "scores": [[1.0, 2.0], [3.0]]})  # fmt: skip
    page = table_page(frame, "items")
    data = json.loads(re.search(r'application/json">(.*?)</script>', page, re.S)[1])
    assert data["rows"][0] == ["</script><script>alert(1)</script>", 0.5, "yes", "1 | 2"]
    assert data["rows"][1][1] is None
    assert data["numbers"] == [False, True, False, False]
    assert page.count("<script") == 3


def test_bars_hold_intervals_and_scatters_leave_out_what_is_missing() -> None:
    bars = Bars("t", "accuracy", ["x", "y"], [3, 4], [Bar("a", [0.5, 0.6], [0.4, 0.1], [0.9, 0.7])], (0, 1))
    trace = bars.plotly().data[0]
    assert trace.error_x.array == pytest.approx((0.4, 0.1))
    assert trace.error_x.arrayminus == pytest.approx((0.1, 0.5))
    assert list(trace.y) == ["x (n=3)", "y (n=4)"]
    x, y = np.array([0.0, 1.0, np.nan]), np.array([1.0, 0.0, 2.0])
    scatter = Scatter("t", "a", "b", x, y, ["p", "q", "r"], {"agree": np.array([True, False, True]), "differ": np.array([False, True, False])})  # fmt: skip
    traces = scatter.plotly().data[1:]
    assert [trace.name for trace in traces] == ["agree (1)", "differ (1)"]
    assert [len(trace.x) for trace in traces] == [1, 1]
    for chart in (bars, scatter):
        assert chart.picture().axes[0].get_title(loc="left") == "t"


def test_a_map_with_a_middle_reaches_as_far_either_way() -> None:
    heat = HeatMap("t", "x", "y", ["0"], ["0", "1"], np.array([[-0.1], [0.4]]), "v", middle=0.0)
    trace = heat.plotly().data[0]
    assert (trace.zmin, trace.zmax) == (-0.4, 0.4)
    assert heat.picture().axes[0].images[0].get_clim() == (-0.4, 0.4)
