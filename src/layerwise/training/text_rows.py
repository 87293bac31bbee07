"""Texts as rows: token ids, which of them the loss counts, and what becomes of a text over the context."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from layerwise.errors import UserError
from layerwise.progress import Progress
from layerwise.training.packing import Coded, Rows, in_blocks, one_a_row
from layerwise.training.tokenizers import frame_of, unknown_id

_PIECE = 1024  # texts tokenized at once


@dataclass(frozen=True)
class TextCoder:
    """Texts into tokens.

    context: tokens of a row at most.
    packing, too_long: as in the settings of the data.
    marker: the text after which the loss counts, in the texts that hold it; none: it counts everywhere.
    """

    tokenizer: PreTrainedTokenizerFast
    context: int
    packing: str = "blocks"
    too_long: str = "refuse"
    marker: str | None = None

    def code(self, texts: Iterable[str]) -> Iterator[list[Coded]]:
        """For each text its pieces in tokens: one, unless it is split.

        In blocks a text is followed by the end token; as a row it also begins as the tokenizer begins a text.
        Raises UserError for a text over the context that is to be a row.
        """
        begin, end = frame_of(self.tokenizer)
        if self.packing == "blocks":
            begin, end = [], []
        if not end and self.tokenizer.eos_token_id is not None:
            end = [self.tokenizer.eos_token_id]
        remaining = iter(texts)
        while piece := list(islice(remaining, _PIECE)):
            rows = self.tokenizer.backend_tokenizer.encode_batch(piece, add_special_tokens=False)
            for text, row in zip(piece, rows, strict=True):
                ids = np.array([*begin, *row.ids, *end], dtype=np.int32)
                counted = np.ones(len(ids), dtype=bool)
                place = -1 if self.marker is None else text.find(self.marker)
                if place >= 0:
                    counted[: len(begin)] = False
                    after = place + len(self.marker or "")
                    counted[len(begin) : len(begin) + len(row.ids)] = [stop > after for _, stop in row.offsets]
                yield self._fitting(ids, counted, text)

    def _fitting(self, ids: NDArray[np.int32], counted: NDArray[np.bool_], text: str) -> list[Coded]:
        if self.packing == "blocks" or len(ids) <= self.context:
            return [Coded(ids, counted)]
        if self.too_long == "refuse":
            raise UserError(
                f"a text has {len(ids):,} tokens, the context holds {self.context:,}: {text[:50]!r}….\n"
                "Set context higher, data.too_long to cut or split, or data.packing to blocks."
            )
        if self.too_long == "cut":
            return [Coded(ids[: self.context], counted[: self.context])]
        # As in blocks, a piece begins with the token the one before ended with.
        starts = range(0, len(ids) - 1, self.context - 1)
        return [Coded(ids[start : start + self.context], counted[start : start + self.context]) for start in starts]


def code_texts(
    parts: dict[str, Sequence[str]], coder: TextCoder, quiet: bool = False
) -> tuple[dict[str, Rows], list[str]]:
    """The rows of each part, and notes on what was not in the vocabulary or left out.

    Raises UserError for a marker that no text holds, and a part in which the loss counts nothing.
    """
    rows, notes = {}, []
    if coder.marker is not None and not any(coder.marker in text for texts in parts.values() for text in texts):
        raise UserError(f"no text holds {coder.marker!r}, after which the loss is to count (data.loss_after).")
    with Progress("tokenizing", sum(map(len, parts.values())), "text", quiet) as progress:
        for name, texts in parts.items():
            coded: list[Coded] = []
            for pieces in coder.code(texts):
                coded += pieces
                progress.advance()
            rows[name] = in_blocks(coded, coder.context) if coder.packing == "blocks" else one_a_row(coded)
            if not rows[name].counted.any():
                raise UserError(
                    f"the loss counts no token of the {name} texts: what follows {coder.marker!r} was cut off.\n"
                    "Set context higher, or data.too_long to split."
                )
            notes += _unknown(name, coded, coder.tokenizer)
    return rows, notes


def _unknown(name: str, coded: Sequence[Coded], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    unknown = unknown_id(tokenizer)
    count = sum(int((sample.ids == unknown).sum()) for sample in coded) if unknown is not None else 0
    if not count:
        return []
    total = sum(len(sample.ids) for sample in coded)
    return [
        f"{count:,} of {total:,} tokens of the {name} texts are not in the vocabulary and were read as {tokenizer.unk_token}."
    ]
