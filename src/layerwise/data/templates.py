"""One text in several wordings: what a probe finds should not hang on how the question is put."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from layerwise.data.config import PLACE
from layerwise.data.dataset import TextDataset


def in_wordings(dataset: TextDataset, templates: Sequence[str]) -> TextDataset:
    """Every text once in each template, copies of a text next to each other; the dataset itself without templates.

    Labels and splits go with each copy; spans and labelled pieces move to where the text now stands; both sides of a contrast
    pair get the template, second texts of text pairs do not; ids gain a number. Copies of a text stay in one group, so that
    none is tested on whose other wording was trained on. Wordings that the dataset named itself are replaced.

    Args:
        templates: each with ``{text}`` once, as ``DatasetConfig`` checks.
    """
    if not templates:
        return dataset
    rows, turns = np.repeat(np.arange(len(dataset)), len(templates)), np.tile(np.arange(len(templates)), len(dataset))
    copies = dataset.select(rows)
    before = np.array([template.index(PLACE) for template in templates])[turns]
    frames = [templates[turn] for turn in turns]
    spans, tokens, contrast, ids = copies.spans, copies.token_labels, copies.contrast, copies.ids
    return replace(
        copies,
        texts=tuple(map(_put, frames, copies.texts)),
        groups=rows if dataset.groups is None and len(templates) > 1 else copies.groups,
        spans=None if spans is None else spans + before[:, None],
        token_labels=None
        if tokens is None
        else tuple(
            tuple((start + by, end + by, label) for start, end, label in row)
            for row, by in zip(tokens, before.tolist(), strict=True)
        ),
        contrast=None
        if contrast is None
        else tuple(
            (_put(frame, one), _put(frame, other)) for frame, (one, other) in zip(frames, contrast, strict=True)
        ),
        ids=None if ids is None else tuple(f"{name}/{turn}" for name, turn in zip(ids, turns, strict=True)),
        templates=np.array(frames),
    )


def _put(template: str, text: str) -> str:
    return template.replace(PLACE, text)
