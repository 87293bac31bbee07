"""Sums digit by digit, and arithmetic on the residues of a modulus."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from layerwise.data.tasks.base import Lengths, Sample, Symbols, Task, at_least, one_in
from layerwise.data.tasks.registry import task
from layerwise.data.tasks.sorting import DIGITS, random_number
from layerwise.errors import UserError

SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}


@task("long_addition")
@dataclass(frozen=True)
class LongAddition(Lengths, Task):
    """``58+7=`` → ``65``. The length counts the digits of each number.

    smallest_first: the sum is written from its last digit, which needs no carry that is not yet said.
    """

    max_length: int = 10
    smallest_first: bool = False

    @property
    def vocabulary(self) -> Symbols:
        return (*DIGITS, "+", "=")

    @property
    def longest(self) -> int:
        return 3 * self.max_length + 3

    def draw(self, generator: np.random.Generator) -> Sample:
        first, second = (random_number(generator, self.max_length, self.min_length) for _ in range(2))
        prompt = tuple(f"{first}+{second}=")
        return Sample(prompt, self.solve(prompt))

    def solve(self, prompt: Symbols) -> Symbols:
        first, second = "".join(prompt[:-1]).split("+")
        total = tuple(str(int(first) + int(second)))
        return total[::-1] if self.smallest_first else total

    @property
    def difficulty(self) -> str:
        order = (
            "the carry known from what was said"
            if self.smallest_first
            else "each digit with a carry from all after it, not yet said"
        )
        return (
            f"numbers of {self.lengths} digits, {order}; a guess at the longest is right {one_in(10, self.max_length)}"
        )


@task("modular_arithmetic")
@dataclass(frozen=True)
class ModularArithmetic(Task):
    """``58 + 47 =`` → ``8``, modulo 97: every pair once, in an order that the seed deals (Power et al. 2022, "Grokking").

    modulus: how many residues there are.
    operation: add, subtract, multiply, or divide, which needs a prime modulus.
    """

    modulus: int = 97
    operation: Literal["add", "subtract", "multiply", "divide"] = "add"

    def __post_init__(self) -> None:
        at_least("modulus", self.modulus, 2)
        divisor = next((d for d in range(2, int(self.modulus**0.5) + 1) if self.modulus % d == 0), None)
        if self.operation == "divide" and divisor:
            raise UserError(f"division needs a prime modulus, and {self.modulus} is divided by {divisor}.")

    @property
    def spaced(self) -> bool:
        return True

    @property
    def vocabulary(self) -> Symbols:
        return (*(str(residue) for residue in range(self.modulus)), SIGNS[self.operation], "=")

    @property
    def longest(self) -> int:
        return 5

    @property
    def size(self) -> int:
        return self.modulus * (self.modulus - (self.operation == "divide"))

    def sample(self, seed: int, index: int) -> Sample:
        return self._pair(int(_dealt(seed, self.size)[index % self.size]))

    def draw(self, generator: np.random.Generator) -> Sample:
        return self._pair(int(generator.integers(self.size)))

    def _pair(self, place: int) -> Sample:
        # Division goes by the rows of second numbers 1 to modulus - 1.
        second, first = divmod(place, self.modulus)
        second += self.operation == "divide"
        prompt = (str(first), SIGNS[self.operation], str(second), "=")
        return Sample(prompt, self.solve(prompt))

    def solve(self, prompt: Symbols) -> Symbols:
        first, second = int(prompt[0]), int(prompt[2])
        if self.operation == "divide":
            second = pow(second, -1, self.modulus)
        results = {"add": first + second, "subtract": first - second}
        return (str(results.get(self.operation, first * second) % self.modulus),)

    @property
    def difficulty(self) -> str:
        return (
            f"{self.size:,} pairs of {self.modulus} residues, the rule to be found from those in training; "
            f"a guess is right {one_in(self.modulus)}"
        )


@lru_cache(maxsize=8)
def _dealt(seed: int, size: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(size)
