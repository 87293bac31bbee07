"""Texts of the hub by the names people call them: where each lies, which column is the text, how it is tidied."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from layerwise.data.mappings import CONVERTED

Row = Mapping[str, Any]


@dataclass(frozen=True)
class HubText:
    """One source of texts.

    repo, subset, revision: where it lies; ``subset`` is the default configuration.
    text: the column of the text, a template of columns, or a function of the row.
    repos: languages that lie in another repository, or under another configuration: (repository, configuration).
    by_language: whether configurations are languages.
    tidy: from the source's rows of text to documents.
    large: how large it is, where only a stream or a limit makes sense.
    loss_after: what the loss counts only after, unless data.loss_after says otherwise.
    """

    repo: str
    subset: str | None = None
    revision: str | None = None
    text: str | Callable[[Row], str] = "text"
    repos: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    by_language: bool = False
    tidy: Callable[[Iterable[str]], Iterator[str]] = iter
    large: str | None = None
    loss_after: str | None = None


_TITLE = re.compile(r"\s*= [^=].*[^=] = ?\s*")


def articles(lines: Iterable[str]) -> Iterator[str]:
    """WikiText's lines put together to articles again: one begins at a heading of the first level, ``= Title =``.

    >>> list(articles([" = A = \\n", " text \\n", " = = Part = = \\n", " = B = \\n", " more \\n"]))
    [' = A = \\n text \\n = = Part = = \\n', ' = B = \\n more \\n']
    """
    article: list[str] = []
    for line in lines:
        if article and _TITLE.fullmatch(line):
            yield "".join(article)
            article = []
        if line.strip():
            article.append(line if line.endswith("\n") else f"{line}\n")
    if article:
        yield "".join(article)


def without_marks(texts: Iterable[str]) -> Iterator[str]:
    """Wiki-40B's texts with its marks of articles, sections and paragraphs as line breaks.

    >>> list(without_marks(["\\n_START_ARTICLE_\\nA\\n_START_PARAGRAPH_\\nOne._NEWLINE_Two."]))
    ['A\\nOne.\\nTwo.']
    """
    for text in texts:
        lines = re.sub(r"\s*_(START_ARTICLE|START_SECTION|START_PARAGRAPH|NEWLINE)_\s*", "\n", text)
        yield lines.strip()


def question_and_answer(row: Row) -> str:
    """A row of SQuAD: context, question, and the first of its answers."""
    return f"{row['context']}\nQuestion: {row['question']}\nAnswer: {row['answers']['text'][0]}"


CATALOGUE: dict[str, HubText] = {
    "c4": HubText("allenai/c4", "en", by_language=True, large="several hundred gigabytes a language"),
    "fineweb": HubText(
        "HuggingFaceFW/fineweb-2", by_language=True, repos={"en": ("HuggingFaceFW/fineweb", "sample-10BT")},
        large="up to several terabytes",
    ),
    "ptb": HubText("ptb-text-only/ptb_text_only", "penn_treebank", CONVERTED, text="sentence"),
    "squad": HubText("rajpurkar/squad", text=question_and_answer, loss_after="\nAnswer:"),
    "tinystories": HubText("roneneldan/TinyStories"),
    "wiki40b": HubText("google/wiki40b", "en", by_language=True, tidy=without_marks),
    "wikitext": HubText("Salesforce/wikitext", "wikitext-103-raw-v1", tidy=articles),
}  # fmt: skip
