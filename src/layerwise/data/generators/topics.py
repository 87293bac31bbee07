"""Sentences on eight topics. Subjects and predicates of one row of the table are a group, so that most of what a test
sentence says was never in training: the topic has to be known, not looked up."""

from __future__ import annotations

from itertools import product

import numpy as np

from layerwise.data.dataset import TextDataset
from layerwise.data.generators.tables import listed, read_table


def topics() -> TextDataset:
    """ "The comet crossed the orbit of Mars.": 648 sentences, 81 on each of eight topics."""
    rows = read_table("topics")
    names = tuple(dict.fromkeys(row["topic"] for row in rows))
    texts, labels, groups = [], [], []
    for group, row in enumerate(rows):
        for subject, predicate in product(listed(row["subjects"]), listed(row["predicates"])):
            texts.append(f"{subject} {predicate}.")
            labels.append(names.index(row["topic"]))
            groups.append(group)
    return TextDataset(
        name="topics",
        texts=tuple(texts), labels=np.array(labels), task="classification", label_names=names,
        groups=np.array(groups),
        source="Layerwise, written by hand", licence="Apache-2.0",
    )  # fmt: skip
