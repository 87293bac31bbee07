"""Settings of steering and of the causal check of a probe. Nothing here imports more than the standard library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from layerwise.data.config import DatasetConfig
from layerwise.errors import UserError

DOSES = (-4.0, -2.0, 2.0, 4.0)


@dataclass(frozen=True)
class Question:
    """What a model is asked about a text, and how it may answer.

    prompt: ``{text}`` stands for the text, which is the part ``text`` of the prompt, and the words its dataset points at the part ``span``;
        whatever else it says is the same for all.
    answers: of the second class, then of the first: what follows the prompt, with the space before it.
    """

    prompt: str = "{text} This statement is"
    answers: tuple[str, str] = (" true", " false")

    def __post_init__(self) -> None:
        if self.prompt.count("{text}") != 1:
            raise UserError(f"a question's prompt holds {{text}} once, got {self.prompt!r}.")
        if not all(answer.strip() for answer in self.answers) or self.answers[0] == self.answers[1]:
            raise UserError(f"a question has two different answers, got {', '.join(map(repr, self.answers))}.")


@dataclass(frozen=True)
class CausalCheck:
    """Does the model use what a probe reads? Its direction is added and projected out, and random ones of the same length beside it.

    probe: ``runs:/RUN_ID`` (of a probe or a search), ``models:/NAME/1`` or a folder; ``latest`` is the last one logged.
    vector: the probe's ``weights``, their ``pattern`` (Haufe et al. 2014), or the difference of the class ``means`` where it reads.
    question: what the model is asked about the probe's own held-out texts; null takes the pairs' prompts and answers.
    positions: the tokens of the prompt that are acted on; by default those that the probe reads: the text's last, its span, or all of it.
    strengths: doses; 1 is as far as the class means lie apart along the direction.
    random: how many random directions of each kind.
    control: drawn from the ``sphere``, or as the ``activations`` spread; the first named decides.
    limit: at most so many texts.
    """

    kind: Literal["causal_check"] = field(default="causal_check", kw_only=True)
    probe: str = "latest"
    vector: Literal["weights", "pattern", "means"] = "weights"
    question: Question | None = field(default_factory=Question)
    positions: str | None = None
    strengths: list[float] = field(default_factory=lambda: list(DOSES))
    random: int = 20
    control: list[Literal["sphere", "activations"]] = field(default_factory=lambda: ["sphere", "activations"])
    limit: int | None = 64

    def __post_init__(self) -> None:
        check_doses(self.strengths)
        check_count("random", self.random)
        check_count("limit", self.limit)
        if not self.control:
            raise UserError("intervention.control is empty: name sphere, activations or both.")


@dataclass(frozen=True)
class Samples:
    """What a steered model writes, greedily.

    prompts: what it goes on from.
    max_new_tokens: how far.
    """

    prompts: list[str] = field(default_factory=list, metadata={"splits": False})
    max_new_tokens: int = 24


@dataclass(frozen=True)
class Steering:
    """A direction is added at every strength and site, and the behaviour and the likelihood of neutral text looked at.

    direction: ``means`` (difference of the class means, or of a pair's two prompts), ``pca`` (of the differences of pairs), a probe
        (``latest``, ``runs:/…``, ``models:/…``), or a file: ``direction.safetensors#name``, ``.npy`` or repeng's ``.gguf``.
    sites: where it is found and added; of a probe by default where that reads.
    read: the token whose activations it is found in: ``last`` or ``mean``.
    question: what is asked about texts; the pairs' own prompts and answers without texts.
    positions: the tokens of the prompt that it is added to.
    strengths: doses; 1 is as far as the two kinds lie apart along it, or a file's vector as it is.
    random: random directions of the same length, at the site with the largest effect.
    neutral: texts whose likelihood should stay.
    samples: what the steered model writes, at that site.
    """

    kind: Literal["steering"] = field(default="steering", kw_only=True)
    direction: str = "means"
    sites: list[str] = field(default_factory=list)
    read: Literal["last", "mean"] = "last"
    question: Question = field(default_factory=Question)
    positions: str = "all"
    strengths: list[float] = field(default_factory=lambda: list(DOSES))
    random: int = 20
    neutral: DatasetConfig = field(default_factory=lambda: DatasetConfig("topics", limit=16))
    samples: Samples = field(default_factory=Samples)

    def __post_init__(self) -> None:
        check_doses(self.strengths)
        check_count("random", self.random)


@dataclass(frozen=True)
class ITI:
    """Inference-time intervention (Li et al. 2023): the heads that tell two classes apart best are shifted along what tells them apart.

    heads: how many, by a probe's cross-validated accuracy on each.
    direction: the difference of the class ``means``, or the probe's ``weights``.
    strengths: in standard deviations of the texts along each head's direction.
    read, question, positions, random, neutral, samples: as of steering; random directions are those of the same heads.
    """

    kind: Literal["iti"] = field(default="iti", kw_only=True)
    heads: int = 16
    direction: Literal["means", "weights"] = "means"
    strengths: list[float] = field(default_factory=lambda: [-10.0, -5.0, 5.0, 10.0])
    read: Literal["last", "mean"] = "last"
    question: Question = field(default_factory=Question)
    positions: str = "all"
    random: int = 20
    neutral: DatasetConfig = field(default_factory=lambda: DatasetConfig("topics", limit=16))
    samples: Samples = field(default_factory=Samples)

    def __post_init__(self) -> None:
        check_doses(self.strengths)
        check_count("heads", self.heads)
        check_count("random", self.random)


def check_doses(strengths: list[float]) -> None:
    """UserError where nothing is given at all, or one dose twice."""
    if not strengths or not all(strengths) or len(set(strengths)) != len(strengths):
        raise UserError(
            f"intervention.strengths are different numbers, none of them 0, which is always measured; got {strengths}."
        )


def check_count(name: str, count: int | None) -> None:
    """UserError for less than one of something."""
    if count is not None and count < 1:
        raise UserError(f"intervention.{name} must be at least 1, got {count}.")
