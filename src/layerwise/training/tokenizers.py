"""Tokenizers for training: characters, byte pairs learnt from the data, or a pretrained one; all are transformers' own fast ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from layerwise.errors import UserError
from layerwise.models.hub import offline
from layerwise.models.quiet import quiet_transformers
from layerwise.models.sources import find
from layerwise.training.cropping import crop
from layerwise.training.data_config import BytePairs, Pretrained, TokenizerSettings

PAD, UNKNOWN, BEGIN, END = "<pad>", "<unk>", "<bos>", "<eos>"
SPECIALS = (PAD, UNKNOWN, BEGIN, END)

Symbols = tuple[Sequence[str], bool]


def build_tokenizer(
    settings: TokenizerSettings, texts: Iterable[str], symbols: Symbols | None = None, begins: bool = True
) -> PreTrainedTokenizerFast:
    """The tokenizer of the settings, learnt from ``texts`` where there is something to learn.

    Args:
        texts: the training texts, gone through once.
        symbols: of a task, and whether they stand apart by spaces: the vocabulary of ``characters``.
        begins: whether a made tokenizer puts ``<bos>`` before a text.

    Raises UserError for texts without characters, a vocabulary the texts cannot fill, a tokenizer that cannot be loaded.
    """
    if isinstance(settings, Pretrained):
        found = load_pretrained(settings.name)
        return crop(found, texts) if settings.crop else found
    if isinstance(settings, BytePairs):
        return _framed(learn_byte_pairs(texts, settings.vocabulary), begins)
    if symbols is not None:
        return _framed(symbol_tokenizer(*symbols), begins)
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    return _framed(symbol_tokenizer(sorted(characters), spaced=False), begins)


def symbol_tokenizer(symbols: Sequence[str], spaced: bool) -> Tokenizer:
    """One token per symbol after the four special ones; symbols stand apart by spaces, or are single characters."""
    if not symbols:
        raise UserError("the training texts hold no characters to make a tokenizer of.")
    if taken := [symbol for symbol in symbols if symbol in SPECIALS]:
        raise UserError(f"{taken[0]!r} is a special token of the tokenizer and cannot be a symbol of the data.")
    vocabulary = {symbol: place for place, symbol in enumerate((*SPECIALS, *symbols))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    if spaced:
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
    return tokenizer


def learn_byte_pairs(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE (as GPT-2's) of exactly ``vocabulary`` tokens. Raises UserError where the texts have too few pairs for it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lines(texts), trainer)
    if tokenizer.get_vocab_size() < vocabulary:
        raise UserError(
            f"the training texts hold pairs for {tokenizer.get_vocab_size()} tokens only, tokenizer.vocabulary asks for {vocabulary}.\n"
            "Ask for fewer, or give more text."
        )
    return tokenizer


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Texts in pieces of whole lines: the trainer keeps what it is given, a book at once would need several times its size."""
    for text in texts:
        yield from text.splitlines(keepends=True)


def _framed(tokenizer: Tokenizer, begins: bool) -> PreTrainedTokenizerFast:
    if begins:
        begin = tokenizer.token_to_id(BEGIN)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B", special_tokens=[(BEGIN, begin)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD, unk_token=UNKNOWN, bos_token=BEGIN, eos_token=END,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def load_pretrained(name: str) -> PreTrainedTokenizerFast:
    """A pretrained tokenizer. Raises UserError where there is none of that name, or none that is fast."""
    source = find(name)
    if not source.has_tokenizer:
        raise UserError(f"{name} has no tokenizer: no tokenizer.json or the like in {source.location}.")
    try:
        with quiet_transformers():
            tokenizer: Any = AutoTokenizer.from_pretrained(
                source.location, revision=source.revision, local_files_only=source.folder is not None or offline()
            )
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the tokenizer of {name}: {str(error).splitlines()[0]}") from error
    if not tokenizer.is_fast:
        raise UserError(f"the tokenizer of {name} is not a fast one, which training needs.")
    tokenizer.backend_tokenizer.no_truncation()  # a tokenizer.json may switch these on
    tokenizer.backend_tokenizer.no_padding()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
    found: PreTrainedTokenizerFast = tokenizer
    return found


def frame_of(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """The ids a tokenizer puts before and after a text by itself."""
    inner = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a")
    for start in range(len(whole) - len(inner) + 1):
        if whole[start : start + len(inner)] == inner:
            return whole[:start], whole[start + len(inner) :]
    return [], []


def unknown_id(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """The id that stands for what the tokenizer does not know; None where it can write any text."""
    unknown: int | None = tokenizer.unk_token_id
    return None if unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id) else unknown


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The ids of a prompt, what begins a text before it and nothing after it.

    Raises UserError where the tokenizer does not know a part of the text.
    """
    begin, _ = frame_of(tokenizer)
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    unknown = unknown_id(tokenizer)
    if unknown is not None and unknown in coded["input_ids"]:
        start, end = coded["offset_mapping"][coded["input_ids"].index(unknown)]
        raise UserError(f"the tokenizer does not know {text[start:end]!r} (character {start} of {text[:40]!r}).")
    return [*begin, *coded["input_ids"]]
