"""What a synthetic task is: sample i depends on the seed and i alone, an answer is right as a whole or not at all."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import numpy as np

from layerwise.errors import UserError

Symbols = tuple[str, ...]
Self = TypeVar("Self", bound="Task")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Sample:
    """One sample: what is given, and what is to be said after it.

    ``prompt_counts``: the loss is taken over the prompt too, where a task wants that of this sample.
    """

    prompt: Symbols
    answer: Symbols
    prompt_counts: bool = False


class Task(ABC):
    """A family of samples, its parameters the fields of a frozen dataclass.

    A subclass draws a sample and solves a prompt; the rest follows. ``name`` is set by the decorator ``task``.

    >>> task = make_task("reverse", {"min_length": 3, "max_length": 3})
    >>> sample = task.sample(seed=0, index=7)
    >>> task.check(sample.prompt, sample.answer)
    True
    """

    name: ClassVar[str] = ""

    @property
    @abstractmethod
    def vocabulary(self) -> Symbols:
        """Every symbol a prompt or answer may hold, in a fixed order, none twice."""

    @property
    @abstractmethod
    def longest(self) -> int:
        """Symbols of the longest prompt and its answer together."""

    @property
    @abstractmethod
    def difficulty(self) -> str:
        """One sentence: what has to be computed, over how many symbols, and how often a guess is right."""

    @abstractmethod
    def draw(self, generator: np.random.Generator) -> Sample:
        """A sample drawn with ``generator``."""

    @abstractmethod
    def solve(self, prompt: Symbols) -> Symbols:
        """The answer to a prompt of this task; of several right ones, one."""

    @property
    def size(self) -> int | None:
        """How many different samples there are, where they are dealt without repetition; None where they are drawn."""
        return None

    def sample(self, seed: int, index: int) -> Sample:
        """Sample ``index`` of the endless sequence that belongs to ``seed``; depends on nothing else."""
        return self.draw(np.random.default_rng((seed, index)))

    def check(self, prompt: Sequence[str], answer: Sequence[str]) -> bool:
        """Whether ``answer`` is right in full; every symbol counts, and so does its end."""
        return tuple(answer) == self.solve(tuple(prompt))

    @property
    def spaced(self) -> bool:
        """Whether symbols stand apart by spaces in a text: where one of them has more than one character."""
        return any(len(symbol) != 1 for symbol in self.vocabulary)

    def text(self, symbols: Sequence[str]) -> str:
        """Symbols as text.

        >>> make_task("copy").text(("a", "b", ">"))
        'ab>'
        """
        return (" " if self.spaced else "").join(symbols)

    def read(self, text: str) -> Symbols:
        """The symbols of a text, as ``text`` wrote them."""
        return tuple(text.split()) if self.spaced else tuple(text)

    def of_length(self: Self, length: int) -> Self:
        """The same task with every sample of one length. Raises UserError for a task whose samples have no length."""
        fields: dict[str, object] = getattr(self, "__dataclass_fields__", {})
        if not {"min_length", "max_length"} <= set(fields):
            raise UserError(f"the samples of task {self.name!r} have no length, so test_lengths means nothing for it.")
        return replace(self, min_length=length, max_length=length)  # type: ignore[type-var]


@dataclass(frozen=True)
class Lengths:
    """The two fields of every task whose samples have a length; lengths are drawn evenly from one to the other.

    min_length, max_length: what a length counts, the task says.
    """

    min_length: int = 1
    max_length: int = 20

    def __post_init__(self) -> None:
        if not 1 <= self.min_length <= self.max_length:
            raise UserError(
                f"min_length and max_length must be 1 ≤ min_length ≤ max_length, got {self.min_length} and {self.max_length}."
            )

    def length(self, generator: np.random.Generator) -> int:
        """A length drawn evenly."""
        return int(generator.integers(self.min_length, self.max_length + 1))

    @property
    def lengths(self) -> str:
        """``5`` or ``5 to 20``."""
        return f"{self.max_length}" if self.min_length == self.max_length else f"{self.min_length} to {self.max_length}"


def letters(count: int) -> Symbols:
    """The first ``count`` small letters. Raises UserError unless there are 2 to 26."""
    if not 2 <= count <= len(LETTERS):
        raise UserError(f"letters must be 2 to {len(LETTERS)}, got {count}.")
    return tuple(LETTERS[:count])


def at_least(name: str, value: int, least: int) -> None:
    """UserError unless an option is at least ``least``."""
    if value < least:
        raise UserError(f"{name} must be at least {least}, got {value}.")


def one_in(choices: float, count: int = 1) -> str:
    """How often a guess of ``count`` symbols out of ``choices`` is right: ``1 in 26``, ``1 in 10^28``."""
    digits = count * math.log10(choices)
    return f"1 in {choices**count:,.0f}" if digits < 6 else f"1 in 10^{digits:.0f}"
