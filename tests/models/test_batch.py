"""Batches: masks, positions by each architecture's rule, padding sides, decoder inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import PAD, Texts, texts, tiny

from layerwise.errors import UserError
from layerwise.models.batch import make_batch


def test_right_and_left_padding_of_a_decoder() -> None:
    model, corpus = tiny("llama"), texts(2, 4)
    right = make_batch(model, corpus, [0, 1])
    left = make_batch(model, corpus, [0, 1], "left")
    assert right.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert left.mask.tolist() == [[False, False, True, True], [True] * 4]
    assert right.lengths.tolist() == left.lengths.tolist() == [2, 4]
    assert right.inputs["input_ids"][0].tolist() == [*corpus.ids[0], PAD, PAD]
    assert left.inputs["input_ids"][0].tolist() == [PAD, PAD, *corpus.ids[0]]
    assert left.inputs["position_ids"].tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    assert right.inputs["position_ids"].tolist() == [[0, 1, 1, 1], [0, 1, 2, 3]]
    assert left.inputs["attention_mask"].tolist() == left.mask.long().tolist()


def test_texts_come_in_the_order_asked() -> None:
    model, corpus = tiny("gpt2"), texts(2, 4, 3)
    batch = make_batch(model, corpus, np.array([2, 0]))
    assert batch.lengths.tolist() == [3, 2]
    assert batch.inputs["input_ids"][0].tolist() == corpus.ids[2].tolist()


@pytest.mark.parametrize(("family", "pad"), [("roberta", 1), ("esm", 0)])
def test_positions_start_behind_the_padding_index_and_do_not_guess_it_from_the_ids(family: str, pad: int) -> None:
    corpus = Texts([np.array([7, pad, 8]), np.array([9])])  # a real token that happens to be the padding token
    batch = make_batch(tiny(family), corpus, [0, 1])
    assert batch.inputs["position_ids"].tolist() == [[pad + 1, pad + 2, pad + 3], [pad + 1, pad, pad]]


@pytest.mark.parametrize("family", ["bloom", "mpt", "t5", "mamba"])
def test_models_without_positions_are_given_none(family: str) -> None:
    batch = make_batch(tiny(family), texts(2, 3), [0, 1], "left")
    assert "position_ids" not in batch.inputs


def test_a_model_that_numbers_columns_is_padded_on_the_right_only() -> None:
    model = tiny("bart")
    batch = make_batch(model, texts(2, 3), [0, 1])
    assert batch.mask.tolist() == [[True, True, False], [True] * 3]
    with pytest.raises(UserError, match="BartForConditionalGeneration numbers its positions by column"):
        make_batch(model, texts(2, 3), [0, 1], "left")


def test_the_decoder_reads_the_same_text_one_token_later() -> None:
    corpus = texts(2, 3)
    first, second = (row.tolist() for row in corpus.ids)
    bart = make_batch(tiny("bart"), corpus, [0, 1]).inputs
    assert bart["decoder_input_ids"].tolist() == [[3, first[0], PAD], [3, *second[:-1]]]
    assert bart["decoder_attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    t5 = make_batch(tiny("t5"), corpus, [0, 1], "left").inputs
    assert t5["decoder_input_ids"].tolist() == [[PAD, PAD, first[0]], [PAD, *second[:-1]]]


def test_token_types_go_to_models_that_take_them() -> None:
    corpus = Texts([np.array([5, 6, 7]), np.array([8])])
    object.__setattr__(corpus, "type_ids", [np.array([0, 0, 1]), np.array([0])])
    assert make_batch(tiny("bert"), corpus, [0, 1]).inputs["token_type_ids"].tolist() == [[0, 0, 1], [0, 0, 0]]
    assert "token_type_ids" not in make_batch(tiny("llama"), corpus, [0, 1]).inputs


@pytest.mark.parametrize("rows", [[], [np.array([], dtype=np.int64)]])
def test_an_empty_batch_or_text_is_an_error(rows: list[np.ndarray]) -> None:
    with pytest.raises(UserError, match="at least one token"):
        make_batch(tiny("llama"), Texts(rows), range(len(rows)))


def test_the_mask_is_what_the_model_attends_by() -> None:
    model = tiny("bert")
    batch = make_batch(model, texts(2, 5), [0, 1])
    changed = batch.inputs["input_ids"].clone()
    changed[0, 3:] = 9
    with torch.no_grad():
        one = model.module(**batch.inputs).logits[0, :2]
        two = model.module(**(batch.inputs | {"input_ids": changed})).logits[0, :2]
    torch.testing.assert_close(one, two)
