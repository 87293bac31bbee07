"""What a model in training wrote at each evaluation, as one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from layerwise.reports.token_view import page

if TYPE_CHECKING:
    import pandas as pd

_STYLE = """
td { font-family: ui-monospace, monospace; overflow-wrap: anywhere; white-space: pre-wrap; } td.mark { white-space: nowrap; width: 4rem; }
.prompt { color: #595959; } .right { color: #00664f; } .wrong { color: #a33b00; }
"""
_MARKS = {True: '<td class="mark right">✓ right</td>', False: '<td class="mark wrong">✗ wrong</td>'}


def samples_page(samples: pd.DataFrame, title: str) -> str:
    """The page of a table with the columns step, prompt, text, expected and right, the last evaluation first.

    ``expected`` and ``right`` are empty for texts without a right answer; where all are, they are no columns of the page.
    """
    judged = bool(samples["right"].notna().any())
    parts = []
    for step in sorted(set(samples["step"].tolist()), reverse=True):
        written = samples[samples["step"] == step]
        rows = "".join(_row(row, judged) for row in written.to_dict("records"))
        head = "<th>written</th>" + ("<th>expected</th><th></th>" if judged else "")
        parts.append(f"<h2>step {step:,}</h2>\n<table><tr>{head}</tr>{rows}</table>")
    return page(title, parts, _STYLE)


def _row(row: Mapping[Any, Any], judged: bool) -> str:
    cells = f'<td><span class="prompt">{escape(row["prompt"])}</span>{escape(row["text"])}</td>'
    if judged:
        answered = row["right"] in (True, False)
        cells += f"<td>{escape(row['expected']) if answered else ''}</td>{_MARKS[bool(row['right'])] if answered else '<td></td>'}"
    return f"<tr>{cells}</tr>"
