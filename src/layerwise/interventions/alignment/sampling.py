"""Inputs of a causal model, drawn so that its answers are balanced, and what classes of causes its values have."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from random import Random
from typing import Any

from layerwise.errors import UserError
from layerwise.interventions.alignment.causal_model import CausalModel, Setting

Filter = Callable[[Setting], bool]
"""Of a setting of all variables: whether it is wanted."""

MOST_CAUSES = 100_000  # combinations of the parents' values that are listed
TRIES = 1000  # draws for one that a filter lets through
TRIES_OF_A_VALUE = (
    50  # before another value of the balanced variable is tried: a filter may leave a value no inputs at all
)


def equivalence_classes(model: CausalModel, name: str) -> dict[Any, list[tuple[Any, ...]]]:
    """By value of a variable, all values of its parents that give it.

    Raises UserError for an input, and where the parents' values are endless or more than 100,000 together.
    """
    variable = model.variable(name)
    if variable.mechanism is None:
        raise UserError(f"{name} is an input: nothing causes it.")
    lists = [model.values_of(parent) for parent in variable.parents]
    size = 1
    for values in lists:
        size *= len(values) if values is not None else MOST_CAUSES + 1
    if size > MOST_CAUSES:
        raise UserError(
            f"the causes of {name} are too many to list: give its variable a function causes(value, random) that draws some."
        )
    classes: dict[Any, list[tuple[Any, ...]]] = {}
    for arguments in product(*(values for values in lists if values is not None)):
        classes.setdefault(variable.mechanism(*arguments), []).append(arguments)
    return classes


class Sampler:
    """Draws inputs of a causal model.

    balanced: a variable whose values, those that the filter leaves, come equally often, ``""`` for none: from its value causes are drawn for it, for these
    again, and so on down to the inputs, each class of causes as likely as the next.
    where: settings that are let through; the others are drawn anew.
    """

    def __init__(self, model: CausalModel, seed: int, balanced: str = "", where: Filter | None = None) -> None:
        self.model, self.balanced, self.where = model, balanced, where
        self.random = Random(seed)
        self._classes: dict[str, dict[Any, list[tuple[Any, ...]]]] = {}
        if balanced:
            self._values = model.values_of(balanced) or list(self._class_of(balanced))

    def draw(self) -> Setting:
        """One setting of all variables. Raises UserError where a thousand draws give none that is wanted."""
        wanted = None
        for number in range(TRIES):
            if self.balanced and number % TRIES_OF_A_VALUE == 0:
                wanted = self.random.choice(self._values)
            setting = self.model.run(self._inputs(wanted))
            right = not self.balanced or setting[self.balanced] == wanted
            if right and (self.where is None or self.where(setting)):
                return setting
        raise UserError(f"{TRIES} draws gave no inputs that are wanted: the filter lets none through.")

    def _inputs(self, wanted: Any) -> Setting:
        chosen: Setting = {self.balanced: wanted} if self.balanced else {}
        if self.balanced:
            for name in reversed(self.model.order):
                variable = self.model.variables[name]
                if name in chosen and variable.parents:
                    # What an earlier child has asked for stays: where they disagree the draw is thrown away.
                    causes = dict(zip(variable.parents, self._causes(name, chosen[name]), strict=True))
                    chosen = {**causes, **chosen}
        return {name: chosen[name] if name in chosen else self._input(name) for name in self.model.inputs}

    def _causes(self, name: str, value: Any) -> tuple[Any, ...]:
        variable = self.model.variables[name]
        if variable.causes is not None:
            return tuple(variable.causes(value, self.random))
        return self.random.choice(self._class_of(name)[value])

    def _class_of(self, name: str) -> dict[Any, list[tuple[Any, ...]]]:
        if name not in self._classes:
            self._classes[name] = equivalence_classes(self.model, name)
        return self._classes[name]

    def _input(self, name: str) -> Any:
        variable = self.model.variables[name]
        if variable.draw is not None:
            return variable.draw(self.random)
        assert variable.values is not None
        return self.random.choice(variable.values)


def has(**values: Any) -> Filter:
    """Settings in which variables have these values; a name that is no word goes in as ``has(**{"x+y": 3})``."""
    return lambda setting: all(setting[name] == value for name, value in values.items())


def on_live_path(model: CausalModel, *names: str) -> Filter:
    """Settings in which a live path leads through all of these variables: what they are matters there."""
    for name in names:
        model.variable(name)
    return lambda setting: any(set(names) <= set(path) for path in model.live_paths(setting))
