"""Tasks to align: a causal model, and how its inputs are put to a network and its answers read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.alignment.causal_model import CausalModel, Setting
from layerwise.interventions.alignment.sampling import Filter, Sampler
from layerwise.interventions.prompts import Prompts, prompts
from layerwise.models.batch import Batch

Spans = Mapping[str, tuple[int, int]]


class AlignmentTask(Protocol):
    """What an alignment asks of a task.

    held_out: settings that training never sees; None where they come from a space too large to meet one twice.
    allowed: settings that make sense; None for all. learn: trains a network on the task, where it has one of its own.
    """

    @property
    def name(self) -> str: ...
    @property
    def causal(self) -> CausalModel: ...
    @property
    def answers(self) -> tuple[Any, ...]: ...
    @property
    def held_out(self) -> Filter | None: ...
    @property
    def allowed(self) -> Filter | None: ...
    @property
    def learn(self) -> Callable[..., Any] | None: ...

    def encode(self, model: Any, settings: Sequence[Setting]) -> Prompts:
        """Settings as one batch of inputs."""

    def candidates(self, model: Any) -> Tensor | None:
        """(answers,) the token each answer begins with; None where the network's outputs are the answers in their order."""


@dataclass(frozen=True, eq=False)
class VectorTask:
    """A task for a network that takes one vector, its outputs the answers in their order.

    vector: the numbers of a setting.
    """

    name: str
    causal: CausalModel
    answers: tuple[Any, ...]
    vector: Callable[[Setting], Sequence[float]]
    held_out: Filter | None = None
    learn: Callable[..., Any] | None = None
    allowed: Filter | None = None

    def encode(self, model: Any, settings: Sequence[Setting]) -> Prompts:
        values = torch.tensor([self.vector(setting) for setting in settings], device=model.device, dtype=model.dtype)
        n = len(values)
        mask = torch.ones(n, 1, dtype=torch.bool, device=values.device)
        return Prompts(Batch({"input": values}, mask, mask.sum(1)))

    def candidates(self, model: Any) -> None:
        return None


@dataclass(frozen=True, eq=False)
class TextTask:
    """A task in words, answered by the next token.

    text: the prompt of a setting, and start and end characters of its parts by name.
    words: the text of each answer, its leading space included; its first token is what the model must say.
    """

    name: str
    causal: CausalModel
    answers: tuple[Any, ...]
    text: Callable[[Setting], tuple[str, Spans]]
    words: Mapping[Any, str]
    held_out: Filter | None = None
    learn: Callable[..., Any] | None = None
    allowed: Filter | None = None

    def encode(self, model: Any, settings: Sequence[Setting]) -> Prompts:
        texts, parts = zip(*(self.text(setting) for setting in settings), strict=True)
        return prompts(model, list(texts), parts=list(parts))

    def candidates(self, model: Any) -> Tensor:
        """Raises UserError where two answers begin with the same token."""
        given = self.text(Sampler(self.causal, 0, where=self.allowed).draw())[0]
        prompt, *rest = model.tokenize([given, *(given + self.words[answer] for answer in self.answers)]).ids
        # What a tokenizer puts at the end of every text belongs to no answer.
        differs = (place for place in range(len(prompt)) if any(row[place] != prompt[place] for row in rest))
        start = next(differs, len(prompt))
        tokens = [int(row[start]) for row in rest]
        for place, token in enumerate(tokens):
            if token in tokens[:place]:
                pair = self.answers[tokens.index(token)], self.answers[place]
                raise UserError(
                    f"{model.name} begins the answers {pair[0]!r} and {pair[1]!r} with the same token: they cannot be told apart."
                )
        return torch.tensor(tokens, device=model.device)


def classes(task: AlignmentTask, values: Sequence[Any]) -> Tensor:
    """(n,) the number of each answer."""
    numbers = {answer: number for number, answer in enumerate(task.answers)}
    return torch.tensor([numbers[value] for value in values])
