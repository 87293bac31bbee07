"""Items as a person reads them: chosen ones in full, and all of them as a table that sorts and filters. Pages that need nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd

from layerwise.errors import UserError
from layerwise.reports.token_view import number, page

ROWS = 5000  # of the table's page; the Parquet table has all
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
_STYLE = """
.legend .bar { width: 2rem; }
.item { border-top: 1px solid #ddd; padding: 1rem 0; }
.item h2 { margin: 0 0 .3rem; } .prompt { margin: 0 0 .5rem; overflow-wrap: anywhere; white-space: pre-wrap; }
.item table { margin: .3rem 0 .5rem; } tr.true td.content { font-weight: 600; } td.chosen { background: rgba(59,111,182,.22); }
td.wrong { background: rgba(217,120,20,.3); } .features { color: #595959; font: .85rem/1.6 system-ui, sans-serif; }
.continuation { font: .9rem/1.5 system-ui, sans-serif; margin: .2rem 0; overflow-wrap: anywhere; white-space: pre-wrap; }
"""
_COLUMNS = (
    "td.long { max-width: 20rem; min-width: 11rem; }"  # many columns: what is long must not push the rest out of sight
)
_TABLE = """
"use strict";
const found = JSON.parse(document.getElementById("data").textContent);
const columns = found.columns.map((name, place) => ({
  name, number: found.numbers[place], long: found.long[place], value: (row) => row[place],
  cell: (row) => (typeof row[place] === "number" ? shown(row[place], Number.isInteger(row[place]) ? 0 : 4) : row[place] ?? ""),
}));
document.querySelector("section").append(sortableTable(columns, found.rows));
"""


@dataclass(frozen=True)
class ShownItem:
    """One item with what the models made of it.

    scores: by model, one number per option. chosen: by model, the option it takes; None where it takes none. truth: the right option, or
    None. features: by name.
    """

    number: int
    id: str
    prompt: str
    options: Sequence[str] = ()
    truth: int | None = None
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    chosen: Mapping[str, int | None] = field(default_factory=dict)
    continuations: Mapping[str, str] = field(default_factory=dict)
    features: Mapping[str, Any] = field(default_factory=dict)


def items_page(items: Sequence[ShownItem], score: str, title: str) -> str:
    """The items as one HTML page without scripts: what each model chose is shaded, in orange where it is wrong; the right option is bold.

    Raises UserError without items.
    """
    if not items:
        raise UserError("there are no items to show.")
    about = f'<div class="legend"><span>{escape(score)}</span><span class="bar" style="background:rgba(59,111,182,.22)"></span>'
    about += '<span>chosen</span><span class="bar" style="background:rgba(217,120,20,.3)"></span><span>chosen, and wrong</span></div>'
    return page(title, [about if any(item.options for item in items) else "", *map(_block, items)], _STYLE)


def table_page(frame: pd.DataFrame, title: str, note: str = "") -> str:
    """A frame as one HTML page: a click on a column's name sorts by it, a text under it filters."""
    shown = frame.head(ROWS)
    rest = f" The first {ROWS:,} of {len(frame):,} rows; the Parquet table has all." if len(frame) > ROWS else ""
    numbers = [
        pd.api.types.is_numeric_dtype(frame[name]) and not pd.api.types.is_bool_dtype(frame[name]) for name in frame
    ]
    data = {
        "columns": list(map(str, frame)), "numbers": numbers, "long": [_is_long(shown[name]) for name in shown],
        "rows": [[_plain(value) for value in row] for row in shown.itertuples(index=False)],
    }  # fmt: skip
    folder = files("layerwise.reports") / "page"
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "table.js"))
    # JSON that cannot end the script it stands in, whatever an item says.
    embedded = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title><style>{style}{_COLUMNS}</style></head>\n'
        f"<body><main><h1>{escape(title)}</h1><p class='soft'>{escape(note + rest)}</p><section></section></main>\n"
        f'<script id="data" type="application/json">{embedded}</script>\n<script>{script}</script>\n<script>{_TABLE}</script></body></html>\n'
    )


def _block(item: ShownItem) -> str:
    name = f"{item.number}" + (f" · {item.id}" if item.id != str(item.number) else "")
    parts = [f"<h2>{escape(name)}</h2>", f'<p class="prompt">{escape(item.prompt)}</p>']
    if item.options:
        head = "".join(f'<th class="score">{escape(model)}</th>' for model in item.scores)
        rows = "".join(_option(item, place) for place in range(len(item.options)))
        parts.append(f"<table><tr><th>option</th>{head}</tr>{rows}</table>")
    parts += [
        f'<p class="continuation"><b>{escape(model)}</b> {escape(text)}</p>'
        for model, text in item.continuations.items()
    ]
    said = " · ".join(f"{escape(key)} {escape(_said(value))}" for key, value in item.features.items())
    return f'<div class="item">{"".join(parts)}<p class="features">{said}</p></div>'


def _option(item: ShownItem, place: int) -> str:
    cells = ""
    for model, scores in item.scores.items():
        chosen = item.chosen.get(model) == place
        kind = "" if not chosen else " wrong" if item.truth is not None and item.truth != place else " chosen"
        cells += f'<td class="score{kind}">{number(float(scores[place]))}</td>'
    truth = ' class="true"' if place == item.truth else ""
    return f'<tr{truth}><td class="content">{escape(item.options[place])}</td>{cells}</tr>'


def _said(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return number(float(value)) if isinstance(value, (int, float, np.number)) else str(value)


def _is_long(column: pd.Series) -> bool:
    return any(isinstance(value, str) and len(value) > 30 for value in column)


def _plain(value: Any) -> Any:
    """What JSON can hold; lists as text, nothing for what is missing."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return " | ".join(_listed(item) for item in value)
    if value is None or value is pd.NA or (isinstance(value, (float, np.floating)) and not math.isfinite(value)):
        return None
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return value.item() if hasattr(value, "item") else value


def _listed(item: Any) -> str:
    return number(float(item)) if isinstance(item, (float, np.floating)) else str(item)
