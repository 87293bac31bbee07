"""The bundled tasks, and those that a person names by path."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from layerwise.data.custom import find_function, names_loader
from layerwise.data.generators.numbers import in_words
from layerwise.data.generators.tables import listed, read_table
from layerwise.data.tasks.price_tagging import NO, YES, price_prompt
from layerwise.errors import UserError, unknown
from layerwise.interventions.alignment.causal_model import CausalModel, Setting, Variable
from layerwise.interventions.alignment.networks import learn_equality, learn_words
from layerwise.interventions.alignment.tasks import AlignmentTask, Spans, TextTask, VectorTask

NUMBERS = 4  # of one shape
PRICES = 20
TERMS = 6  # the largest number of a sum
HELD_OUT = 0.25  # share of nouns and numbers that training never sees


def agreement() -> TextTask:
    """ "The teachers near the nurse" → are. Variable: the ``number`` of the subject; another noun stands between.

    Held out are the last quarter of the nouns, as subjects.
    """
    rows = [
        (tuple(noun.split("/")), row["prepositions"]) for row in read_table("grammar") for noun in listed(row["nouns"])
    ]
    nouns = tuple(noun for noun, _ in rows)
    between = dict(rows)
    late = set(nouns[round(len(nouns) * (1 - HELD_OUT)) :])
    causal = CausalModel(
        [
            Variable("noun", values=nouns),
            Variable("form", values=("singular", "plural")),
            Variable("other", values=tuple(form for noun in nouns for form in noun)),
            Variable("number", ("form",), lambda form: form),
            Variable("verb", ("number",), lambda number: "is" if number == "singular" else "are"),
        ]
    )

    def text(setting: Setting) -> tuple[str, Spans]:
        subject = setting["noun"][setting["form"] == "plural"]
        begin = f"The {subject} {between[setting['noun']]} the "
        whole = begin + setting["other"]
        return whole, {"subject": (4, 4 + len(subject)), "noun": (len(begin), len(whole))}

    words = {"is": " is", "are": " are"}
    return TextTask("agreement", causal, ("is", "are"), text, words, lambda setting: setting["noun"] in late)


def arithmetic() -> TextTask:
    """ "one plus two plus four equals" → seven, of numbers up to six. Variable: ``a+b``, the sum on the way.

    Held out are every fourth of the sums. Without a model, a small Llama is trained on the others.
    """
    causal = CausalModel(
        [
            *(Variable(name, values=range(1, TERMS + 1)) for name in "abc"),
            Variable("a+b", ("a", "b"), lambda a, b: a + b),
            Variable("sum", ("a+b", "c"), lambda part, c: part + c),
        ]
    )

    def text(setting: Setting) -> tuple[str, Spans]:
        whole, parts = "", {}
        for name, after in (("a", " plus "), ("b", " plus "), ("c", " equals")):
            word = in_words(setting[name])
            parts[name] = (len(whole), len(whole) + len(word))
            whole += word + after
        return whole, {**parts, "plus": (parts["b"][1] + 1, parts["b"][1] + 5)}

    def held_out(setting: Setting) -> bool:
        return bool((setting["a"] + 2 * setting["b"] + 3 * setting["c"]) % 4 == 0)

    answers = tuple(range(3, 3 * TERMS + 1))
    words = {number: f" {in_words(number)}" for number in answers}
    return TextTask("arithmetic", causal, answers, text, words, held_out, learn_words)


def price_tagging() -> TextTask:
    """ "from 3 to 8 : 5 ?" → yes. Variables: ``above``, not below the lower bound, and ``below``, not above the upper one.

    Held out are every fourth of the pairs of bounds. Without a model, a small Llama is trained on it.
    """
    prices = range(PRICES)

    def bounds(value: bool, random: Random) -> tuple[int, int]:
        one, other = sorted((random.choice(prices), random.choice(prices)))
        return (one, other) if value else (min(other + 1, PRICES - 1), one)

    causal = CausalModel(
        [
            *(Variable(name, values=prices) for name in ("low", "high", "amount")),
            Variable("above", ("low", "amount"), lambda low, amount: amount >= low, causes=bounds),
            Variable(
                "below",
                ("high", "amount"),
                lambda high, amount: amount <= high,
                causes=lambda value, random: bounds(value, random)[::-1],
            ),
            Variable("answer", ("above", "below"), lambda above, below: YES if above and below else NO),
        ]
    )

    def text(setting: Setting) -> tuple[str, Spans]:
        symbols = price_prompt(setting["low"], setting["high"], setting["amount"])
        whole = " ".join(symbols)
        parts = {}
        for name, place in (("low", 1), ("high", 3), ("amount", 5)):
            start = len(" ".join(symbols[:place])) + 1
            parts[name] = (start, start + len(symbols[place]))
        return whole, parts

    def held_out(setting: Setting) -> bool:
        return bool((7 * setting["low"] + 3 * setting["high"]) % 4 == 0)

    return TextTask(
        "price_tagging", causal, (YES, NO), text, {YES: f" {YES}", NO: f" {NO}"}, held_out, learn_words,
        allowed=lambda setting: setting["low"] <= setting["high"],
    )  # fmt: skip


def hierarchical_equality() -> VectorTask:
    """Four shapes w x y z of four numbers each: is w = x the same as y = z? Variables: ``first_equal``, ``second_equal``.

    Shapes are drawn anew each time, so held-out ones were never seen. A network of three hidden layers is trained on it.
    """

    def shape(random: Random) -> tuple[float, ...]:
        return tuple(random.uniform(-1, 1) for _ in range(NUMBERS))

    def pair(equal: bool, random: Random) -> tuple[tuple[float, ...], tuple[float, ...]]:
        first = shape(random)
        return first, first if equal else shape(random)

    both = (False, True)
    causal = CausalModel(
        [
            *(Variable(name, draw=shape) for name in "wxyz"),
            Variable("first_equal", ("w", "x"), lambda w, x: w == x, values=both, causes=pair),
            Variable("second_equal", ("y", "z"), lambda y, z: y == z, values=both, causes=pair),
            Variable("same", ("first_equal", "second_equal"), lambda first, second: first == second, values=both),
        ]
    )
    return VectorTask(
        "hierarchical_equality", causal, both, lambda setting: [number for name in "wxyz" for number in setting[name]],
        learn=learn_equality,
    )  # fmt: skip


BUNDLED: dict[str, Callable[[], AlignmentTask]] = {
    "agreement": agreement, "arithmetic": arithmetic, "price_tagging": price_tagging, "hierarchical_equality": hierarchical_equality,
}  # fmt: skip


def find_task(name: str) -> AlignmentTask:
    """A bundled task, or what a function of one's own, ``file.py:name`` or ``package.module.name``, returns."""
    if name in BUNDLED:
        return BUNDLED[name]()
    if not names_loader(name):
        raise unknown("task", name, [*BUNDLED, "file.py:name"])
    made: Any = find_function(name, "task")()
    if not isinstance(made, TextTask | VectorTask):
        raise UserError(f"{name} returns {type(made).__name__}, where a TextTask or VectorTask is needed.")
    return made
