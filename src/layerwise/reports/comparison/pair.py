"""Charts of two models on the same items: their scores against each other, and what they get right by kind of item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from layerwise.reports.comparison.charts import Bar, Bars, Scatter
from layerwise.reports.comparison.items import ShownItem, items_page
from layerwise.reports.heat_map import HeatMap

if TYPE_CHECKING:
    from layerwise.comparison.comparison import Comparison

MOST_BARS = 40
SCORE_NAMES = {
    "statement": "log p of the whole statement, nats",
    "option": "log p of the option, nats",
    "per_token": "log p of the option per token, nats",
    "per_byte": "log p of the option per byte, nats",
}


def margin_scatter(comparison: Comparison, a: str, b: str) -> Scatter:
    """Each item by how far each model prefers one option: the right one over the best other, or the first where none is known to be right."""
    items = comparison.items
    known = items.truth is not None and bool((items.truth >= 0).any())
    option = (
        np.where(items.truth >= 0, items.truth, -1) if items.truth is not None and known else np.zeros(len(items), int)
    )
    x, y = (_margins(comparison.behaviours[model].scores(comparison.kind), option) for model in (a, b))
    which = "right option over the best other" if known else "first option over the best other"
    sides = (
        {"both right": (x > 0) & (y > 0), f"only {a}": (x > 0) & (y <= 0), f"only {b}": (x <= 0) & (y > 0), "neither": (x <= 0) & (y <= 0)}
        if known
        else {"agree": (x > 0) == (y > 0), "differ": (x > 0) != (y > 0)}
    )  # fmt: skip
    return Scatter(f"Margin of the {which}", a, b, x, y, items.prompts, sides)


def _margins(scores: list[np.ndarray], option: np.ndarray) -> np.ndarray:
    """(n,) score of an option less the best other's; NaN where there is no such option or no other."""
    found = np.full(len(scores), np.nan)
    for row, (values, place) in enumerate(zip(scores, option, strict=True)):
        if place >= 0 and len(values) > 1:
            found[row] = values[place] - np.delete(values, place).max()
    return found


def category_bars(table: pd.DataFrame, column: str, feature: str, a: str, b: str) -> Bars:
    """Both models' mean of a feature at each value of a column, as ``differences_by`` has it; those that differ most surely come first."""
    whole = table.iloc[-1:]
    parts = table.iloc[:-1]
    order = parts.assign(size=-parts["difference"].abs()).sort_values(["p", "size"], kind="stable").index[:MOST_BARS]
    shown = pd.concat([whole, parts.loc[order]])
    bars = [
        Bar(name, shown[f"mean_{side}"].tolist(), shown[f"low_{side}"].tolist(), shown[f"high_{side}"].tolist())
        for side, name in (("a", a), ("b", b))
    ]
    inside = shown[["low_a", "low_b"]].min().min() >= 0 and shown[["high_a", "high_b"]].max().max() <= 1
    title = f"{_words(feature).capitalize()} by {_words(column)}"
    return Bars(title, _words(feature), shown["value"].tolist(), shown["n"].tolist(), bars, (0, 1) if inside else None)


def dependency_bars(table: pd.DataFrame, column: str, feature: str) -> Bars:
    """A feature of a pair by a column, as a dependency table has it."""
    shown = pd.concat(
        [table.iloc[-1:], table.iloc[:-1].sort_values("mean", ascending=False, kind="stable")[:MOST_BARS]]
    )
    inside = shown["mean"].between(0, 1).all()
    bar = Bar(_words(feature), *(shown[name].tolist() for name in ("mean", "low", "high")))
    return Bars(
        f"{_words(feature).capitalize()} by {_words(column)}", _words(feature), shown["value"].tolist(), shown["n"].tolist(), [bar],
        (0, 1) if inside else None,
    )  # fmt: skip


def pair_map(table: pd.DataFrame, models: tuple[str, ...], measure: str, title: str) -> HeatMap:
    """A measure of every pair of models, as a symmetric matrix; the diagonal stays empty."""
    values = np.full((len(models), len(models)), np.nan)
    for row in table.to_dict("records"):
        i, j = models.index(row["a"]), models.index(row["b"])
        values[i, j] = values[j, i] = row[measure]
    return HeatMap(title, "", "", models, models, values, measure.rpartition("/")[2].replace("_", " "))


def shown_items(comparison: Comparison, numbers: np.ndarray | None = None) -> list[ShownItem]:
    """What is to be shown of every item, under ``numbers`` where they are a choice of more."""
    items = comparison.items
    scores = {model: behaviour.scores(comparison.kind) for model, behaviour in comparison.behaviours.items()}
    choices = {model: behaviour.choices(comparison.kind) for model, behaviour in comparison.behaviours.items()}
    texts = {model: one.continuations for model, one in comparison.behaviours.items() if one.continuations is not None}
    features = {**items.columns, **_together(comparison)}
    found = []
    for row in range(len(items)):
        found.append(
            ShownItem(
                int(row if numbers is None else numbers[row]), items.ids[row], items.prompts[row], items.options[row],
                int(items.truth[row]) if items.truth is not None and items.truth[row] >= 0 else None,
                {model: values[row].tolist() for model, values in scores.items()} if items.options[row] else {},
                {model: int(values[row]) for model, values in choices.items()},
                {model: values[row] for model, values in texts.items()},
                {name: values[row] for name, values in features.items()},
            )
        )  # fmt: skip
    return found


def items_html(comparison: Comparison, title: str, numbers: np.ndarray | None = None) -> str:
    """The items of a comparison as a page: what each model chose, what is right, all features."""
    return items_page(shown_items(comparison, numbers), SCORE_NAMES[comparison.kind], title)


def _together(comparison: Comparison) -> dict[str, Any]:
    """Features by name: those of models side by side in their order, those of the only pair without its name."""
    found: dict[str, Any] = {}
    by_name: dict[str, list[np.ndarray]] = {}
    for (name, models), values in comparison.features.items():
        if len(models) == 1:
            by_name.setdefault(name, []).append(values)
            found[name] = None
        else:
            found[name if len(comparison.models) == 2 else f"{name} ({', '.join(models)})"] = values
    for name, columns in by_name.items():
        found[name] = [" / ".join(_short(value) for value in row) for row in zip(*columns, strict=True)]
    return found


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, (float, np.floating)) else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")
