"""What to ask of a model that learnt to copy letters (quickstart.yaml): prompts that stop in the middle of the copy, ``fkwbqz>fkw``.

The copy goes on with one letter. Its half of the alphabet is what a probe reads, the letter itself and another one are what a comparison
offers, and a prompt in which it is another letter is what an intervention puts beside the clean one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from layerwise.data.tasks.base import LETTERS
from layerwise.data.tasks.registry import make_task

LENGTH, SEED = 6, 1


def _prompts(count: int) -> Iterator[tuple[str, str, str, str]]:
    """The prompt, the letter that follows, the prompt with another letter in its place, and that letter."""
    task = make_task("copy", {"min_length": LENGTH, "max_length": LENGTH})
    for index in range(count):
        letters = task.text(task.sample(SEED, index).answer)
        place = 1 + index % (LENGTH - 1)
        other = next(letter for letter in LETTERS[index % 26 :] + LETTERS if letter not in letters)
        changed = letters[:place] + other + letters[place + 1 :]
        said = letters[:place]
        yield f"{letters}>{said}", letters[place], f"{changed}>{said}", other


def halves() -> pd.DataFrame:
    """600 prompts and the half of the alphabet that the next letter is from, for ``probe``."""
    rows = [(prompt, "first" if letter < "n" else "second") for prompt, letter, _, _ in _prompts(600)]
    return pd.DataFrame(rows, columns=["text", "label"])


def choices() -> pd.DataFrame:
    """200 prompts with the next letter and another one to choose from, in the place of ``_``, for ``compare``."""
    rows = [(f"{prompt}_", [letter, other], 0) for prompt, letter, _, other in _prompts(200)]
    return pd.DataFrame(rows, columns=["prompt", "options", "truth"])


def pairs() -> pd.DataFrame:
    """40 pairs of prompts that differ in the letter that is to follow, for ``intervene``."""
    rows = [(prompt, changed, letter, other) for prompt, letter, changed, other in _prompts(40)]
    return pd.DataFrame(rows, columns=["clean", "corrupted", "answer", "corrupted_answer"])
