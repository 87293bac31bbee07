"""Counterfactual data: a base, a source for each variable that is exchanged, and the answer that the causal model gives then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from layerwise.errors import UserError
from layerwise.interventions.alignment.causal_model import CausalModel, Setting
from layerwise.interventions.alignment.sampling import TRIES, Filter, Sampler


@dataclass(frozen=True, eq=False)
class Counterfactuals:
    """n questions about what were, had variables other values.

    variables: those that may be exchanged.
    base: (n) settings of all variables. sources: for each variable (n) settings, used where it is swapped.
    swapped: (n) which variables are exchanged. answers: (n) the output's value then.
    """

    variables: tuple[str, ...]
    output: str
    base: list[Setting]
    sources: dict[str, list[Setting]]
    swapped: list[tuple[str, ...]]
    answers: list[Any]

    def __len__(self) -> int:
        return len(self.base)

    @property
    def changed(self) -> list[bool]:
        """(n) whether the exchange changes the answer."""
        return [answer != setting[self.output] for answer, setting in zip(self.answers, self.base, strict=True)]

    def select(self, rows: Sequence[int]) -> Counterfactuals:
        """Some of them, in this order."""
        return Counterfactuals(
            self.variables,
            self.output,
            [self.base[row] for row in rows],
            {name: [settings[row] for row in rows] for name, settings in self.sources.items()},
            [self.swapped[row] for row in rows],
            [self.answers[row] for row in rows],
        )


def draw_counterfactuals(
    model: CausalModel,
    variables: Sequence[str],
    n: int,
    seed: int,
    *,
    balanced: str = "",
    where: Filter | None = None,
    changed: float | None = 0.5,
) -> Counterfactuals:
    """Draw bases and sources, and work out the answers.

    Args:
        variables: several are exchanged one at a time and together, each combination equally often, every one from a source of its own.
        balanced: a variable whose values come equally often in bases and sources; by default the output's.
        where: bases and sources that are let through.
        changed: the share of exchanges that change the answer; None takes them as they come. Without it a network that ignores the
            exchange can be right most of the time.

    Raises UserError for a variable that is no inner one or there is none, and where no such exchange is found.
    """
    if len(model.outputs) != 1:
        raise UserError(f"a causal model gives one answer, this one has the outputs {', '.join(model.outputs)}.")
    if not variables:
        raise UserError("name at least one variable to exchange.")
    for name in variables:
        model.variable(name)
        if name in model.outputs:
            raise UserError(f"{name} is the answer itself: exchange a variable on the way to it.")
    output = model.outputs[0]
    sampler = Sampler(model, seed, balanced or output, where)
    subsets = _subsets(tuple(variables))
    found = Counterfactuals(tuple(variables), output, [], {name: [] for name in variables}, [], [])
    for number in range(n):
        swapped = subsets[number % len(subsets)]
        want = None if changed is None else _spread(number // len(subsets), changed)
        for _ in range(TRIES):
            base, sources = sampler.draw(), {name: sampler.draw() for name in variables}
            answer = model.interchange(base, {name: sources[name] for name in swapped})[output]
            if want is None or (answer != base[output]) == want:
                break
        else:
            kind = "changes" if want else "leaves"
            raise UserError(f"no exchange of {', '.join(swapped)} was found that {kind} the answer.")
        found.base.append(base)
        for name in variables:
            found.sources[name].append(sources[name])
        found.swapped.append(swapped)
        found.answers.append(answer)
    return found


def draw_examples(
    model: CausalModel, n: int, seed: int, *, balanced: str = "", where: Filter | None = None
) -> list[Setting]:
    """n settings of all variables: what a network that is to learn the task is trained on."""
    sampler = Sampler(model, seed, balanced or model.outputs[0], where)
    return [sampler.draw() for _ in range(n)]


def _subsets(variables: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every one alone, then pairs, and so on to all of them."""
    masks = sorted(range(1, 2 ** len(variables)), key=lambda mask: (mask.bit_count(), mask))
    return [tuple(name for bit, name in enumerate(variables) if mask >> bit & 1) for mask in masks]


def _spread(number: int, share: float) -> bool:
    """Whether number ``number`` is among the share, spread evenly."""
    return int((number + 1) * share) > int(number * share)
