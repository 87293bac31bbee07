"""What a model in training writes: answers to a task's held-out prompts, which are checked, and texts to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from layerwise.errors import UserError
from layerwise.models.model import LanguageModel
from layerwise.training.config import EvaluationConfig
from layerwise.training.inspection.config import Sampling
from layerwise.training.inspection.sampling import sample
from layerwise.training.prepared import PreparedData

_BEGINNING = 8  # tokens of a held-out text that a written one begins with


@dataclass(frozen=True)
class Written:
    """One prompt and what the model made of it. ``right`` is None where there is no right answer."""

    prompt: str
    text: str
    expected: str | None = None
    right: bool | None = None


def language_model(module: nn.Module, tokenizer: Any) -> LanguageModel:
    """A model in training as the rest of the project takes models; an adapter stays where it is put in."""
    inner: Any = module.get_base_model() if hasattr(module, "get_base_model") else module  # type: ignore[operator]
    return LanguageModel(inner, tokenizer, "the model in training")


def answers(model: LanguageModel, data: PreparedData, part: str, limit: int) -> list[Written]:
    """The likeliest answers to the first ``limit`` prompts of a part of a task's data; right is what its checker says.

    An answer must end by itself: what goes on behind it makes it wrong.
    """
    assert data.task is not None
    assert data.samples is not None
    drawn = data.samples[part]
    samples = [drawn[place] for place in range(min(limit, len(drawn)))]
    lengths = [
        (
            len(data.prompt_ids(one.prompt)),
            len(data.tokenizer.encode(data.task.text(one.answer), add_special_tokens=False)),
        )
        for one in samples
    ]
    found: list[Written | None] = [None] * len(samples)
    for group, room in _groups(lengths, model.max_length):
        prompts = [data.task.text(samples[place].prompt) for place in group]
        greedy = Sampling(max_new_tokens=room, temperature=0)
        for place, [written] in zip(group, sample(model, prompts, greedy), strict=True):
            one, answer = samples[place], data.answer(list(written.ids))
            found[place] = Written(
                data.task.text(one.prompt), data.task.text(answer), data.task.text(one.answer),
                written.ended and data.task.check(one.prompt, answer),
            )  # fmt: skip
    return [one for one in found if one is not None]


def _groups(lengths: Sequence[tuple[int, int]], most: int | None) -> Iterator[tuple[list[int], int]]:
    """Prompts that are answered together and the tokens of their answers: as many as fit, end token included."""
    group: list[int] = []
    longest = room = 0
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        prompt, answer = lengths[place]
        if group and most is not None and max(longest, prompt) + max(room, answer + 1) > most:
            yield group, room
            group, longest, room = [], 0, 0
        group.append(place)
        longest, room = max(longest, prompt), max(room, answer + 1)
    if group:
        yield group, room


def texts(model: LanguageModel, data: PreparedData, config: EvaluationConfig, seed: int) -> list[Written]:
    """Texts the model writes behind the prompts of the config, or behind the beginnings of held-out texts; always from one seed."""
    begins = config.prompts or [
        data.tokenizer.decode(data.validation[row]["input_ids"][:_BEGINNING], skip_special_tokens=True)
        for row in range(min(config.texts, len(data.validation)))  # type: ignore[arg-type]
    ]
    longest = max(len(data.tokenizer.encode(begin)) for begin in begins)
    room = config.new_tokens if model.max_length is None else min(config.new_tokens, model.max_length - longest)
    if room < 1:
        raise UserError(f"evaluation.prompts: the longest has {longest} tokens, which leaves no room in the context.")
    found = sample(model, begins, Sampling(max_new_tokens=room, temperature=config.temperature), seed=seed)
    return [Written(one.prompt, one.text) for [one] in found]
