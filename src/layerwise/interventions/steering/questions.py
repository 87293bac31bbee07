"""Texts turned into prompts that ask about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from layerwise.data.pairs.pairs import PromptPairs
from layerwise.interventions.steering.config import Question


def ask_about(
    texts: Sequence[str],
    question: Question,
    groups: np.ndarray | None = None,
    name: str = "texts",
    spans: np.ndarray | None = None,
) -> PromptPairs:
    """Prompts that ask the question about each text, with the same two answers for all.

    The part ``text`` is the text itself; the part ``span`` the (n, 2) characters of each text that its dataset names, where it does.
    A prompt stands beside itself: what sets it apart from another is not asked for here.
    """
    start = question.prompt.index("{text}")
    prompts = tuple(question.prompt.replace("{text}", text) for text in texts)
    parts = [{"text": (start, start + len(text))} for text in texts]
    for part, (first, end) in zip(parts, [] if spans is None else spans.tolist(), strict=False):
        part["span"] = (start + first, start + end)
    yes, no = question.answers
    return PromptPairs(
        name, prompts, prompts, (yes,) * len(prompts), (no,) * len(prompts), tuple(parts), tuple(parts),
        None if groups is None else np.asarray(groups).astype(str),
    )  # fmt: skip
