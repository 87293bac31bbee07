"""Is a price within bounds? (Wu et al. 2023, "Interpretability at scale".)"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layerwise.data.tasks.base import Sample, Symbols, Task, at_least, one_in
from layerwise.data.tasks.registry import task

YES, NO = "yes", "no"


def price_prompt(low: int, high: int, amount: int) -> Symbols:
    """``from 3 to 8 : 5 ?``"""
    return ("from", str(low), "to", str(high), ":", str(amount), "?")


@task("price_tagging")
@dataclass(frozen=True)
class PriceTagging(Task):
    """``from 3 to 8 : 5 ?`` → ``yes``: 5 is neither below 3 nor above 8. Half of the answers are yes, of the others half too low.

    prices: how many different prices there are.
    """

    prices: int = 20

    def __post_init__(self) -> None:
        at_least("prices", self.prices, 4)

    @property
    def vocabulary(self) -> Symbols:
        return ("from", "to", ":", "?", *(str(price) for price in range(self.prices)), YES, NO)

    @property
    def longest(self) -> int:
        return 8

    def draw(self, generator: np.random.Generator) -> Sample:
        answer = generator.integers(4)  # 0, 1: within; 2: too low; 3: too high
        last = self.prices - 1
        low = int(generator.integers(1 if answer == 2 else 0, last if answer == 3 else last + 1))
        high = int(generator.integers(low, last if answer == 3 else last + 1))
        bounds = {2: (0, low), 3: (high + 1, last + 1)}.get(int(answer), (low, high + 1))
        prompt = price_prompt(low, high, int(generator.integers(*bounds)))
        return Sample(prompt, self.solve(prompt))

    def solve(self, prompt: Symbols) -> Symbols:
        low, high, amount = (int(prompt[place]) for place in (1, 3, 5))
        return (YES if low <= amount <= high else NO,)

    @property
    def difficulty(self) -> str:
        return f"two comparisons of numbers out of {self.prices}, both of which must hold; a guess is right {one_in(2)}"
