"""Put letters or numbers into order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from layerwise.data.tasks.base import Lengths, Sample, Symbols, Task, at_least, one_in
from layerwise.data.tasks.copying import MARK, LetterTask
from layerwise.data.tasks.registry import task

DIGITS = tuple("0123456789")


@task("sort")
@dataclass(frozen=True)
class Sort(LetterTask):
    """``cabc>`` → ``abcc``."""

    def solve(self, prompt: Symbols) -> Symbols:
        return tuple(sorted(prompt[:-1]))

    @property
    def difficulty(self) -> str:
        ways = math.comb(self.letters + self.max_length - 1, self.max_length)
        return (
            f"{self.lengths} letters out of {self.letters}, each the smallest not yet said, repeats counted; "
            f"a guess among sorted answers of the longest is right {one_in(ways)}"
        )


@task("number_sort")
@dataclass(frozen=True)
class NumberSort(Lengths, Task):
    """``312 45 7>`` → ``7 45 312``, digit by digit. The length counts the numbers.

    digits: of the largest number; as many numbers are drawn of each number of digits.
    """

    max_length: int = 7
    digits: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("digits", self.digits, 1)

    @property
    def vocabulary(self) -> Symbols:
        return (*DIGITS, " ", MARK)

    @property
    def longest(self) -> int:
        return 2 * (self.max_length * (self.digits + 1) - 1) + 1

    def draw(self, generator: np.random.Generator) -> Sample:
        count = self.length(generator)
        prompt = (*" ".join(str(random_number(generator, self.digits)) for _ in range(count)), MARK)
        return Sample(prompt, self.solve(prompt))

    def solve(self, prompt: Symbols) -> Symbols:
        return tuple(" ".join(sorted("".join(prompt[:-1]).split(), key=int)))

    @property
    def difficulty(self) -> str:
        return (
            f"{self.lengths} numbers of 1 to {self.digits} digits: compare by the number of digits, then digit by digit, and say "
            f"the next larger each time; a guess at the order of the most is right {one_in(math.factorial(self.max_length))}"
        )


def random_number(generator: np.random.Generator, most: int, least: int = 1) -> int:
    """A number of ``least`` to ``most`` digits: first their number evenly, then the number."""
    digits = int(generator.integers(least, most + 1))
    low = 0 if digits == 1 else 10 ** (digits - 1)
    return low + _below(generator, 10**digits - low)


def _below(generator: np.random.Generator, bound: int) -> int:
    """Evenly from 0 to ``bound`` - 1, which may pass 64 bits."""
    if bound < 2**62:
        return int(generator.integers(bound))
    words = bound.bit_length() // 32 + 3  # 64 bits over, so that the remainder is even enough
    return sum(int(word) << (32 * place) for place, word in enumerate(generator.integers(2**32, size=words))) % bound
