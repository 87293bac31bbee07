"""True and false comparisons of two numbers, in words.

The numbers 1 to 98 are dealt to fourteen families by their remainder, and only numbers of one family meet: a family is a group,
so no number is both in training and in test data. Each pair appears in both orders with both words, which balances every
word in every place: neither a word nor the number that stands last tells true from false by itself.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from layerwise.data.dataset import TextDataset

FAMILIES = 14
LARGEST = 98
WIDEST = 42
SMALL, TEENS, TENS = (
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"],
    ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"],
)


def in_words(number: int) -> str:
    """The English words for 0 to 99.

    >>> in_words(51)
    'fifty-one'
    """
    if number < 20:
        return (SMALL + TEENS)[number]
    tens, ones = divmod(number, 10)
    return TENS[tens - 2] + (f"-{SMALL[ones]}" if ones else "")


def numbers() -> TextDataset:
    """ "Fifty-one is larger than twenty-one.", half of them true, each with its negation ("is not larger than").

    The wordings are ``larger`` and ``smaller``.
    """
    texts, labels, groups, contrast, words = [], [], [], [], []
    for family in range(FAMILIES):
        members = [number for number in range(1, LARGEST + 1) if number % FAMILIES == family]
        for low, high in combinations(members, 2):
            if high - low > WIDEST:
                continue
            for first, second in ((high, low), (low, high)):
                for word in ("larger", "smaller"):
                    begin = in_words(first).capitalize()
                    end = f"{word} than {in_words(second)}."
                    pair = (f"{begin} is {end}", f"{begin} is not {end}")
                    texts.append(pair[0])
                    contrast.append(pair)
                    labels.append(int((first > second) == (word == "larger")))
                    groups.append(family)
                    words.append(word)
    return TextDataset(
        name="numbers",
        texts=tuple(texts), labels=np.array(labels), task="classification", label_names=("false", "true"),
        groups=np.array(groups), contrast=tuple(contrast), templates=np.array(words),
        source="Layerwise, generated", licence="Apache-2.0",
    )  # fmt: skip
