"""Grammatical contrasts over one small lexicon: tense, number of the subject, subject-verb agreement.

A row of the lexicon has two nouns, two verbs and a preposition of its own and is a group, so no noun and no verb is both in
training and in test data: what a probe learns must be the feature, not the words.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from layerwise.data.dataset import TextDataset
from layerwise.data.generators.tables import listed, read_table
from layerwise.errors import unknown

FORMS = ("singular", "plural")
PLACES = ("near", "behind", "beside", "before")  # of sentences that end before their verb, each in all
LABELS = {
    "tense": ("past", "present"),
    "number": FORMS,
    "agreement": ("ungrammatical", "grammatical"),
    "subject": FORMS,
}


def grammar(variety: str = "tense") -> TextDataset:
    """ "The teacher near the nurses walked.": 640 sentences on one contrast, half of each class.

    Every sentence has a second noun of either number between subject and verb, so the noun next to the verb decides nothing.

    Args:
        variety: ``tense`` (past or present), ``number`` (of the subject, verbs in the past or future, which show no number),
            ``agreement`` (whether subject and verb agree), or ``subject`` (number of the subject, in sentences that end before their
            verb; the subject is the span).

    The wordings are ``past`` and ``future`` for ``number``, and ``same number`` and ``other number`` (of the second noun, which
    tempts where it differs) for the other two.
    """
    if variety not in LABELS:
        raise unknown("variety of grammar", variety, LABELS)
    texts, labels, groups, templates, spans = [], [], [], [], []
    for row, entry in enumerate(read_table("grammar")):
        for text, label, template in _sentences(variety, entry):
            texts.append(text)
            labels.append(label)
            groups.append(row)
            templates.append(template)
            spans.append((len("The "), text.index(" ", len("The "))))
    return TextDataset(
        name=f"grammar:{variety}",
        texts=tuple(texts), labels=np.array(labels), task="classification", label_names=LABELS[variety],
        groups=np.array(groups), templates=np.array(templates), spans=np.array(spans) if variety == "subject" else None,
        source="Layerwise, written by hand", licence="Apache-2.0",
    )  # fmt: skip


def _sentences(variety: str, entry: dict[str, str]) -> Iterator[tuple[str, int, str]]:
    """Sentence, class id and wording, every combination of the row's words once."""
    nouns = [noun.split("/") for noun in listed(entry["nouns"])]
    verbs = [verb.split("/") for verb in listed(entry["verbs"])]
    if variety == "subject":
        for (subject, other), place, number, near in product((nouns, nouns[::-1]), PLACES, (0, 1), (0, 1)):
            yield f"The {subject[number]} {place} the {other[near]}", number, _nearby(number, near)
        return
    for (subject, other), (third_person, base, past), number, near in product(
        (nouns, nouns[::-1]), verbs, (0, 1), (0, 1)
    ):
        start = f"The {subject[number]} {entry['prepositions']} the {other[near]}"
        present = (third_person, base)
        nearby = _nearby(number, near)
        if variety == "tense":
            yield f"{start} {past}.", 0, nearby
            yield f"{start} {present[number]}.", 1, nearby
        elif variety == "agreement":
            yield f"{start} {present[1 - number]}.", 0, nearby
            yield f"{start} {present[number]}.", 1, nearby
        else:
            yield f"{start} {past}.", number, "past"
            yield f"{start} will {base}.", number, "future"


def _nearby(number: int, near: int) -> str:
    return "same number" if number == near else "other number"
