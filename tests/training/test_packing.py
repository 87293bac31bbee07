"""Rows: every token predicted once in blocks, samples whole in rows, padding that no loss counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import DataCollatorForSeq2Seq

from layerwise.errors import UserError
from layerwise.training.data_config import Characters
from layerwise.training.packing import IGNORED, Coded, Rows, in_blocks, one_a_row, pad
from layerwise.training.streamed import StreamedRows
from layerwise.training.text_rows import TextCoder
from layerwise.training.tokenizers import build_tokenizer


def coded(*lengths: int) -> list[Coded]:
    """Samples whose ids count on from one to the next."""
    ends = np.cumsum(lengths)
    return [
        Coded(np.arange(end - length, end, dtype=np.int32), np.arange(length) % 3 > 0)
        for length, end in zip(lengths, ends, strict=True)
    ]


def predicted(rows: Rows) -> list[int]:
    """The labels a causal model is scored on, in order: the first of each row has nothing before it."""
    return [int(label) for row in rows for label in row["labels"][1:] if label != IGNORED]


class TestBlocks:
    @pytest.mark.parametrize("context", [2, 3, 7, 10])
    def test_every_token_but_the_first_is_predicted_once(self, context: int) -> None:
        samples = [Coded(sample.ids, np.ones(len(sample.ids), bool)) for sample in coded(5, 1, 12, 3)]
        rows = in_blocks(samples, context)
        assert {len(row["input_ids"]) for row in rows} == {context}
        full = 20 // (context - 1) * (context - 1)
        assert predicted(rows) == list(range(1, full + 1))

    def test_the_mask_goes_along(self) -> None:
        samples = coded(5, 6)
        rows = in_blocks(samples, 6)
        counted = {int(i) for sample in samples for i, c in zip(sample.ids, sample.counted, strict=True) if c}
        assert predicted(rows) == sorted(counted - {0})

    def test_less_than_a_block_is_one_short_row(self) -> None:
        rows = in_blocks(coded(3, 2), 64)
        assert [row["input_ids"].tolist() for row in rows] == [[0, 1, 2, 3, 4]]

    def test_a_context_of_one_predicts_nothing(self) -> None:
        with pytest.raises(UserError, match="the context must be at least 2"):
            in_blocks(coded(4), 1)


class TestRows:
    def test_samples_are_rows(self) -> None:
        rows = one_a_row(coded(3, 1, 2))
        assert [row["input_ids"].tolist() for row in rows] == [[0, 1, 2], [3], [4, 5]]
        assert rows[0]["labels"].tolist() == [IGNORED, 1, 2]
        assert rows[-1]["input_ids"].tolist() == [4, 5]
        with pytest.raises(IndexError):
            rows[3]

    @pytest.mark.parametrize("lengths", [(3, 1, 2), (4, 4, 4)])
    def test_a_batch_is_its_rows(self, lengths: tuple[int, ...]) -> None:
        rows = one_a_row(coded(*lengths))
        for wanted in ([2, 0, 1], [1], [0, 0]):
            for row, found in zip((rows[place] for place in wanted), rows.__getitems__(wanted), strict=True):
                assert {name: value.tolist() for name, value in found.items()} == {
                    name: value.tolist() for name, value in row.items()
                }

    def test_padding_is_that_of_transformers(self, tiny_tokenizer) -> None:
        rows = [one_a_row(coded(3, 1, 5))[place] for place in range(3)]
        batch = pad(rows, pad_id=0)
        lists = [{name: value.tolist() for name, value in row.items()} for row in rows]
        expected = DataCollatorForSeq2Seq(tiny_tokenizer, return_tensors="pt")(lists)
        for name in ("input_ids", "labels", "attention_mask"):
            assert torch.equal(batch[name], expected[name]), name


class TestStream:
    TEXTS = ("first text", "a", "the second of them", "x" * 40, "end") * 3

    def rows(self, packing: str, seed: int = 0) -> list[list[int]]:
        tokenizer = build_tokenizer(Characters(), self.TEXTS, begins=packing == "samples")
        coder = TextCoder(tokenizer, 16, packing, too_long="split")
        stream = StreamedRows(lambda: iter(self.TEXTS), coder, seed)
        found = [row["input_ids"].tolist() for row in stream]
        assert found == [row["input_ids"].tolist() for row in stream]
        return found

    @pytest.mark.parametrize("packing", ["blocks", "samples"])
    def test_the_same_rows_as_without_a_stream_in_another_order(self, packing: str) -> None:
        tokenizer = build_tokenizer(Characters(), self.TEXTS, begins=packing == "samples")
        samples = [piece for text in TextCoder(tokenizer, 16, packing, "split").code(self.TEXTS) for piece in text]
        rows = in_blocks(samples, 16) if packing == "blocks" else one_a_row(samples)
        whole = [row["input_ids"].tolist() for row in rows]
        streamed = self.rows(packing)
        assert sorted(streamed) == sorted(whole)
        assert streamed != whole
        assert self.rows(packing, seed=1) != streamed
