"""Sequences to be continued: from an n-gram source, fixed or anew in each, and random symbols that come again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from layerwise.data.tasks.base import Lengths, Sample, Symbols, Task, at_least, letters, one_in
from layerwise.data.tasks.copying import random_letters
from layerwise.data.tasks.registry import task
from layerwise.errors import UserError


@task("ngram")
@dataclass(frozen=True)
class NGram(Lengths, Task):
    """Letters of which each follows from the n - 1 before it, in one of a few ways; the loss counts all of them.

    An answer is right if it is as long as its prompt and only goes ways the source has. The length counts the answer.

    order: n; 2 is a bigram.
    letters: how many different letters there are.
    branching: how many letters may follow, all equally likely.
    source: fixed (one table for all samples), or fresh (one for each, to be read off the sample: Edelman et al. 2024).
    table_seed: of the fixed table.
    """

    min_length: int = 16
    max_length: int = 16
    order: int = 2
    letters: int = 10
    branching: int = 2
    source: Literal["fixed", "fresh"] = "fixed"
    table_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        letters(self.letters)
        at_least("order", self.order, 1)
        at_least("min_length", self.min_length, self.order)
        if not 1 <= self.branching <= self.letters:
            raise UserError(f"branching must be 1 to letters ({self.letters}), got {self.branching}.")

    @property
    def vocabulary(self) -> Symbols:
        return letters(self.letters)

    @property
    def longest(self) -> int:
        return 2 * self.max_length

    def draw(self, generator: np.random.Generator) -> Sample:
        length = self.length(generator)
        table = int(generator.integers(2**32)) if self.source == "fresh" else self.table_seed
        said = random_letters(generator, self.order - 1, self.vocabulary)
        for choice in generator.integers(self.branching, size=2 * length - len(said)):
            said = (*said, self.following(said, table)[choice])
        return Sample(said[:length], said[length:], prompt_counts=True)

    def following(self, said: Symbols, table_seed: int) -> Symbols:
        """The letters that may follow ``said`` in the source of this seed."""
        before = said[len(said) - self.order + 1 :]
        places = tuple(self.vocabulary.index(letter) for letter in before)
        return tuple(self.vocabulary[place] for place in _successors(table_seed, places, self.letters, self.branching))

    def solve(self, prompt: Symbols) -> Symbols:
        said = prompt
        while len(said) < 2 * len(prompt):
            said = (*said, self._ways(said)[0])
        return said[len(prompt) :]

    def _ways(self, said: Symbols) -> Symbols:
        if self.source == "fixed":
            return self.following(said, self.table_seed)
        seen = self._seen(said).get(said[len(said) - self.order + 1 :])
        return tuple(sorted(seen)) if seen else self.vocabulary

    def _seen(self, said: Symbols) -> dict[Symbols, set[str]]:
        """What followed each n - 1 letters."""
        seen: dict[Symbols, set[str]] = defaultdict(set)
        for place in range(self.order - 1, len(said)):
            seen[said[place - self.order + 1 : place]].add(said[place])
        return seen

    def check(self, prompt: Sequence[str], answer: Sequence[str]) -> bool:
        whole = (*prompt, *answer)
        if len(answer) != len(prompt) or not set(whole) <= set(self.vocabulary):
            return False
        if self.source == "fixed":
            places = range(len(prompt), len(whole))
            return all(whole[place] in self.following(whole[:place], self.table_seed) for place in places)
        # Of a fresh source only this can be told: no letters are followed by more than its ways.
        return all(len(ways) <= self.branching for ways in self._seen(whole).values())

    @property
    def difficulty(self) -> str:
        table = "one table to be learnt" if self.source == "fixed" else "a table for each sample, to be read off it"
        return (
            f"{self.branching} of {self.letters} letters may follow each {self.order - 1} before: {table}; "
            f"no loss is below ln {self.branching} = {np.log(self.branching):.3f}, where the table is known"
        )


@lru_cache(maxsize=65536)
def _successors(seed: int, places: tuple[int, ...], letters: int, branching: int) -> tuple[int, ...]:
    chosen = np.random.default_rng((seed, *places)).choice(letters, branching, replace=False)
    return tuple(int(place) for place in chosen)


@task("induction")
@dataclass(frozen=True)
class Induction(Lengths, Task):
    """``7 3 9 4 7`` → ``3 9 4``: what followed each symbol the first time. The length counts the different symbols.

    Lengths vary, so that no fixed distance tells where to look: an induction head is what it takes (Olsson et al. 2022).

    symbols: how many different symbols there are; none comes twice before the repetition.
    """

    min_length: int = 5
    max_length: int = 20
    symbols: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("min_length", self.min_length, 2)
        at_least("symbols", self.symbols, self.max_length)

    @property
    def spaced(self) -> bool:
        return True

    @property
    def vocabulary(self) -> Symbols:
        return tuple(str(symbol) for symbol in range(self.symbols))

    @property
    def longest(self) -> int:
        return 2 * self.max_length

    def draw(self, generator: np.random.Generator) -> Sample:
        drawn = generator.choice(self.symbols, self.length(generator), replace=False)
        first = tuple(str(symbol) for symbol in drawn)
        return Sample((*first, first[0]), first[1:])

    def solve(self, prompt: Symbols) -> Symbols:
        return prompt[1:-1]

    @property
    def difficulty(self) -> str:
        return (
            f"{self.lengths} random symbols out of {self.symbols}, said again: find the same symbol, say what followed it, which "
            f"takes two layers of attention; a guess at one is right {one_in(self.symbols)}"
        )
