"""Texts turned into prompts that ask about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from layerwise.data.pairs.pairs import PromptPairs
from layerwise.interventions.steering.config import Question


def ask_about(
    texts: Sequence[str], question: Question, groups: np.ndarray | None = None, name: str = "texts"
) -> PromptPairs:
    """Prompts that ask the question about each text, with the same two answers for all; the part ``text`` is the text itself.

    A prompt stands beside itself: what sets it apart from another is not asked for here.
    """
    start = question.prompt.index("{text}")
    prompts = tuple(question.prompt.replace("{text}", text) for text in texts)
    parts = tuple({"text": (start, start + len(text))} for text in texts)
    yes, no = question.answers
    return PromptPairs(
        name, prompts, prompts, (yes,) * len(prompts), (no,) * len(prompts), parts, parts,
        None if groups is None else np.asarray(groups).astype(str),
    )  # fmt: skip
