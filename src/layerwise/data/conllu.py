"""CoNLL-U treebanks (universaldependencies.org/format): a label for each word, or for each sentence by its head word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from layerwise.data.table import Table
from layerwise.errors import UserError, unknown

WORD_COLUMNS = {"upos": 3, "xpos": 4, "deprel": 7}
FEATURES = 5
SENTENCE = "sentence:"
Word = tuple[tuple[str, ...], int, int]  # the ten columns, and the word's characters in the text


@dataclass(frozen=True)
class Sentence:
    """A sentence's text and its words."""

    text: str
    words: tuple[Word, ...]


def read_conllu(path: Path, text: str, label: str | None) -> Table:
    """A treebank as a table.

    Args:
        label: ``upos`` (also the default), ``xpos``, ``deprel`` or a feature such as ``Tense`` for a label per word (words
            without it have none); ``sentence:Tense`` for one label per sentence, that of its main clause's finite verb
            (``is`` in "The sky is blue", ``has`` in "He has gone"), else of its root; sentences without one are left out and
            counted in the notes.
    """
    sentences = list(_sentences(path, text))
    wanted = label or "upos"
    feature = wanted.removeprefix(SENTENCE)
    known = set(WORD_COLUMNS) | {
        name for sentence in sentences for word, _, _ in sentence.words for name in _features(word)
    }
    if feature not in known:
        raise unknown(f"word label in {path.name}", feature, known)
    if not wanted.startswith(SENTENCE):
        spans = [
            [[start, end, value] for word, start, end in s.words if (value := _value(word, feature))] for s in sentences
        ]
        frame = pd.DataFrame({"text": [sentence.text for sentence in sentences], wanted: spans})
        return Table(frame, chosen={"text": "text", "token_spans": wanted})
    rows = []
    for sentence in sentences:
        head = _clause_head(sentence, feature)
        if head is not None:
            word, start, end = head
            rows.append({"text": sentence.text, wanted: _value(word, feature), "head": [start, end]})
    if not rows:
        raise UserError(f"{path}: no sentence whose main verb has {feature}.")
    left_out = len(sentences) - len(rows)
    return Table(
        pd.DataFrame(rows),
        notes=(
            f"{path.name}: {left_out} of {len(sentences)} sentences have no {feature} on their main verb and are left out.",
        ),
        chosen={"text": "text", "label": wanted, "span": "head"},
    )


def _clause_head(sentence: Sentence, feature: str) -> Word | None:
    """The word that carries ``feature`` for the main clause: its finite verb (the root, its copula or auxiliary), else its root."""
    root = next((word for word in sentence.words if word[0][6] == "0"), None)
    if root is None:
        return None
    around = [
        word for word in sentence.words if word[0][6] == root[0][0] and word[0][7].split(":")[0] in ("aux", "cop")
    ]
    having = [word for word in (root, *around) if _value(word[0], feature)]
    finite = [word for word in having if _features(word[0]).get("VerbForm") == "Fin"]
    return finite[0] if finite else root if root in having else None


def _value(word: tuple[str, ...], feature: str) -> str | None:
    if feature in WORD_COLUMNS:
        value = word[WORD_COLUMNS[feature]]
        return None if value == "_" else value
    return _features(word).get(feature)


def _features(word: tuple[str, ...]) -> dict[str, str]:
    if word[FEATURES] == "_":
        return {}
    return dict(part.split("=", 1) for part in word[FEATURES].split("|") if "=" in part)


def _sentences(path: Path, text: str) -> Iterator[Sentence]:
    lines: list[tuple[str, ...]] = []
    given: str | None = None
    for number, line in enumerate([*text.split("\n"), ""], 1):
        line = line.rstrip("\r")
        if not line:
            if lines:
                yield _place(lines, given)
            lines, given = [], None
        elif line.startswith("#"):
            if line.startswith("# text ="):
                given = line.removeprefix("# text =").strip()
        else:
            cells = tuple(line.split("\t"))
            if len(cells) != 10:
                raise UserError(
                    f"{path}, line {number}: a CoNLL-U word has 10 columns separated by tabs, got {len(cells)}."
                )
            lines.append(cells)


def _place(lines: list[tuple[str, ...]], given: str | None) -> Sentence:
    """Find each word's characters in the sentence's text; words inside a contraction (``3-4 don't``) share its characters."""
    surface, covered_until = [], 0
    for cells in lines:
        first, _, last = cells[0].partition("-")
        if "." in first:  # an empty node: not in the text
            continue
        if last:
            covered_until = int(last)
            surface.append((cells, range(int(first), int(last) + 1)))
        elif int(first) > covered_until:
            surface.append((cells, range(int(first), int(first) + 1)))
    text = given if given is not None and _contains(given, [cells[1] for cells, _ in surface]) else None
    if text is None:
        text = "".join(cells[1] + ("" if "SpaceAfter=No" in cells[9] else " ") for cells, _ in surface).strip()
    at, where = 0, {}
    for cells, ids in surface:
        start = text.index(cells[1], at)
        at = start + len(cells[1])
        where.update(dict.fromkeys(ids, (start, at)))
    words = [cells for cells in lines if cells[0].isdigit()]
    return Sentence(text, tuple((cells, *where[int(cells[0])]) for cells in words))


def _contains(text: str, forms: list[str]) -> bool:
    """Whether the forms occur in the text one after another."""
    at = 0
    for form in forms:
        found = text.find(form, at)
        if found < 0:
            return False
        at = found + len(form)
    return True
