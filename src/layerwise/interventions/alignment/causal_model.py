"""Causal models: what an algorithm computes on the way from its inputs to its answer, as variables and mechanisms.

    sum_model = CausalModel([
        Variable("x", values=range(10)), Variable("y", values=range(10)), Variable("z", values=range(10)),
        Variable("x+y", ("x", "y"), lambda x, y: x + y),
        Variable("sum", ("x+y", "z"), lambda part, z: part + z),
    ])
    sum_model.run({"x": 1, "y": 2, "z": 3})["sum"]                                                    # 6
    sum_model.interchange({"x": 1, "y": 2, "z": 3}, {"x+y": {"x": 4, "y": 4, "z": 0}})["sum"]         # 11

An interchange asks what the answer were, had a variable the value that other inputs give it (Geiger et al. 2021). Whether a
neural network gives the same answers when a part of its activations is exchanged is what alignment measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from layerwise.errors import UserError, nearest

Setting = dict[str, Any]
"""Values by the names of variables; of all of them, or of the inputs alone."""


@dataclass(frozen=True, eq=False)
class Variable:
    """One variable of a causal model; without parents an input.

    parents: whose values ``mechanism`` is called with, in this order.
    values: what it can be. An input with endlessly many has ``draw`` in their place.
    draw: a value of an input, drawn at random.
    causes: values of the parents that give a value, drawn at random; found by trying all where the parents' values are listed.
    step: its time step; by default the longest way from an input.
    """

    name: str
    parents: tuple[str, ...] = ()
    mechanism: Callable[..., Any] | None = None
    values: Sequence[Any] | None = None
    draw: Callable[[Random], Any] | None = None
    causes: Callable[[Any, Random], Sequence[Any]] | None = None
    step: int | None = None


class CausalModel:
    """Variables in an order in which each comes after its parents. ``print(model)`` lists them by time step.

    Raises UserError for names that are there twice or not at all, circles, inputs without values and others without a mechanism.
    """

    def __init__(self, variables: Iterable[Variable]) -> None:
        given = list(variables)
        self.variables = {variable.name: variable for variable in given}
        if len(self.variables) != len(given):
            raise UserError("two variables of the causal model have one name.")
        for variable in given:
            for parent in variable.parents:
                if parent not in self.variables:
                    raise UserError(
                        f"{variable.name} has the parent {parent!r}, which is no variable.{nearest(parent, self.variables)}"
                    )
            if variable.parents and variable.mechanism is None:
                raise UserError(f"{variable.name} has parents and no mechanism.")
            if not variable.parents and variable.values is None and variable.draw is None:
                raise UserError(f"the input {variable.name} has neither values nor a way to draw one.")
        self.order = self._sorted()
        self.children = {name: tuple(other.name for other in given if name in other.parents) for name in self.variables}
        self.inputs = tuple(name for name in self.order if not self.variables[name].parents)
        self.outputs = tuple(name for name in self.order if not self.children[name] and name not in self.inputs)
        self.steps = self._steps()

    @property
    def inner(self) -> tuple[str, ...]:
        """Variables that are neither inputs nor outputs: what an alignment looks for."""
        return tuple(name for name in self.order if name not in self.inputs + self.outputs)

    def variable(self, name: str) -> Variable:
        """The variable of a name. Raises UserError with the nearest one."""
        if name not in self.variables:
            raise UserError(
                f"the causal model has no variable {name!r}.{nearest(name, self.variables)}\nIt has: {', '.join(self.order)}."
            )
        return self.variables[name]

    def run(self, inputs: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> Setting:
        """The values of all variables; those ``given`` are held at a value, whatever their mechanism says."""
        held = dict(given or {})
        for name in held:
            self.variable(name)
        setting: Setting = {}
        for name in self.order:
            variable = self.variables[name]
            if name in held:
                setting[name] = held[name]
            elif variable.mechanism is not None:
                setting[name] = variable.mechanism(*(setting[parent] for parent in variable.parents))
            elif name in inputs:
                setting[name] = inputs[name]
            else:
                raise UserError(f"the inputs lack {name}; the causal model takes {', '.join(self.inputs)}.")
        return setting

    def interchange(self, base: Mapping[str, Any], sources: Mapping[str, Mapping[str, Any]]) -> Setting:
        """All values for the inputs ``base``, each variable of ``sources`` at the value that its source's inputs give it."""
        return self.run(base, {name: self.run(inputs)[self.variable(name).name] for name, inputs in sources.items()})

    def live_edges(self, setting: Mapping[str, Any]) -> list[tuple[str, str]]:
        """(parent, child) where another value of the parent alone would change the child in this setting.

        Only parents with listed values (or, computed ones, listed parents' values) can be tried; others count as live.
        """
        live = []
        for name in self.order:
            variable = self.variables[name]
            for position, parent in enumerate(variable.parents):
                values = self.values_of(parent)
                assert variable.mechanism is not None
                arguments = [setting[other] for other in variable.parents]
                if values is None or any(
                    variable.mechanism(*arguments[:position], value, *arguments[position + 1 :]) != setting[name]
                    for value in values
                ):
                    live.append((parent, name))
        return live

    def live_paths(self, setting: Mapping[str, Any]) -> list[tuple[str, ...]]:
        """Ways from an input to an output along live edges, longest first."""
        live = set(self.live_edges(setting))
        paths: list[tuple[str, ...]] = [(name,) for name in self.inputs]
        found = []
        while paths:
            path = paths.pop()
            if path[-1] in self.outputs:
                found.append(path)
            paths += [(*path, child) for child in self.children[path[-1]] if (path[-1], child) in live]
        return sorted(found, key=lambda path: (-len(path), path))

    def values_of(self, name: str, most: int = 4096) -> list[Any] | None:
        """All values a variable can have, from its own list or from its parents'; None where they are too many to list."""
        variable = self.variable(name)
        if variable.values is not None:
            return list(variable.values)
        if variable.mechanism is None:
            return None
        found: list[Any] = [()]
        for parent in variable.parents:
            values = self.values_of(parent, most)
            if values is None or len(found) * len(values) > most:
                return None
            found = [(*before, value) for before in found for value in values]
        results = [variable.mechanism(*arguments) for arguments in found]
        return [value for number, value in enumerate(results) if value not in results[:number]]

    def _sorted(self) -> tuple[str, ...]:
        order: list[str] = []
        waiting = list(self.variables)
        while waiting:
            ready = [name for name in waiting if set(self.variables[name].parents) <= set(order)]
            if not ready:
                raise UserError(f"the variables {', '.join(waiting)} form a circle: each is a cause of the next.")
            order += ready
            waiting = [name for name in waiting if name not in ready]
        return tuple(order)

    def _steps(self) -> dict[str, int]:
        steps: dict[str, int] = {}
        for name in self.order:
            variable = self.variables[name]
            earliest = max((steps[parent] + 1 for parent in variable.parents), default=0)
            steps[name] = earliest if variable.step is None else variable.step
            late = [parent for parent in variable.parents if steps[parent] > steps[name]]
            if late:
                raise UserError(f"{name} is at time step {steps[name]}, before its cause {late[0]}.")
        return steps

    def __str__(self) -> str:
        """A line for each variable, by time step."""
        width = max(map(len, self.variables))
        lines = []
        for name in sorted(self.order, key=lambda name: (self.steps[name], self.order.index(name))):
            variable = self.variables[name]
            cause = f"← {', '.join(variable.parents)}" if variable.parents else "input"
            values = None if variable.values is None else list(variable.values)
            listed = "" if values is None else f"  {_some(values)}"
            lines.append(f"{self.steps[name]}  {name:<{width}}  {cause}{listed}")
        return "\n".join(lines)


def _some(values: list[Any]) -> str:
    shown = ", ".join(map(str, values[:4]))
    return f"of {shown}" if len(values) <= 4 else f"of {len(values)}: {shown}, …"
