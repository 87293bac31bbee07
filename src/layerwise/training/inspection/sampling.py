"""What a model writes: drawn with temperature, top-k and nucleus, its likeliest token each time, or by beam search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from layerwise.errors import UserError, check_seed
from layerwise.models.batch import Ids, budget_of, make_batch, takes_left_padding
from layerwise.models.continuations import Continuation
from layerwise.models.generation import end_tokens, prompt_batches
from layerwise.models.model import LanguageModel
from layerwise.models.quiet import quiet_transformers
from layerwise.models.scoring import score
from layerwise.training.inspection.config import Sampling
from layerwise.training.inspection.reading import Reading, read_prompts

# Everything a model's own generation_config may ask for, set to nothing.
_PLAIN: dict[str, Any] = {
    "do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "length_penalty": 1.0,
}  # fmt: skip
_ALL_TOKENS: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "typical_p": 1.0, "min_p": None}


@dataclass(frozen=True)
class Sample:
    """One continuation.

    text: what was written, without the prompt and special tokens. ids: its tokens, the one that ended it included.
    log_p: log-probability of all of them under the model itself (temperature 1, every token), in nats.
    ended: whether the model ended it, rather than ``max_new_tokens``.
    """

    prompt: str
    text: str
    ids: tuple[int, ...]
    log_p: float
    ended: bool


def sample(
    model: LanguageModel,
    prompts: Sequence[str],
    sampling: Sampling | None = None,
    *,
    seed: int = 0,
    token_budget: int | None = None,
    done: Callable[[int], None] = lambda prompts: None,
) -> list[list[Sample]]:
    """Continuations of each prompt, ``sampling.samples`` of each; drawn in order, of beams the likeliest first.

    An empty prompt begins a text. The same seed and budget give the same samples, and the caller's random generators are
    left as they are. Raises UserError for an encoder, a prompt without room, and what transformers refuses.
    """
    sampling = sampling or Sampling()
    check_seed(seed)
    if model.is_encoder or not model.module.can_generate():
        raise UserError(f"{model.name} cannot generate text: take a decoder or an encoder-decoder.")
    readings = read_prompts(model, prompts, sampling.max_new_tokens)
    drawn = sampling.samples if sampling.draws else 1
    rows = [reading for reading in readings for _ in range(drawn)]
    returned = sampling.samples // drawn
    budget = max(1, budget_of(model.device, token_budget) // sampling.beams)
    tokens = Ids([reading.ids for reading in rows])
    written: list[list[list[int]]] = [[] for _ in rows]
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), quiet_transformers(), torch.no_grad():
        torch.manual_seed(seed)
        lengths = np.array([len(row) for row in rows])
        for batch in prompt_batches(model, lengths, sampling.max_new_tokens, budget):
            found = _generate(model, tokens, batch, sampling, returned)
            for place, row in enumerate(batch):
                written[row] = found[place * returned : (place + 1) * returned]
            done(len(batch))
    samples = _samples(model, rows, written, token_budget)
    each = drawn * returned
    return [samples[start : start + each] for start in range(0, len(samples), each)]


def _generate(
    model: LanguageModel, tokens: Ids, batch: np.ndarray, sampling: Sampling, returned: int
) -> list[list[int]]:
    """The tokens written behind each row of a batch, ``returned`` for each, up to the one that ends it."""
    side = "left" if not model.is_encoder_decoder and takes_left_padding(model.module) else None
    inputs = make_batch(model, tokens, batch, side).inputs  # type: ignore[arg-type]
    settings = {**_PLAIN, "max_new_tokens": sampling.max_new_tokens, "num_return_sequences": returned}
    if sampling.draws:
        settings |= {**_ALL_TOKENS, "do_sample": True, "temperature": sampling.temperature}
        settings |= {} if sampling.top_k is None else {"top_k": sampling.top_k}
        settings |= {} if sampling.top_p is None else {"top_p": sampling.top_p}
    else:
        settings["num_beams"] = sampling.beams
    if model.tokenizer.pad_token_id is not None:
        settings["pad_token_id"] = model.tokenizer.pad_token_id
    width = 1 if model.is_encoder_decoder else inputs["input_ids"].shape[1]
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    try:
        ids = model.module.generate(**given, **settings)
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"transformers cannot generate so: {' '.join(str(error).split())[:300]}") from error
    ends = end_tokens(model)
    return [_with_its_end(row, ends) for row in ids[:, width:].tolist()]


def _with_its_end(ids: list[int], ends: set[int]) -> list[int]:
    """The tokens up to the first that ends a text; what follows it is padding."""
    return ids[: next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))]


def _samples(
    model: LanguageModel, rows: Sequence[Reading], written: Sequence[Sequence[list[int]]], token_budget: int | None
) -> list[Sample]:
    """The samples with the probability the model itself gives them."""
    pairs = [(row, ids) for row, several in zip(rows, written, strict=True) for ids in several]
    whole = [[_continuation(model, row, ids)] for row, ids in pairs]
    scores = score(model, whole, token_budget=token_budget)
    ends = end_tokens(model)
    return [
        Sample(
            row.prompt,
            _text(model, row, ids),
            tuple(ids),
            float(of_row.log_p[-len(ids) :].sum()),
            bool(ids) and ids[-1] in ends,
        )
        for (row, ids), [of_row] in zip(pairs, scores, strict=True)
    ]


def _text(model: LanguageModel, row: Reading, ids: list[int]) -> str:
    """The written tokens as text behind the prompt: by themselves, many tokenizers drop the space before a first word."""
    alone: str = model.tokenizer.decode(ids, skip_special_tokens=True)
    if model.is_encoder_decoder or not len(row.ids):
        return alone
    last = int(row.ids[-1])
    before: str = model.tokenizer.decode([last], skip_special_tokens=True)
    behind: str = model.tokenizer.decode([last, *ids], skip_special_tokens=True)
    return behind[len(before) :] if behind.startswith(before) else alone


def _continuation(model: LanguageModel, row: Reading, ids: list[int]) -> Continuation:
    if model.is_encoder_decoder:
        return Continuation(np.array(ids), 0, np.ones(len(ids), dtype=bool), row.ids)
    whole = np.concatenate([row.ids, ids]).astype(np.int64)
    return Continuation(whole, len(row), np.arange(len(whole)) >= len(row))
