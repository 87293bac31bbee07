from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from layerwise.errors import UserError
from layerwise.models.scored_text import ScoredText
from layerwise.probes.token_scores import Extremes
from layerwise.reports.token_view import STRONGEST, Scale, extremes_view, token_view


def scored(text: str, scores: list[float], **fields) -> ScoredText:
    places = [match.span() for match in re.finditer(r"\S+", text)]
    return ScoredText(
        text, tuple(text[a:b] for a, b in places), np.array(places), np.array(scores),
        **{"meaning": "probability of 'true'", "neutral": 0.5, **fields},
    )  # fmt: skip


class Read(HTMLParser):
    """What a browser would show: the visible text of paragraphs, tags and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.shown: list[str] = []
        self._inside = 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside += tag == "p"

    def handle_endtag(self, tag):
        self._inside -= tag == "p"

    def handle_data(self, data):
        if self._inside:
            self.shown.append(data)

    @property
    def tokens(self) -> list[dict]:
        return [attrs for tag, attrs in self.tags if tag == "span" and "data-score" in attrs]


def strength(style: str) -> float:
    return float(re.search(r"rgba\(\d+,\d+,\d+,([\d.]+)\)", style)[1])


def test_the_text_is_shown_as_it_is_and_every_token_carries_its_score():
    page = Read(token_view([scored("Paris  is\nin France .", [0.1, 0.5, 0.9, 0.75, 0.5])]))
    assert "".join(page.shown) == "Paris  is\nin France ."
    assert [token["data-score"].split()[:2] for token in page.tokens] == [
        ["Paris", "0.1"], ["is", "0.5"], ["in", "0.9"], ["France", "0.75"], [".", "0.5"],
    ]  # fmt: skip


def test_colours_grow_with_the_distance_from_neutral_and_differ_by_side():
    page = Read(token_view([scored("a b c d", [0.1, 0.5, 0.7, 0.9])]))
    styles = [token["style"] for token in page.tokens]
    assert strength(styles[1]) == 0
    assert strength(styles[0]) == pytest.approx(strength(styles[3]), abs=0.01)
    assert strength(styles[2]) == pytest.approx(strength(styles[3]) / 2, abs=0.02)
    assert styles[0].split(",")[0] != styles[3].split(",")[0]


def test_black_text_stays_readable_on_the_strongest_colours():
    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    scale = Scale(np.array([0.0, 1.0]), 0.5)
    for score in (0.0, 1.0):
        red, green, blue, alpha = map(float, re.findall(r"[\d.]+", scale.colour(score)))
        assert alpha == STRONGEST
        over_white = [255 + (channel - 255) * alpha for channel in (red, green, blue)]
        contrast = (luminance(over_white) + 0.05) / (luminance((0x1A, 0x1A, 0x1A)) + 0.05)
        assert contrast > 4.5


def test_one_scale_for_all_texts_and_one_outlier_does_not_bleach_the_rest():
    ordinary = scored(" ".join("x" * 1 for _ in range(200)), [0.0] * 100 + [1.0] * 100, neutral=0.0)
    outlier = scored("y", [1000.0], neutral=0.0)
    page = Read(token_view([ordinary, outlier]))
    assert strength(page.tokens[150]["style"]) == strength(page.tokens[200]["style"]) == STRONGEST


def test_scores_without_a_neutral_point_are_coloured_around_their_middle():
    page = Read(token_view([scored("a b c", [100.0, 110.0, 120.0], neutral=None, meaning="predicted value")]))
    assert [strength(token["style"]) > 0 for token in page.tokens] == [True, False, True]


@pytest.mark.parametrize("scores", [[0.5, 0.5], [float("nan"), 0.5], [float("nan")] * 2])
def test_constant_and_missing_scores(scores):
    page = Read(token_view([scored("a b", scores)]))
    assert "".join(page.shown) == "a b"
    assert "nan" not in token_view([scored("a b", scores)]).lower()


def test_nothing_in_a_text_becomes_markup_or_script():
    evil = "<script>alert(1)</script> \"><img/src=x/onerror=alert(1)> ' & &lt;"
    text = scored(evil, [0.9] * len(evil.split()), meaning="probability of '<b>'")
    page = Read(token_view([text], title="</title><script>1</script>"))
    assert "".join(page.shown) == evil
    assert {tag for tag, _ in page.tags} <= {"html", "head", "meta", "title", "style", "body", "h1", "div", "span", "p"}
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script" not in policy


def test_special_tokens_and_shared_characters_are_marked():
    text = ScoredText(
        "é!", ("<s>", "é", "é", "!"), np.array([[-1, -1], [0, 1], [0, 1], [1, 2]]), np.full(4, 0.5), "p", 0.5
    )
    page = Read(token_view([text]))
    assert [("special" in token["class"]) for token in page.tokens] == [True, False, True, False]
    assert "".join(page.shown) == "<s>é·!"


def test_generated_tokens_are_told_from_the_prompt():
    page = Read(token_view([scored("the city is paris", [0.5] * 4, prompt_tokens=3)]))
    assert ["new" in token["class"] for token in page.tokens] == [False, False, False, True]
    assert "generated by the model" in token_view([scored("a b", [0.1, 0.2], prompt_tokens=1)])
    assert "generated by the model" not in token_view([scored("a b", [0.1, 0.2])])


def test_the_legend_says_what_and_from_where_to_where():
    page = token_view([scored("a b", [0.25, 0.75])])
    assert "probability of &#x27;true&#x27;" in page
    assert "≤ 0.25" in page
    assert "≥ 0.75" in page
    assert "no colour: 0.5" in page
    assert "≤ 0<" in token_view([scored("a b", [1e-7, 1 - 1e-7])])


def test_extremes_show_tokens_in_context():
    tokens = pd.DataFrame(
        {
            "rank": [1, 1], "side": ["highest", "lowest"], "text": [3, 0], "position": [2, 5], "token": ["<good>", "bad"],
            "score": [0.98, 0.02], "before": ["a & ", "so "], "after": [" day", ""],
        }
    )  # fmt: skip
    texts = pd.DataFrame(
        {
            "rank": [1, 1],
            "side": ["highest", "lowest"],
            "text": [3, 0],
            "score": [0.9, 0.1],
            "content": ["one", "<two>"],
        }
    )
    page = extremes_view(Extremes(texts, tokens, "probability", 0.5))
    assert ">a &amp; <b" in page
    assert "&lt;good&gt;</b> day<" in page
    assert "&lt;two&gt;" in page
    assert page.index("Tokens that score highest") < page.index("Tokens that score lowest")


def test_mistakes_are_told():
    with pytest.raises(UserError, match="no texts to show"):
        token_view([])
    with pytest.raises(UserError, match="one kind of score"):
        token_view([scored("a", [1.0]), scored("a", [1.0], meaning="decision value")])
