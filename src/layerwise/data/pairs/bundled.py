"""The bundled pairs, generated here. In each, both prompts have the same words but for what decides the answer.

Names, numbers and places are such that most tokenizers give both prompts of a pair equally many tokens; where one does not, who
needs that leaves the pair out and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np

from layerwise.data.generators.numbers import in_words
from layerwise.data.generators.tables import listed, read_table
from layerwise.data.pairs.pairs import PromptPairs, Spans
from layerwise.errors import unknown

_NAMES = ("Mary", "John", "Tom", "James", "Mark", "Sarah", "Paul", "Anna", "Peter", "David", "Kate", "Robert")
_SCENES = (
    ("store", "drink"), ("park", "ball"), ("school", "book"), ("office", "letter"), ("house", "ring"), ("garden", "flower"),
)  # fmt: skip
_IOI = (
    "When {io} and {s} went to the {place}, {s2} gave a {thing} to",
    "Then, {io} and {s} had a long talk at the {place}, and {s2} gave a {thing} to",
    "After {s} and {io} left the {place}, {s2} gave a {thing} to",
)


def _filled(template: str, **words: str) -> tuple[str, dict[str, tuple[int, int]]]:
    """The template with its words in place, and where each of them stands."""
    text, spans = "", {}
    for piece in template.split("{"):
        name, brace, rest = piece.partition("}")
        if not brace:
            text += piece
            continue
        spans[name] = (len(text), len(text) + len(words[name]))
        text += words[name] + rest
    return text, spans


class _Rows:
    """Pairs as they are made, one by one."""

    def __init__(self) -> None:
        self.clean: list[tuple[str, Spans]] = []
        self.corrupted: list[tuple[str, Spans]] = []
        self.answers: list[tuple[str, str]] = []
        self.groups: list[str] = []

    def add(self, clean: tuple[str, Spans], corrupted: tuple[str, Spans], answers: tuple[str, str], group: str) -> None:
        self.clean.append(clean)
        self.corrupted.append(corrupted)
        self.answers.append(answers)
        self.groups.append(group)

    def pairs(self, name: str, source: str = "Layerwise, generated") -> PromptPairs:
        return PromptPairs(
            name,
            tuple(text for text, _ in self.clean), tuple(text for text, _ in self.corrupted),
            tuple(answer for answer, _ in self.answers), tuple(other for _, other in self.answers),
            tuple(spans for _, spans in self.clean), tuple(spans for _, spans in self.corrupted),
            np.array(self.groups), source=source, licence="Apache-2.0",
        )  # fmt: skip


def ioi() -> PromptPairs:
    """ "When Mary and John went to the store, John gave a drink to" → Mary, with Mary giving → John (Wang et al. 2022).

    396 pairs: three wordings, every ordered pair of twelve names. The parts are ``io``, ``s`` (the two names as they come in), ``s2``
    (who gives, the one difference) and ``thing``. A pair of names, whichever way round, is a group.
    """
    rows = _Rows()
    for number, (io, s) in enumerate(permutations(_NAMES, 2)):
        place, thing = _SCENES[number % len(_SCENES)]
        for template in _IOI:
            clean = _filled(template, io=io, s=s, s2=s, place=place, thing=thing)
            corrupted = _filled(template, io=io, s=s, s2=io, place=place, thing=thing)
            rows.add(clean, corrupted, (f" {io}", f" {s}"), "-".join(sorted((io, s))))
    return rows.pairs("ioi")


def agreement() -> PromptPairs:
    """ "The teacher near the nurses" → is, with "The teachers near the nurses" → are: number of the subject, another noun between.

    The nouns are those of the ``grammar`` texts; parts: ``subject``, ``noun`` (the one between). A row of that lexicon is a group.
    """
    rows = _Rows()
    for number, entry in enumerate(read_table("grammar")):
        nouns = [noun.split("/") for noun in listed(entry["nouns"])]
        for subject, other in (nouns, nouns[::-1]):
            for near in (0, 1):
                template = f"The {{subject}} {entry['prepositions']} the {{noun}}"
                forms = [_filled(template, subject=subject[form], noun=other[near]) for form in (0, 1)]
                for form, verbs in ((0, (" is", " are")), (1, (" are", " is"))):
                    rows.add(forms[form], forms[1 - form], verbs, str(number))
    return rows.pairs("agreement", "Layerwise, written by hand")


def facts() -> PromptPairs:
    """ "The city of Berlin is in the country of" → Germany, with "The city of Rome …" → Italy.

    Cities and countries are those of the ``cities`` texts, each beside a city of the country it is mistaken for there; the part is
    ``subject``. A pair of countries is a group.
    """
    rows = _Rows()
    table = {row["country"]: row for row in read_table("cities")}
    for country, row in table.items():
        if "the " in (country[:4], row["instead"][:4]):
            continue  # " the" begins many an answer
        others = listed(table[row["instead"]]["cities"])
        for city, other in zip(listed(row["cities"]), others, strict=False):
            texts = [_filled("The city of {subject} is in the country of", subject=name) for name in (city, other)]
            answers = (f" {country}", f" {row['instead']}")
            rows.add(texts[0], texts[1], answers, " / ".join(sorted((country, row["instead"]))))
    return rows.pairs("facts", "Layerwise, written from public facts")


def arithmetic() -> PromptPairs:
    """ "one plus two plus four equals" → seven, with another second number: the sum of the first two stands between.

    Numbers are words, each sum at most twelve; parts: ``a``, ``b``, ``c`` and, where the sum of the first two can be known, ``plus``.
    The three numbers' first and last are a group.
    """
    rows = _Rows()
    examples = "one plus one plus two equals four. three plus two plus one equals six. "
    for a in range(1, 6):
        for b in range(1, 6):
            for c in range(1, 5):
                other = b % 5 + 1
                if max(a + b, a + other) + c > 12:
                    continue
                template = examples + "{a} plus {b} {plus} {c} equals"
                texts = [
                    _filled(template, a=in_words(a), b=in_words(second), plus="plus", c=in_words(c))
                    for second in (b, other)
                ]
                answers = (f" {in_words(a + b + c)}", f" {in_words(a + other + c)}")
                rows.add(texts[0], texts[1], answers, f"{a} {c}")
    return rows.pairs("arithmetic")


BUNDLED: dict[str, Callable[[], PromptPairs]] = {
    "ioi": ioi, "agreement": agreement, "facts": facts, "arithmetic": arithmetic,
}  # fmt: skip


def generate(name: str) -> PromptPairs:
    """Bundled pairs by name. Raises UserError for an unknown one."""
    if name not in BUNDLED:
        raise unknown("pairs", name, BUNDLED)
    return BUNDLED[name]()
