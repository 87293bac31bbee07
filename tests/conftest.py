"""Fixtures every test may use: a tiny real model on disk, its parts, and a cache of its own for the session.

A cascade: ``tiny_tokenizer`` → ``tiny_model_folder`` (Llama, two layers, width 16) → whatever loads it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import setuptools  # noqa: F401  (torch.compile imports it, which fails once another library has the standard library's distutils)

# Before anything imports torch: tests share the cores between processes, not inside them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).parents[1].parent / "shared"
WORDS = [
    "the",
    "a",
    "city",
    "of",
    "paris",
    "rome",
    "london",
    "madrid",
    "is",
    "in",
    "france",
    "italy",
    "england",
    "spain",
    "and",
    "not",
    "larger",
    "than",
    "smaller",
    "one",
    "two",
    "three",
    "four",
    "five",
    "dog",
    "cat",
    "runs",
    "sleeps",
    "good",
    "bad",
    "movie",
    "was",
    "very",
    "not",
    "true",
    "false",
    "statement",
    ".",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Searches that are killed take longest: begun first, they are not what is waited for in the end."""
    items.sort(key=lambda item: "search" not in item.path.parent.name)


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache folder of this test session, so that no test reads or fills the person's own."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("LAYERWISE_CACHE")
    os.environ["LAYERWISE_CACHE"] = str(folder)
    yield folder
    if before is None:
        os.environ.pop("LAYERWISE_CACHE", None)
    else:
        os.environ["LAYERWISE_CACHE"] = before


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models beside the checkout; skips where there is none."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside this checkout")
    return SHARED


def build_tokenizer():
    """A word-level tokenizer over WORDS with <pad>, <unk>, <s>, </s>; unknown words become single characters' <unk>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(["<pad>", "<unk>", "<s>", "</s>", *dict.fromkeys(WORDS)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A </s> $B", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=64,
    )


@pytest.fixture(scope="session")
def tiny_tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer) -> Path:
    """A random two-layer Llama (width 16, 4 heads, 2 key-value heads, context 64) saved as the hub has it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder
