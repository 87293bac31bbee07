"""Texts as rows: token ids, which of them the loss counts, and what becomes of a text over the context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from layerwise.errors import UserError
from layerwise.progress import Progress
from layerwise.training.data_config import FilesData
from layerwise.training.packing import Coded, Rows, in_blocks, one_a_row
from layerwise.training.text import Texts
from layerwise.training.tokenizers import frame_of

_PIECE = 1024  # texts tokenized at once


def code_texts(
    texts: Texts, data: FilesData, tokenizer: PreTrainedTokenizerFast, context: int, quiet: bool = False
) -> tuple[dict[str, Rows], list[str]]:
    """The rows of each part, and notes.

    Raises UserError for a text over the context that is to be a row of its own, and a marker that no text holds.
    """
    rows, notes = {}, []
    with Progress("tokenizing", sum(len(part) for part in texts.parts.values()), "text", quiet) as progress:
        for name, samples in texts.parts.items():
            coded: list[Coded] = []
            marked = 0
            for sample, found in code_samples(samples, data, tokenizer, context):
                coded.append(sample)
                marked += found
                progress.advance()
            if data.loss_after is not None and not marked:
                raise UserError(
                    f"no {name} text holds {data.loss_after!r}, after which the loss is to count (data.loss_after)."
                )
            rows[name] = one_a_row(coded) if data.packing == "samples" else in_blocks(coded, context)
            notes += _unknown(name, coded, tokenizer)
    return rows, notes


def code_samples(
    texts: Sequence[str], data: FilesData, tokenizer: PreTrainedTokenizerFast, context: int
) -> Iterator[tuple[Coded, bool]]:
    """Each text in tokens, and whether it holds the marker.

    In blocks a text is followed by the end token; as a row it also begins as the tokenizer begins a text.
    """
    begin, end = frame_of(tokenizer)
    if data.packing == "blocks":
        begin, end = [], []
    if not end and tokenizer.eos_token_id is not None:
        end = [tokenizer.eos_token_id]
    for start in range(0, len(texts), _PIECE):
        piece = list(texts[start : start + _PIECE])
        for place, row in enumerate(tokenizer.backend_tokenizer.encode_batch(piece, add_special_tokens=False)):
            ids = np.array([*begin, *row.ids, *end], dtype=np.int32)
            counted = np.ones(len(ids), dtype=bool)
            after = -1 if data.loss_after is None else piece[place].find(data.loss_after)
            if after >= 0:
                marker = after + len(data.loss_after or "")
                counted[: len(begin)] = False
                counted[len(begin) : len(begin) + len(row.ids)] = [stop > marker for _, stop in row.offsets]
            if data.packing == "samples" and len(ids) > context:
                yield from (
                    (part, after >= 0) for part in _too_long(ids, counted, context, data.too_long, piece[place])
                )
            else:
                yield Coded(ids, counted), after >= 0


def _too_long(ids: np.ndarray, counted: np.ndarray, context: int, rule: str, text: str) -> list[Coded]:
    if rule == "refuse":
        raise UserError(
            f"a text has {len(ids):,} tokens, the context holds {context:,}: {text[:50]!r}….\n"
            "Set the model's context higher, data.too_long to cut or split, or data.packing to blocks."
        )
    if rule == "cut":
        return [Coded(ids[:context], counted[:context])]
    # As in blocks, a piece begins with the token the one before ended with.
    starts = range(0, len(ids) - 1, context - 1)
    return [Coded(ids[start : start + context], counted[start : start + context]) for start in starts]


def _unknown(name: str, coded: Sequence[Coded], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown == tokenizer.eos_token_id:
        return []
    count = sum(int((sample.ids == unknown).sum()) for sample in coded)
    total = sum(len(sample.ids) for sample in coded)
    if not count:
        return []
    return [
        f"{count:,} of {total:,} tokens of the {name} texts are not in the tokenizer's vocabulary and were read as {tokenizer.unk_token}."
    ]
