"""Close the brackets that are open: Dyck languages of bounded depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layerwise.data.tasks.base import Lengths, Sample, Symbols, Task, at_least, one_in
from layerwise.data.tasks.registry import task
from layerwise.errors import UserError

PAIRS = ("()", "[]", "{}", "<>")
MARK = "="


@task("dyck")
@dataclass(frozen=True)
class Dyck(Lengths, Task):
    """``([]{=`` → ``})``: what closes every open bracket, innermost first. The length counts the brackets before the mark.

    kinds: how many kinds of brackets there are.
    max_depth: how many are open at once at most.
    """

    min_length: int = 2
    max_length: int = 30
    kinds: int = 2
    max_depth: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.kinds <= len(PAIRS):
            raise UserError(f"kinds must be 1 to {len(PAIRS)}, got {self.kinds}.")
        at_least("max_depth", self.max_depth, 2)

    @property
    def vocabulary(self) -> Symbols:
        return (*"".join(PAIRS[: self.kinds]), MARK)

    @property
    def longest(self) -> int:
        return self.max_length + 1 + min(self.max_length, self.max_depth)

    def draw(self, generator: np.random.Generator) -> Sample:
        length = self.length(generator)
        said: list[str] = []
        still_open: list[str] = []
        for place in range(length):
            last_one = len(still_open) == 1 and place == length - 1  # something stays open
            opens = not still_open or last_one or (len(still_open) < self.max_depth and generator.random() < 0.5)
            if opens:
                still_open.append(PAIRS[int(generator.integers(self.kinds))])
                said.append(still_open[-1][0])
            else:
                said.append(still_open.pop()[1])
        prompt = (*said, MARK)
        return Sample(prompt, self.solve(prompt))

    def solve(self, prompt: Symbols) -> Symbols:
        closing = {pair[0]: pair[1] for pair in PAIRS}
        stack: list[str] = []
        for bracket in prompt[:-1]:
            if bracket in closing:
                stack.append(closing[bracket])
            else:
                stack.pop()
        return tuple(reversed(stack))

    @property
    def difficulty(self) -> str:
        return (
            f"{self.lengths} brackets of {self.kinds} kinds, up to {self.max_depth} open at once: a stack to be kept; "
            f"a guess at the deepest is right {one_in(self.kinds, self.max_depth)}, its depth known"
        )
