"""What a model in training wrote, a section for each evaluation, as one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from layerwise.reports.token_view import page

_STYLE = """
td { font-family: ui-monospace, monospace; overflow-wrap: anywhere; white-space: pre-wrap; } td.mark { white-space: nowrap; width: 4rem; }
.prompt { color: #595959; } .right { color: #00664f; } .wrong { color: #a33b00; }
"""
_MARKS = {True: '<td class="mark right">✓ right</td>', False: '<td class="mark wrong">✗ wrong</td>'}


def samples_page(sections: Sequence[str], title: str) -> str:
    """The page of the sections of a training's evaluations, in the order given."""
    return page(title, sections, _STYLE)


def samples_section(step: int, samples: Sequence[Mapping[str, Any]]) -> str:
    """What was written at one evaluation, as HTML: rows with prompt, text, expected and right.

    ``expected`` and ``right`` are empty for texts without a right answer; where all are, they are no columns of the table.
    """
    judged = any(row["right"] in (True, False) for row in samples)
    head = "<th>written</th>" + ("<th>expected</th><th></th>" if judged else "")
    rows = "".join(_row(row, judged) for row in samples)
    return f"<h2>step {step:,}</h2>\n<table><tr>{head}</tr>{rows}</table>"


def _row(row: Mapping[Any, Any], judged: bool) -> str:
    cells = f'<td><span class="prompt">{escape(row["prompt"])}</span>{escape(row["text"])}</td>'
    if judged:
        answered = row["right"] in (True, False)
        cells += f"<td>{escape(row['expected']) if answered else ''}</td>{_MARKS[bool(row['right'])] if answered else '<td></td>'}"
    return f"<tr>{cells}</tr>"
