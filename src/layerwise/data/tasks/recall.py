"""Say what belongs to a key that was shown with it (Ba et al. 2016; Arora et al. 2023, "Zoology")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layerwise.data.tasks.base import Lengths, Sample, Symbols, Task, at_least, one_in
from layerwise.data.tasks.registry import task

ASK = "?"


@task("associative_recall")
@dataclass(frozen=True)
class AssociativeRecall(Lengths, Task):
    """``k3 v7 k1 v2 ? k3`` → ``v7``. The length counts the pairs.

    keys, values: how many different ones there are; a key comes once, a value may come again.
    """

    max_length: int = 10
    keys: int = 32
    values: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("keys", self.keys, self.max_length)
        at_least("values", self.values, 2)

    @property
    def vocabulary(self) -> Symbols:
        return (*(f"k{key}" for key in range(self.keys)), *(f"v{value}" for value in range(self.values)), ASK)

    @property
    def longest(self) -> int:
        return 2 * self.max_length + 3

    def draw(self, generator: np.random.Generator) -> Sample:
        count = self.length(generator)
        keys = generator.choice(self.keys, count, replace=False)
        values = generator.integers(self.values, size=count)
        pairs = (symbol for key, value in zip(keys, values, strict=True) for symbol in (f"k{key}", f"v{value}"))
        prompt = (*pairs, ASK, f"k{keys[int(generator.integers(count))]}")
        return Sample(prompt, self.solve(prompt))

    def solve(self, prompt: Symbols) -> Symbols:
        return (prompt[prompt.index(prompt[-1]) + 1],)

    @property
    def difficulty(self) -> str:
        return (
            f"{self.lengths} pairs, keys out of {self.keys}: find the key, say the value after it; "
            f"a guess is right {one_in(self.values)}, one among the values shown 1 in {self.max_length} of the longest"
        )
