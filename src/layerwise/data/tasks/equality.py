"""Whether two pairs are alike in being equal or not (Geiger et al. 2024; Premack's relational match to sample)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layerwise.data.tasks.base import Sample, Symbols, Task, at_least, one_in
from layerwise.data.tasks.registry import task

MARK = "="
YES, NO = "true", "false"


def hierarchical_equality(generator: np.random.Generator, symbols: int) -> tuple[tuple[int, int, int, int], bool]:
    """Four symbols w x y z out of ``symbols``, and whether (w = x) = (y = z).

    Each of the four cases (equal or not, equal or not) is drawn as often, so both answers are.
    """
    drawn: list[int] = []
    equal = generator.integers(2, size=2)
    for same in equal:
        first = int(generator.integers(symbols))
        other = int(generator.integers(symbols - 1))
        drawn += [first, first if same else other + (other >= first)]
    return (drawn[0], drawn[1], drawn[2], drawn[3]), bool(equal[0] == equal[1])


@task("hierarchical_equality")
@dataclass(frozen=True)
class HierarchicalEquality(Task):
    """``4 4 7 2 =`` → ``false``: the first two are equal, the others are not.

    symbols: how many different symbols there are.
    """

    symbols: int = 100

    def __post_init__(self) -> None:
        at_least("symbols", self.symbols, 2)

    @property
    def vocabulary(self) -> Symbols:
        return (*(str(symbol) for symbol in range(self.symbols)), MARK, YES, NO)

    @property
    def longest(self) -> int:
        return 6

    def draw(self, generator: np.random.Generator) -> Sample:
        drawn, answer = hierarchical_equality(generator, self.symbols)
        return Sample((*(str(symbol) for symbol in drawn), MARK), (YES if answer else NO,))

    def solve(self, prompt: Symbols) -> Symbols:
        w, x, y, z = prompt[:4]
        return (YES if (w == x) == (y == z) else NO,)

    @property
    def difficulty(self) -> str:
        return (
            f"two equalities of symbols out of {self.symbols} and the equality of the two, which no single one tells; "
            f"a guess is right {one_in(2)}"
        )
