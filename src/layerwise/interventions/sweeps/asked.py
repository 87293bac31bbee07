"""Pairs of prompts as a model sees them: token ids, the tokens that answer them, where their parts stand, batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from layerwise.data.batching import token_budget_batches
from layerwise.data.pairs.pairs import PromptPairs
from layerwise.errors import UserError
from layerwise.interventions.positions import Positions
from layerwise.interventions.prompts import Prompts
from layerwise.models.batch import Batch, Ids, budget_of, make_batch
from layerwise.models.continuations import encode, own_end
from layerwise.models.model import LanguageModel

Side = Literal["clean", "corrupted"]
Columns = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class AskedPairs:
    """``n`` pairs as token ids; both prompts of a pair are asked for the same two answers.

    ids: by side, (tokens,) of each prompt. answers, others: (n,) the first tokens of the clean prompt's answer and of the other's.
    """

    model: LanguageModel
    pairs: PromptPairs
    ids: dict[Side, list[np.ndarray]]
    offsets: dict[Side, list[np.ndarray] | None]
    answers: np.ndarray
    others: np.ndarray
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def lengths(self, side: Side) -> np.ndarray:
        """(n,) tokens of each prompt."""
        return np.array([len(row) for row in self.ids[side]])

    def select(self, rows: Sequence[int] | np.ndarray, note: str = "") -> AskedPairs:
        """Some of the pairs. Raises UserError where none is left, with the note on why."""
        rows = np.asarray(rows, dtype=np.int64)
        if not len(rows):
            raise UserError(f"no pair of {self.pairs.name} is left: {note}")

        def chosen(columns: dict[Side, list[np.ndarray]]) -> dict[Side, list[np.ndarray]]:
            return {side: [column[row] for row in rows] for side, column in columns.items()}

        offsets: dict[Side, list[np.ndarray] | None] = {
            side: None if places is None else [places[row] for row in rows] for side, places in self.offsets.items()
        }
        notes = (*self.notes, note) if note else self.notes
        return replace(
            self, pairs=self.pairs.select(rows), ids=chosen(self.ids), offsets=offsets,
            answers=self.answers[rows], others=self.others[rows], notes=notes,
        )  # fmt: skip

    def limited(self, limit: int | None, seed: int = 0) -> AskedPairs:
        """At most so many of the pairs, drawn with ``seed``."""
        if limit is None or limit >= len(self):
            return self
        return self.select(np.sort(np.random.default_rng(seed).permutation(len(self))[:limit]))

    def chunks(self, token_budget: int | None = None) -> list[np.ndarray]:
        """Row numbers of the pairs that run together: of similar length, within the token budget."""
        longest = np.maximum(self.lengths("clean"), self.lengths("corrupted"))
        return token_budget_batches(longest, budget_of(self.model.device, token_budget))

    def batch(self, side: Side, rows: np.ndarray) -> Batch:
        """Prompts of one side, padded on the right, so that a token's number is its column."""
        return make_batch(self.model, Ids(self.ids[side]), rows)

    def tokens(self, name: Literal["answers", "others"], rows: np.ndarray) -> Tensor:
        """(rows,) token ids of the answers, on the model's device."""
        return torch.from_numpy(getattr(self, name)[rows]).to(self.model.device)

    @cached_property
    def _prompts(self) -> dict[Side, Prompts]:
        """By side, what positions are found with; the batch itself is not needed for that."""
        empty = Batch({}, torch.zeros(0), torch.zeros(0))
        parts = {"clean": self.pairs.parts, "corrupted": self.pairs.corrupted_parts}
        return {
            side: Prompts(empty, None if places is None else tuple(places), parts[side])
            for side, places in self.offsets.items()
        }

    def columns(self, side: Side, positions: str) -> Columns:
        """Per pair, the tokens that positions mean (``interventions/positions.py``)."""
        said = Positions(positions)
        return tuple(tuple(said.of(row, len(ids), self._prompts[side])) for row, ids in enumerate(self.ids[side]))

    def words(self, side: Side, row: int) -> list[str]:
        """The tokens of one prompt as text."""
        return [self.model.tokenizer.decode([token]) for token in self.ids[side][row].tolist()]


def ask(model: LanguageModel, pairs: PromptPairs) -> AskedPairs:
    """Pairs as a model's tokenizer sees them; those whose answers begin with one token are left out, with a note.

    Raises UserError for an encoder or an encoder-decoder, a prompt that is too long, and where no pair is left.
    """
    if model.is_encoder or model.is_encoder_decoder:
        raise UserError(f"{model.name} does not go on from a prompt: prompts with answers need a decoder.")
    ids: dict[Side, list[np.ndarray]] = {}
    offsets: dict[Side, list[np.ndarray] | None] = {}
    for side, texts in _sides(pairs):
        tokens = model.tokenize(list(texts), truncation="error")
        ends = [
            len(row) if model.frame is not None else own_end(special)
            for row, special in zip(tokens.ids, tokens.special, strict=True)
        ]
        ids[side] = [row[:end] for row, end in zip(tokens.ids, ends, strict=True)]
        offsets[side] = (
            None if tokens.offsets is None else [row[:end] for row, end in zip(tokens.offsets, ends, strict=True)]
        )
    coded = encode(
        model,
        pairs.clean,
        [
            [text + answer for answer in both]
            for text, *both in zip(pairs.clean, pairs.answers, pairs.corrupted_answers, strict=True)
        ],
    )
    first = np.array([[int(one.ids[one.begins]) for one in row] for row in coded])
    asked = AskedPairs(model, pairs, ids, offsets, first[:, 0], first[:, 1])
    apart = first[:, 0] != first[:, 1]
    if not apart.all():
        row = int(np.flatnonzero(~apart)[0])
        asked = asked.select(
            np.flatnonzero(apart),
            f"{int((~apart).sum())} of {len(pairs)} pairs are left out, whose two answers begin with one token, such as "
            f"{pairs.answers[row]!r} and {pairs.corrupted_answers[row]!r}.",
        )
    return asked


def _sides(pairs: PromptPairs) -> Iterator[tuple[Side, tuple[str, ...]]]:
    yield "clean", pairs.clean
    yield "corrupted", pairs.corrupted


def of_equal_length(asked: AskedPairs) -> AskedPairs:
    """The pairs whose two prompts have equally many tokens; a note says how many were left out."""
    same = asked.lengths("clean") == asked.lengths("corrupted")
    if same.all():
        return asked
    row = int(np.flatnonzero(~same)[0])
    sizes = f"{len(asked.ids['clean'][row])} and {len(asked.ids['corrupted'][row])}"
    return asked.select(
        np.flatnonzero(same),
        f"{int((~same).sum())} of {len(asked)} pairs are left out, whose two prompts have different numbers of tokens, "
        f"such as {sizes}: {asked.pairs.clean[row][:60]!r}.",
    )
