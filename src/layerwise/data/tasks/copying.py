"""Say the letters again: as they were, or backwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layerwise.data.tasks.base import Lengths, Sample, Symbols, Task, letters, one_in
from layerwise.data.tasks.registry import task
from layerwise.errors import UserError

MARK = ">"


def random_letters(generator: np.random.Generator, length: int, alphabet: Symbols) -> Symbols:
    """``length`` letters drawn evenly and independently."""
    return tuple(alphabet[place] for place in generator.integers(len(alphabet), size=length))


@dataclass(frozen=True)
class LetterTask(Lengths, Task):
    """Some letters, the mark, and what becomes of the letters. The length counts the letters.

    letters: how many different letters there are.
    """

    letters: int = 26

    def __post_init__(self) -> None:
        super().__post_init__()
        letters(self.letters)

    @property
    def vocabulary(self) -> Symbols:
        return (*letters(self.letters), MARK)

    @property
    def longest(self) -> int:
        return 2 * self.max_length + 1

    def draw(self, generator: np.random.Generator) -> Sample:
        prompt = (*random_letters(generator, self.length(generator), letters(self.letters)), MARK)
        return Sample(prompt, self.solve(prompt))


@task("copy")
@dataclass(frozen=True)
class Copy(LetterTask):
    """``abc>`` → ``abc``."""

    def solve(self, prompt: Symbols) -> Symbols:
        return prompt[:-1]

    @property
    def difficulty(self) -> str:
        return (
            f"{self.lengths} letters out of {self.letters}, each found again by its place or by the one before it; "
            f"a guess of the longest is right {one_in(self.letters, self.max_length)}"
        )


@task("masked_copy")
@dataclass(frozen=True)
class MaskedCopy(Copy):
    """As ``copy``, but of a share of the samples the letters before the mark count in the loss too.

    unmasked: that share.
    """

    unmasked: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.unmasked <= 1:
            raise UserError(f"unmasked must be between 0 and 1, got {self.unmasked}.")

    @property
    def difficulty(self) -> str:
        return f"{super().difficulty}; {self.unmasked:.0%} of the samples also ask for the letters before the mark, which nobody can guess"

    def draw(self, generator: np.random.Generator) -> Sample:
        drawn = super().draw(generator)
        return Sample(drawn.prompt, drawn.answer, prompt_counts=bool(generator.random() < self.unmasked))


@task("reverse")
@dataclass(frozen=True)
class Reverse(LetterTask):
    """``abc>`` → ``cba``."""

    def solve(self, prompt: Symbols) -> Symbols:
        return prompt[-2::-1]

    @property
    def difficulty(self) -> str:
        return (
            f"{self.lengths} letters out of {self.letters}, the place to read moving against the place to write; "
            f"a guess of the longest is right {one_in(self.letters, self.max_length)}"
        )
