"""Metrics of an intervened run: a number for each text, from its logits at one token or at all of them.

Most ask about the answer, the token that should follow the prompt: the first one of the answer where it has several.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from layerwise.data.custom import find_function, names_loader
from layerwise.errors import UserError, unknown
from layerwise.models.batch import Batch

PerToken = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits (rows, vocabulary), the text and the column of each row → (rows,)."""


@dataclass(frozen=True, eq=False)
class Measure:
    """A metric of the texts of one batch: the mean of a number per token over the tokens it reads.

    at: (texts, tokens) True at the columns whose logits it reads. per_token: the number. finish: what the mean goes through last.
    """

    name: str
    at: Tensor
    per_token: PerToken
    finish: Callable[[Tensor], Tensor] = torch.Tensor.clone

    def of(self, sums: Tensor) -> Tensor:
        """(…, texts): the metric, from the sums of the numbers over each text's tokens."""
        return self.finish(sums / self.at.sum(1))


@dataclass(frozen=True, eq=False)
class Questions:
    """A batch of prompts and what metrics ask about them.

    answers, others: (texts,) the token that should follow and the one that should not.
    clean: logits of the clean run, (rows, vocabulary), at given texts and columns; what KL is measured from.
    """

    batch: Batch
    answers: Tensor
    others: Tensor
    clean: Callable[[Tensor, Tensor], Tensor] | None = None


@dataclass(frozen=True)
class MetricEntry:
    """One of the metrics by name: what it is in words, which tokens it reads, whether more of it is better."""

    words: str
    make: Callable[[Questions], PerToken]
    tokens: Literal["last", "predicted", "all"] = "last"
    finish: Callable[[Tensor], Tensor] = torch.Tensor.clone


def _logit_difference(asked: Questions) -> PerToken:
    def value(logits: Tensor, texts: Tensor, columns: Tensor) -> Tensor:
        rows = torch.arange(len(logits), device=logits.device)
        return logits[rows, asked.answers[texts]] - logits[rows, asked.others[texts]]

    return value


def _log_probability(asked: Questions) -> PerToken:
    def value(logits: Tensor, texts: Tensor, columns: Tensor) -> Tensor:
        chosen = logits.float().gather(1, asked.answers[texts][:, None])[:, 0]
        return chosen - logits.float().logsumexp(-1)

    return value


def _probability(asked: Questions) -> PerToken:
    log_p = _log_probability(asked)
    return lambda logits, texts, columns: log_p(logits, texts, columns).exp()


def _rank(asked: Questions) -> PerToken:
    def value(logits: Tensor, texts: Tensor, columns: Tensor) -> Tensor:
        chosen = logits.gather(1, asked.answers[texts][:, None])
        return (logits > chosen).sum(1).float() + 1

    return value


def _accuracy(asked: Questions) -> PerToken:
    return lambda logits, texts, columns: (logits.argmax(-1) == asked.answers[texts]).float()


def _preference(asked: Questions) -> PerToken:
    difference = _logit_difference(asked)
    return lambda logits, texts, columns: (difference(logits, texts, columns) > 0).float()


def _kl(asked: Questions) -> PerToken:
    def value(logits: Tensor, texts: Tensor, columns: Tensor) -> Tensor:
        if asked.clean is None:
            raise UserError("kl is measured from the clean run, and here there is none.")
        clean, own = asked.clean(texts, columns).float().log_softmax(-1), logits.float().log_softmax(-1)
        return (clean.exp() * (clean - own)).sum(-1)

    return value


def _loss(asked: Questions) -> PerToken:
    ids = asked.batch.inputs.get("decoder_input_ids", asked.batch.inputs["input_ids"])

    def value(logits: Tensor, texts: Tensor, columns: Tensor) -> Tensor:
        following = ids[texts, columns + 1][:, None]
        return logits.float().logsumexp(-1) - logits.float().gather(1, following)[:, 0]

    return value


METRICS: dict[str, MetricEntry] = {
    "logit_difference": MetricEntry("logit of the answer less that of the other answer", _logit_difference),
    "log_probability": MetricEntry("log-probability of the answer, nats", _log_probability),
    "probability": MetricEntry("probability of the answer", _probability),
    "rank": MetricEntry("rank of the answer, 1 the likeliest", _rank),
    "accuracy": MetricEntry("share of texts whose likeliest next token is the answer", _accuracy),
    "preference": MetricEntry("share of texts whose answer is likelier than the other answer", _preference),
    "kl": MetricEntry("KL divergence from the clean run at the last token, nats", _kl),
    "kl_tokens": MetricEntry("KL divergence from the clean run per token, nats", _kl, "all"),
    "loss": MetricEntry("negative log-likelihood of the text per token, nats", _loss, "predicted"),
    "perplexity": MetricEntry("perplexity of the text", _loss, "predicted", torch.exp),
}


def metric_entry(name: str) -> MetricEntry:
    """A metric by name, or a function of one's own as ``my_metrics.py:surprise``.

    Such a function takes logits (rows, vocabulary) at the prompts' last tokens, the answers' token ids and those of the other
    answers, (rows,) each, and returns (rows,). Raises UserError for an unknown name.
    """
    if name in METRICS:
        return METRICS[name]
    if not names_loader(name):
        raise unknown("metric", name, METRICS)
    function: Any = find_function(name, "metric")

    def make(asked: Questions) -> PerToken:
        def value(logits: Tensor, texts: Tensor, columns: Tensor) -> Tensor:
            found = function(logits, asked.answers[texts], asked.others[texts])
            if not isinstance(found, Tensor) or found.shape != texts.shape:
                shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise UserError(f"the metric {name} must return a tensor of shape {tuple(texts.shape)}, got {shape}.")
            return found

        return value

    return MetricEntry(name.rpartition(":")[2].rpartition(".")[2], make)


def make_measure(name: str, asked: Questions) -> Measure:
    """A metric for a batch of prompts. Raises UserError for an unknown metric, and one that a batch cannot have."""
    entry = metric_entry(name)
    mask = asked.batch.mask
    after = torch.zeros_like(mask)
    after[:, :-1] = mask[:, 1:]
    at = mask & after if entry.tokens == "predicted" else mask & ~after if entry.tokens == "last" else mask
    if not bool(at.any(1).all()):
        raise UserError(f"{name} needs texts of at least two tokens.")
    return Measure(name, at, entry.make(asked), entry.finish)
