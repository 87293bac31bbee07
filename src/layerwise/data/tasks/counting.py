"""Say of each letter how often it occurs, or how many letters occur as often (Weiss et al. 2021, "Thinking like transformers")."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from layerwise.data.tasks.base import Symbols, letters
from layerwise.data.tasks.copying import MARK, LetterTask
from layerwise.data.tasks.registry import task


@dataclass(frozen=True)
class _Counts(LetterTask):
    """Some letters, the mark, and a count for each of them."""

    @property
    def spaced(self) -> bool:
        return True  # of counts above 9, and so that longer samples are written alike

    @property
    def vocabulary(self) -> Symbols:
        most = max(self.max_length, self.letters)
        return (*letters(self.letters), MARK, *(str(count) for count in range(1, most + 1)))


@task("histogram")
@dataclass(frozen=True)
class Histogram(_Counts):
    """``a b a >`` → ``2 1 2``: each letter's count."""

    def solve(self, prompt: Symbols) -> Symbols:
        counts = Counter(prompt[:-1])
        return tuple(str(counts[letter]) for letter in prompt[:-1])

    @property
    def difficulty(self) -> str:
        return (
            f"for each of {self.lengths} letters out of {self.letters} an even attention to its equals, and their share read "
            "as a count; a guess at a count is right mostly where all occur once"
        )


@task("double_histogram")
@dataclass(frozen=True)
class DoubleHistogram(_Counts):
    """``a b a c >`` → ``1 2 1 2``: how many different letters occur as often as this one, itself included."""

    def solve(self, prompt: Symbols) -> Symbols:
        counts = Counter(prompt[:-1])
        alike = Counter(counts.values())
        return tuple(str(alike[counts[letter]]) for letter in prompt[:-1])

    @property
    def difficulty(self) -> str:
        return (
            f"for each of {self.lengths} letters out of {self.letters} a count, and then a count of the letters with that count: "
            "two attentions one after the other at least"
        )
