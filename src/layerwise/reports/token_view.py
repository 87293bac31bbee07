"""Texts coloured by a probe's score on every token, as one HTML page that needs nothing else and runs no script.

Every token carries its score, so the page can be read without its colours: pointing at a token shows it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from layerwise.errors import UserError

if TYPE_CHECKING:
    from layerwise.models.scored_text import ScoredText
    from layerwise.probes.token_scores import Extremes

# Blue and orange stay apart for every kind of colour vision, and black text stays readable on both.
LOW, HIGH = (59, 111, 182), (217, 120, 20)
STRONGEST = 0.62

_STYLE = """
:root { color-scheme: light; }
body { background: #fff; color: #1a1a1a; font: 16px/1.9 Georgia, serif; margin: 2rem auto; max-width: 56rem; padding: 0 1rem; }
h1, h2 { font: 600 1.3rem/1.3 system-ui, sans-serif; } h2 { font-size: 1rem; margin-top: 2rem; }
.text { border-top: 1px solid #ddd; margin: 0; padding: .8rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.number { color: #767676; font: .75rem system-ui, sans-serif; margin-right: .6rem; }
.t { border-radius: 2px; position: relative; }
.special { color: #595959; font: .75em ui-monospace, monospace; }
.new { border-bottom: 2px solid #444; }
.t:hover { outline: 1px solid #1a1a1a; }
.t:hover::after { background: #1a1a1a; border-radius: 3px; color: #fff; content: attr(data-score); font: .8rem/1.4 system-ui, sans-serif;
  left: 0; padding: .15rem .45rem; pointer-events: none; position: absolute; top: 1.7em; white-space: pre; z-index: 1; }
.legend { align-items: center; display: flex; flex-wrap: wrap; font: .85rem system-ui, sans-serif; gap: .6rem; margin: 1rem 0; }
.bar { border: 1px solid #ccc; height: .9rem; width: 14rem; }
table { border-collapse: collapse; font: .9rem/1.5 system-ui, sans-serif; width: 100%; }
td, th { border-bottom: 1px solid #e3e3e3; padding: .3rem .6rem; text-align: left; vertical-align: top; }
td.score, th.score { font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap; width: 5rem; }
td.content { overflow-wrap: anywhere; white-space: pre-wrap; }
"""


class Scale:
    """From scores to colours: blue below ``middle``, orange above, full strength ``reach`` away from it."""

    def __init__(self, scores: np.ndarray, neutral: float | None) -> None:
        finite = scores[np.isfinite(scores)]
        if neutral is None:
            low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
            self.middle = (low + high) / 2
        else:
            self.middle = neutral
        distances = np.abs(finite - self.middle)
        # One extreme token must not bleach all others.
        self.reach = float(np.quantile(distances, 0.98)) if len(finite) else 0.0
        self.reach = self.reach or float(distances.max(initial=0.0)) or 1.0

    def colour(self, score: float) -> str:
        """CSS of a score; white for one that is missing."""
        if not math.isfinite(score):
            return "transparent"
        strength = min(abs(score - self.middle) / self.reach, 1.0) * STRONGEST
        red, green, blue = HIGH if score > self.middle else LOW
        return f"rgba({red},{green},{blue},{strength:.3f})"

    def legend(self, meaning: str) -> str:
        """A bar from the lowest to the highest colour with its numbers."""
        digits = 2 - math.floor(math.log10(self.reach))
        low, high = (round(self.middle + side * self.reach, digits) + 0.0 for side in (-1, 1))
        stops = ", ".join(self.colour(low + (high - low) * part / 8) for part in range(9))
        return (
            f'<div class="legend"><span>{escape(meaning)}</span><span>≤ {number(low)}</span>'
            f'<span class="bar" style="background:linear-gradient(to right, {stops})"></span>'
            f"<span>≥ {number(high)}</span><span>no colour: {number(self.middle)}</span></div>"
        )


def number(value: float) -> str:
    """Three significant digits, a real minus sign; a dash for what is missing."""
    return f"{value:.3g}".replace("-", "−") if math.isfinite(value) else "–"


def token_view(texts: Sequence[ScoredText], title: str = "Token scores") -> str:
    """Texts, each token coloured by its score on one scale for all of them; generated tokens are underlined.

    Raises UserError without texts, or for texts whose scores mean different things.
    """
    if not texts:
        raise UserError("there are no texts to show.")
    meanings = {text.meaning for text in texts}
    if len(meanings) > 1:
        raise UserError(f"one page shows one kind of score, got: {', '.join(sorted(meanings))}.")
    scale = Scale(np.concatenate([text.scores for text in texts]), texts[0].neutral)
    numbered = len(texts) > 1
    parts = [scale.legend(texts[0].meaning)]
    if any(text.prompt_tokens is not None for text in texts):
        parts.append('<div class="legend"><span class="new">underlined</span> generated by the model</div>')
    for index, text in enumerate(texts):
        label = f'<span class="number">{index}</span>' if numbered else ""
        parts.append(f'<p class="text">{label}{_spans(text, scale)}</p>')
    return page(title, parts)


def extremes_view(extremes: Extremes, title: str = "Where the probe is surest") -> str:
    """The tokens and texts that score highest and lowest, as tables; tokens in their context."""
    parts: list[str] = []
    token_scale = Scale(extremes.tokens["score"].to_numpy(dtype=float), extremes.neutral)
    parts.append(token_scale.legend(extremes.meaning))
    for side in ("highest", "lowest"):
        rows = extremes.tokens[extremes.tokens["side"] == side]
        parts += [f"<h2>Tokens that score {side}</h2>", _token_table(rows, token_scale)]
    for side in ("highest", "lowest"):
        rows = extremes.texts[extremes.texts["side"] == side]
        parts += [f"<h2>Texts that score {side}</h2>", _text_table(rows)]
    return page(title, parts)


def _spans(text: ScoredText, scale: Scale) -> str:
    """The text with a span per token; what lies between tokens stays as it is, tokens without a place are named."""
    parts: list[str] = []
    shown = 0
    generated_from = len(text) if text.prompt_tokens is None else text.prompt_tokens
    for index, (token, (start, end), score) in enumerate(
        zip(text.tokens, text.offsets.tolist(), text.scores, strict=True)
    ):
        kind = "t"
        if start < 0:
            content, kind = token, "t special"
        else:
            # Tokens of one character's bytes share its place: the first of them shows it.
            parts.append(escape(text.text[shown:start]))
            content = text.text[max(start, shown) : end]
            shown = max(shown, end)
            if not content:
                content, kind = "·", "t special"
        if index >= generated_from:
            kind += " new"
        tip = f"{visible(token)}  {number(float(score))}  token {index}"
        parts.append(
            f'<span class="{kind}" style="background:{scale.colour(float(score))}" data-score="{escape(tip)}">{escape(content)}</span>'
        )
    return "".join([*parts, escape(text.text[shown:])])


def visible(token: str) -> str:
    """A token with its spaces and line breaks to be seen."""
    return token.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")


def _token_table(rows: pd.DataFrame, scale: Scale) -> str:
    body = "".join(
        f'<tr><td class="score">{number(row["score"])}</td><td>{row["text"]}</td><td class="content">{escape(row["before"])}'
        f'<b style="background:{scale.colour(row["score"])}">{escape(row["token"])}</b>{escape(row["after"])}</td></tr>'
        for row in rows.to_dict("records")
    )
    return f'<table><tr><th class="score">score</th><th>text</th><th>token in its context</th></tr>{body}</table>'


def _text_table(rows: pd.DataFrame) -> str:
    body = "".join(
        f'<tr><td class="score">{number(row["score"])}</td><td>{row["text"]}</td><td class="content">{escape(row["content"])}</td></tr>'
        for row in rows.to_dict("records")
    )
    return f'<table><tr><th class="score">score</th><th>text</th><th>content</th></tr>{body}</table>'


def page(title: str, parts: Sequence[str], style: str = "") -> str:
    """One HTML page of these parts in the look of token views; ``style`` is added to it. No script runs on it."""
    # No script may run here, whatever a text contains; escaping is the first line, this the second.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
