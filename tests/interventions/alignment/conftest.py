"""A task in the tiny model's words: is the first number larger than the second?"""

from __future__ import annotations

import pytest

from layerwise.interventions.alignment.causal_model import CausalModel, Setting, Variable
from layerwise.interventions.alignment.tasks import TextTask

NUMBERS = ("one", "two", "three", "four", "five")


def _text(setting: Setting) -> tuple[str, dict[str, tuple[int, int]]]:
    a, b = NUMBERS[setting["a"]], NUMBERS[setting["b"]]
    begin = f"the city of {a} is larger than "
    return begin + b, {"a": (12, 12 + len(a)), "b": (len(begin), len(begin + b))}


@pytest.fixture(scope="session")
def larger() -> TextTask:
    causal = CausalModel(
        [
            Variable("a", values=range(5)),
            Variable("b", values=range(5)),
            Variable("a > b", ("a", "b"), lambda a, b: a > b),
            Variable("a is one", ("a",), lambda a: a == 0),
            Variable("answer", ("a > b", "a is one"), lambda larger, one: larger and not one),
        ]
    )
    return TextTask("larger", causal, (True, False), _text, {True: " true", False: " false"})
