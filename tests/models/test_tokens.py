"""Tokens keep their places in the user's own text, whatever is put round it, and nothing is cut in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from layerwise.errors import UserError
from layerwise.models.chat import chat_frame
from layerwise.models.loading import load_model
from layerwise.models.tokens import Tokens, tokenize

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }} . {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TRIMMING = CHATML.replace("m['content']", "m['content'] | trim")


@pytest.fixture(scope="module")
def pieces() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a BERT-like frame, type ids and the marks of a chat."""
    vocabulary = [
        "[CLS]",
        "[SEP]",
        "[PAD]",
        "<|user|>",
        "<|assistant|>",
        "<|system|>",
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
    ]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(vocabulary)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    tokenizer.add_special_tokens(vocabulary[:6])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="[CLS]", eos_token="[SEP]", pad_token="[PAD]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def own(tokens: Tokens, index: int, text: str) -> str:
    """The user's text put together again from the places of its tokens."""
    assert tokens.offsets is not None
    places = tokens.offsets[index][~tokens.special[index]]
    assert (np.diff(places[:, 0]) >= 0).all()
    return "".join(text[start:end] for start, end in places)


def test_places_special_flags_and_ids_agree_with_the_tokenizer(pieces: PreTrainedTokenizerFast) -> None:
    texts = ["a cat", "two dogs run.", "x"]
    tokens = tokenize(pieces, texts)
    for index, text in enumerate(texts):
        plain = pieces(text, return_offsets_mapping=True, return_special_tokens_mask=True)
        assert tokens.ids[index].tolist() == plain["input_ids"]
        assert tokens.special[index].tolist() == [bool(flag) for flag in plain["special_tokens_mask"]]
        assert own(tokens, index, text) == text
        assert tokens.offsets is not None
        assert (tokens.offsets[index][tokens.special[index]] == -1).all()
    assert tokens.lengths.tolist() == [7, 15, 3]
    assert tokens.report is None
    assert tokens.ids[0].dtype == np.int64


def test_order_is_kept_over_many_texts(pieces: PreTrainedTokenizerFast) -> None:
    texts = [f"{number}" for number in range(5000)]
    tokens = tokenize(pieces, texts)
    assert len(tokens) == 5000
    assert [own(tokens, index, texts[index]) for index in (0, 2047, 2048, 4096, 4999)] == [
        "0",
        "2047",
        "2048",
        "4096",
        "4999",
    ]


def test_characters_beyond_one_byte_keep_their_place(pieces: PreTrainedTokenizerFast) -> None:
    text = "né 🙂 ok"
    tokens = tokenize(pieces, [text])
    assert tokens.offsets is not None
    places = tokens.offsets[0][~tokens.special[0]]
    assert {tuple(place) for place in places} >= {(1, 2), (3, 4), (6, 7)}
    assert places.max() == len(text)


@pytest.mark.parametrize("template", [CHATML, TRIMMING])
@pytest.mark.parametrize("system", [None, "Be brief"])
def test_chat_frame_keeps_places_in_the_users_text(
    pieces: PreTrainedTokenizerFast, template: str, system: str | None
) -> None:
    texts = ["  the city", "paris ", "user"]
    tokens = tokenize(pieces, texts, frame=chat_frame(pieces, template, system))
    for index, text in enumerate(texts):
        messages = [{"role": "user", "content": text}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        plain = pieces.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=True, return_dict=True
        )
        assert tokens.ids[index].tolist() == plain["input_ids"]
        assert tokens.ids[index].tolist().count(pieces.bos_token_id) == 1  # not doubled
        assert own(tokens, index, text) == (text.strip() if "trim" in template else text)
        assert tokens.offsets is not None
        first = tokens.offsets[index][~tokens.special[index]][0]
        assert text[first[0] : first[1]] == (text.strip() if "trim" in template else text)[0]


def test_end_of_a_long_text_is_cut_and_reported(pieces: PreTrainedTokenizerFast) -> None:
    tokens = tokenize(pieces, ["abcdefgh", "ab"], max_length=6)
    assert pieces.convert_ids_to_tokens(tokens.ids[0].tolist()) == ["[CLS]", "a", "b", "c", "d", "[SEP]"]
    assert tokens.truncated.tolist() == [True, False]
    assert tokens.report == "1 of 2 texts were cut to the longest length, losing 4 tokens (28.6 % of all)"


def test_cut_text_in_a_chat_keeps_the_template(pieces: PreTrainedTokenizerFast) -> None:
    frame = chat_frame(pieces, CHATML, None)
    tokens = tokenize(pieces, ["abcdefgh"], max_length=8, frame=frame)
    assert "".join(pieces.convert_ids_to_tokens(tokens.ids[0].tolist())) == "[CLS]<|user|>abĠ.Ġ<|assistant|>"
    with pytest.raises(UserError, match="a longest length of 6 leaves no room for text 0 beside its 6 special tokens"):
        tokenize(pieces, ["abcdefgh"], max_length=6, frame=frame)


def test_long_text_as_an_error(pieces: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"text 1 has 10 tokens, 6 fit: 'abcdefgh'"):
        tokenize(pieces, ["ab", "abcdefgh"], max_length=6, truncation="error")


def test_pairs_have_type_ids_and_lose_from_the_longer_side(pieces: PreTrainedTokenizerFast) -> None:
    tokens = tokenize(pieces, ["abcdefgh", "ab", "abcd"], ["xy", "uvwxyz", "wxyz"], max_length=9)
    written = [" ".join(pieces.convert_ids_to_tokens(row.tolist())) for row in tokens.ids]
    assert written == [
        "[CLS] a b c d [SEP] x y [SEP]",
        "[CLS] a b [SEP] u v w x [SEP]",
        "[CLS] a b c [SEP] w x y [SEP]",
    ]
    assert tokens.type_ids is not None
    assert tokens.type_ids[0].tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1]
    for row, (text, pair) in enumerate([("abcdefgh", "xy"), ("ab", "uvwxyz"), ("abcd", "wxyz")]):
        kept, expected = (
            pieces(text, pair, truncation="longest_first", max_length=9)["input_ids"],
            tokens.ids[row].tolist(),
        )
        assert kept == expected


@pytest.mark.parametrize("first", range(1, 7))
@pytest.mark.parametrize("second", range(1, 7))
def test_pairs_are_cut_to_exactly_the_length(pieces: PreTrainedTokenizerFast, first: int, second: int) -> None:
    for max_length in range(4, first + second + 4):
        tokens = tokenize(pieces, ["a" * first], ["b" * second], max_length=max_length)
        assert tokens.lengths.tolist() == [min(max_length, first + second + 3)]
        assert tokens.special[0].sum() == 3


def test_switched_on_truncation_and_padding_of_the_file_do_not_act(pieces: PreTrainedTokenizerFast) -> None:
    pieces.backend_tokenizer.enable_truncation(4)
    pieces.backend_tokenizer.enable_padding(length=30)
    assert tokenize(pieces, ["abcdefgh"]).lengths.tolist() == [10]


@pytest.mark.parametrize("texts", [["fine", ""], ["fine", "   "]])
def test_text_without_tokens_is_named(tiny_tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
    with pytest.raises(UserError, match="text 1 has no tokens"):
        tokenize(tiny_tokenizer, texts)


def test_empty_text_in_a_chat_is_named(pieces: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="text 0 has no tokens"):
        tokenize(pieces, [""], frame=chat_frame(pieces, CHATML, None))


def test_what_is_no_list_of_texts(pieces: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="takes a list of texts"):
        tokenize(pieces, "one")
    with pytest.raises(UserError, match="text 1 is not text but float: nan"):
        tokenize(pieces, ["one", float("nan")])  # type: ignore[list-item]
    with pytest.raises(UserError, match="2 texts, but 1 second texts"):
        tokenize(pieces, ["one", "two"], ["three"])
    with pytest.raises(UserError, match="text pairs do not go into a chat template"):
        tokenize(pieces, ["one"], ["two"], frame=chat_frame(pieces, CHATML, None))


def test_no_texts_give_no_tokens(pieces: PreTrainedTokenizerFast) -> None:
    tokens = tokenize(pieces, [])
    assert len(tokens) == 0
    assert tokens.report is None


def test_token_the_model_does_not_embed(pieces: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"text 0 has the token .*the model embeds 20 tokens only.\n.*model\.tokenizer"):
        tokenize(pieces, ["z"], vocabulary=20)


def test_slow_tokenizer_has_no_places_and_says_so_when_asked() -> None:
    slow = ByT5Tokenizer()
    tokens = tokenize(slow, ["abc", "defgh"], max_length=5)
    assert tokens.ids[0].tolist() == slow("abc")["input_ids"]
    assert tokens.special[0].tolist() == [False, False, False, True]
    assert slow.decode(tokens.ids[1].tolist()) == "defg</s>"
    assert tokens.offsets is None
    with pytest.raises(UserError, match="cannot tell where in the text a token stands"):
        tokens.need_offsets()
    with pytest.raises(UserError, match="a chat template needs a fast tokenizer"):
        tokenize(slow, ["abc"], frame=chat_frame(slow, CHATML, None))


def test_model_cuts_at_its_context(tiny_model_folder: Path) -> None:
    model = load_model(str(tiny_model_folder))
    tokens = model.tokenize(["the " * 100, "a cat"])
    assert tokens.lengths.tolist() == [64, 3 if "cat" in model.tokenizer.get_vocab() else 2]
    assert tokens.report is not None
    with pytest.raises(UserError, match="text 0 has 101 tokens, 64 fit"):
        model.tokenize(["the " * 100], truncation="error")
    with pytest.raises(UserError, match=r"max_length 65 is more than .* takes: 64 tokens"):
        model.tokenize(["the"], max_length=65)
    with pytest.raises(UserError, match="max_length must be at least 1, got 0"):
        model.tokenize(["the"], max_length=0)
