"""Tokenizers: what is encoded is decoded again, cropping changes no token, what cannot be is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from layerwise.errors import UserError
from layerwise.training.cropping import crop
from layerwise.training.data_config import BytePairs, Characters, Pretrained
from layerwise.training.tokenizers import build_tokenizer, encode, frame_of

TEXTS = [
    "The cat sat on the mat, and the dog sat by the door.",
    "A cat and a dog!\n\n\tThen:  nothing more — naïve café.",
    "the theatre, the other mother and their brother",
] * 4
ODD = "Zürich 🙂 quux\r\n\x0b  end "


def round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    return tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)


class TestCharacters:
    def test_one_token_a_character_in_their_order(self) -> None:
        tokenizer = build_tokenizer(Characters(), TEXTS, begins=False)
        expected = {character: place + 4 for place, character in enumerate(sorted(set("".join(TEXTS))))}
        for text in TEXTS:
            assert tokenizer(text)["input_ids"] == [expected[character] for character in text]
            assert round_trip(tokenizer, text) == text
        assert len(tokenizer) == 4 + len(expected)

    def test_of_a_task_one_token_a_symbol(self) -> None:
        tokenizer = build_tokenizer(Characters(), [], symbols=(("12", "+", "345"), True))
        assert tokenizer("12 + 345")["input_ids"] == [2, 4, 5, 6]
        assert round_trip(tokenizer, "345 + 12") == "345 + 12"

    def test_it_begins_a_text_where_rows_are_samples(self) -> None:
        assert frame_of(build_tokenizer(Characters(), TEXTS)) == ([2], [])
        assert frame_of(build_tokenizer(Characters(), TEXTS, begins=False)) == ([], [])

    def test_an_unknown_character_in_a_prompt_is_named_with_its_place(self) -> None:
        tokenizer = build_tokenizer(Characters(), ["abc"])
        assert encode(tokenizer, "cab") == [2, 6, 4, 5]
        with pytest.raises(UserError, match=r"does not know 'x' \(character 2 of 'abx'\)"):
            encode(tokenizer, "abx")

    def test_nothing_to_make_it_of(self) -> None:
        with pytest.raises(UserError, match="no characters to make a tokenizer of"):
            build_tokenizer(Characters(), [])


class TestBytePairs:
    def test_any_text_comes_back(self) -> None:
        tokenizer = build_tokenizer(BytePairs(vocabulary=300), TEXTS)
        assert len(tokenizer) == 300
        for text in (*TEXTS, ODD):
            assert round_trip(tokenizer, text) == text
        assert tokenizer.unk_token_id not in tokenizer(ODD)["input_ids"]

    def test_frequent_words_are_one_token(self) -> None:
        tokenizer = build_tokenizer(BytePairs(vocabulary=300), TEXTS)
        assert tokenizer.tokenize("on the mat")[1] == "Ġthe"

    def test_too_small_for_the_bytes(self) -> None:
        with pytest.raises(
            UserError, match=r"vocabulary must be at least 260 \(256 bytes and 4 special tokens\), got 100"
        ):
            BytePairs(vocabulary=100)

    def test_more_than_the_texts_can_fill(self) -> None:
        with pytest.raises(UserError, match=r"pairs for \d+ tokens only, tokenizer\.vocabulary asks for 5000"):
            build_tokenizer(BytePairs(vocabulary=5000), ["ab ab"])


class TestPretrained:
    def test_it_is_the_models_own(self, tiny_model_folder: Path) -> None:
        tokenizer = build_tokenizer(Pretrained(name=str(tiny_model_folder)), [])
        assert (
            tokenizer("the city")["input_ids"]
            == AutoTokenizer.from_pretrained(tiny_model_folder)("the city")["input_ids"]
        )

    def test_a_name_that_is_none(self) -> None:
        with pytest.raises(UserError, match=r"no model '\./nothing'"):
            build_tokenizer(Pretrained(name="./nothing"), [])

    def test_a_folder_without_one(self, tmp_path: Path, tiny_model_folder: Path) -> None:
        for file in ("config.json", "model.safetensors"):
            (tmp_path / file).write_bytes((tiny_model_folder / file).read_bytes())
        with pytest.raises(UserError, match="has no tokenizer"):
            build_tokenizer(Pretrained(name=str(tmp_path)), [])


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=350, special_tokens=["<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Llama's kind: pieces of spaces as ▁, bytes for characters that are none."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=420, special_tokens=["<s>", "<unk>", *bytes_]))
    return tokenizer


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]", "[CLS]", "[SEP]"])
    )
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ids)
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=90, special_tokens=["<s>", "<unk>"], unk_token="<unk>")
    )
    return tokenizer


@pytest.mark.parametrize("make", [byte_level, byte_fallback, word_piece, unigram])
class TestCropping:
    def cropped(self, make) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
        backend = make()
        unknown = "[UNK]" if make is word_piece else None if make is byte_level else "<unk>"
        whole = PreTrainedTokenizerFast(
            tokenizer_object=backend, unk_token=unknown, bos_token=None if unknown == "[UNK]" else "<s>"
        )
        return whole, crop(whole, TEXTS[:1])

    def test_the_same_tokens_with_smaller_ids(self, make) -> None:
        whole, small = self.cropped(make)
        assert len(small) < len(whole)
        before, after = whole(TEXTS[0])["input_ids"], small(TEXTS[0])["input_ids"]
        assert small.convert_ids_to_tokens(after) == whole.convert_ids_to_tokens(before)
        assert max(after) < len(small)
        assert small.decode(after) == whole.decode(before)

    def test_other_texts_are_written_as_before_in_more_tokens(self, make) -> None:
        whole, small = self.cropped(make)
        for text in TEXTS[1:3]:
            before, after = whole(text)["input_ids"], small(text)["input_ids"]
            assert len(after) >= len(before)
            assert small.decode(after, skip_special_tokens=True) == whole.decode(before, skip_special_tokens=True)

    def test_it_is_saved_and_loaded_like_any_other(self, make, tmp_path: Path) -> None:
        _, small = self.cropped(make)
        small.save_pretrained(tmp_path)
        again = AutoTokenizer.from_pretrained(tmp_path)
        assert again(TEXTS[0])["input_ids"] == small(TEXTS[0])["input_ids"]
        assert len(again) == len(small)


def test_words_that_are_not_used_are_unknown_to_a_cropped_list_of_words(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    small = crop(tiny_tokenizer, ["paris is in france ."])
    assert len(small) == 4 + 5
    assert small.tokenize("paris is in italy .") == ["paris", "is", "in", "<unk>", "."]
    assert small("paris")["input_ids"][0] == small.bos_token_id
