"""Items through a model: the options of a prompt scored together, what was scored before taken from the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np

from layerwise.activations.store import Store
from layerwise.comparison.behaviour import Behaviour
from layerwise.comparison.items import Items
from layerwise.comparison.kept import Kept
from layerwise.errors import UserError
from layerwise.files import digest
from layerwise.models.continuations import Continuation, encode
from layerwise.models.generation import continue_texts
from layerwise.models.model import LanguageModel
from layerwise.models.scoring import TokenScores, score
from layerwise.progress import Progress

SCORES = "option scores"
COLUMNS = ("statement", "option", "tokens", "bytes", "greedy")  # of one item's record, (options, 5)


@runtime_checkable
class Scorer(Protocol):
    """A model that is not torch (an API, another runtime), and what it must give to take part in a comparison.

    ``option_log_likelihoods``: per item the log-likelihood in nats of each option given the prompt; of a plain text, of
    the text. ``continuations``: per prompt the text that follows it. What has the same ``fingerprint`` must give the same.
    """

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    def option_log_likelihoods(self, items: Items) -> Sequence[Sequence[float]]: ...
    def continuations(self, prompts: Sequence[str], *, max_new_tokens: int, stop: Sequence[str]) -> Sequence[str]: ...


Judged = LanguageModel | Scorer


def behave(
    model: Judged,
    items: Items,
    *,
    token_budget: int | None = None,
    store: Store | None = None,
    progress: bool = True,
) -> Behaviour:
    """What ``model`` does on ``items``; with ``store``, no item is ever scored twice by one model.

    Args:
        token_budget: padded tokens of a batch; the default fits the device.

    Raises UserError for an encoder, a model without tokenizer, an item longer than the model reads, a likelihood that is
    not a number, and a ``Scorer`` that does not give one number per option.
    """
    kept = Kept(store, SCORES, model.fingerprint)
    keys = [_reading(items, row) for row in range(len(items))]
    found = kept.read(keys)
    missing = {key: row for row, key in enumerate(keys) if key not in found}  # of equal items, one
    total = sum(max(len(items.options[row]), 1) for row in missing.values())
    with Progress(f"score {items.name} with {model.name}", total, "option", quiet=not progress) as bar:
        for number, piece in enumerate(kept.begin(list(missing), model.name, items.name)):
            names, rows = list(missing)[piece], list(missing.values())[piece]
            records = _records(model, items.select(rows), token_budget, bar.advance)
            kept.write(number, names, records)
            found |= dict(zip(names, records, strict=True))
    columns = {name: [found[key][:, place] for key in keys] for place, name in enumerate(COLUMNS)}
    return Behaviour(
        model.name,
        model.fingerprint,
        statement=columns["statement"],
        option=columns["option"],
        tokens=[values.astype(np.int64) for values in columns["tokens"]],
        bytes=[values.astype(np.int64) for values in columns["bytes"]],
        greedy=[values.astype(bool) for values in columns["greedy"]],
        stored=tuple(kept.used),
    )


def _reading(items: Items, row: int) -> str:
    """What a model reads of one item, by content."""
    return digest([items.prompts[row], items.options[row], items.placeholder])


def context(items: Items, row: int) -> str:
    """What the statements of an item have in common by its form: the prompt, or what stands before the placeholder."""
    if not items.options[row]:
        return ""
    prompt = items.prompts[row]
    before = prompt if items.placeholder is None else prompt[: prompt.index(items.placeholder)]
    return before.lstrip()


def _records(model: Judged, items: Items, token_budget: int | None, done: Callable[[int], None]) -> list[np.ndarray]:
    """Per item ``(options, 5)`` float64: the columns of ``COLUMNS``."""
    contexts = [context(items, row) for row in range(len(items))]
    statements = [items.statements(row) for row in range(len(items))]
    sizes = [
        [len(text[len(before.rstrip(" ")) :].strip().encode("utf-8", "surrogatepass")) for text in row]
        for before, row in zip(contexts, statements, strict=True)
    ]
    if not isinstance(model, LanguageModel):
        return _of_scorer(model, items, sizes, done)
    if model.frame is not None and items.placeholder is not None:
        raise UserError(
            f"items {items.name!r} have a placeholder inside their prompts, so no answer follows a message: load {model.name} "
            "without chat_template."
        )
    texts = encode(model, contexts, statements)
    scores = score(model, texts, token_budget=token_budget, done=done)
    records = [
        np.array([_summed(*one) for one in zip(*of_item, strict=True)])
        for of_item in zip(texts, scores, sizes, strict=True)
    ]
    bad = next((row for row, record in enumerate(records) if not np.isfinite(record).all()), None)
    if bad is not None:
        raise UserError(
            f"{model.name} gives item {items.ids[bad]} a likelihood that is not a number: {items.prompts[bad][:60]!r}.\n"
            "Its weights or its dtype overflow: load it in float32 or bfloat16."
        )
    return records


def _summed(text: Continuation, scores: TokenScores, size: int) -> tuple[float, ...]:
    """One option's numbers in the order of ``COLUMNS``."""
    counts = text.scored.copy()
    if text.source is None:
        counts[0] = False  # nothing is read before it
    own = counts & (np.arange(len(counts)) >= text.begins)
    return (
        float(scores.log_p[counts].sum()), float(scores.log_p[own].sum()), float(own.sum()), float(size),
        float(scores.greedy[own].all()),
    )  # fmt: skip


def _of_scorer(model: Scorer, items: Items, sizes: list[list[int]], done: Callable[[int], None]) -> list[np.ndarray]:
    """The records of a model that tells the options' likelihoods alone: as statement too, of an unknown number of tokens."""
    likelihoods = model.option_log_likelihoods(items)
    if len(likelihoods) != len(items):
        raise UserError(f"{model.name} gave likelihoods for {len(likelihoods)} items of {len(items)}.")
    records = []
    for row, (given, of_item) in enumerate(zip(likelihoods, sizes, strict=True)):
        values = np.asarray(given, dtype=np.float64)
        if values.shape != (len(of_item),) or not np.isfinite(values).all() or (values > 0).any():
            raise UserError(
                f"{model.name} must give item {items.ids[row]} {len(of_item)} log-likelihoods of at most 0, got {given}."
            )
        unknown = np.zeros_like(values)
        records.append(np.stack([values, values, unknown, np.array(of_item, dtype=np.float64), unknown], axis=1))
        done(len(of_item))
    return records


def continued(
    behaviour: Behaviour,
    model: Judged,
    items: Items,
    *,
    max_new_tokens: int = 64,
    stop: Sequence[str] = (),
    token_budget: int | None = None,
    store: Store | None = None,
    progress: bool = True,
) -> Behaviour:
    """The same behaviour with how ``model`` goes on from each prompt, always with its likeliest token.

    Args:
        max_new_tokens: at most so many tokens each.
        stop: a continuation ends behind the first of these that it holds (``["\\n", "."]``).

    Raises UserError for placeholder items, whose prompts do not go on, and a prompt that leaves no room for so many
    tokens.
    """
    if items.placeholder is not None:
        raise UserError(f"items {items.name!r} have a placeholder inside their prompts, so nothing can follow these.")
    settings = {"does": "continuations", "tokens": max_new_tokens, "stop": list(stop)}
    kept = Kept(store, f"continuations {digest(settings)[:12]}", model.fingerprint)
    keys = [digest(prompt) for prompt in items.prompts]
    found = kept.read(keys)
    missing = {key: row for row, key in enumerate(keys) if key not in found}
    with Progress(f"continue {items.name} with {model.name}", len(missing), "prompt", quiet=not progress) as bar:
        for number, piece in enumerate(kept.begin(list(missing), model.name, items.name)):
            names = list(missing)[piece]
            prompts = [items.prompts[missing[name]] for name in names]
            texts = _texts(model, prompts, max_new_tokens, stop, token_budget, bar.advance)
            # A record is an array of numbers: a text is its bytes.
            records = [
                np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)[:, None].astype(np.float64)
                for text in texts
            ]
            kept.write(number, names, records)
            found |= dict(zip(names, records, strict=True))
    texts = [found[key].astype(np.uint8).tobytes().decode("utf-8", "surrogatepass") for key in keys]
    return replace(behaviour, continuations=tuple(texts), stored=(*behaviour.stored, *kept.used))


def _texts(
    model: Judged, prompts: list[str], max_new_tokens: int, stop: Sequence[str], token_budget: int | None,
    done: Callable[[int], None],
) -> Sequence[str]:  # fmt: skip
    if not isinstance(model, LanguageModel):
        texts = list(model.continuations(prompts, max_new_tokens=max_new_tokens, stop=stop))
        if len(texts) != len(prompts) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{model.name} must give a text for each of {len(prompts)} prompts, got {len(texts)}.")
        done(len(texts))
        return texts
    return continue_texts(
        model, prompts, max_new_tokens=max_new_tokens, stop=stop, token_budget=token_budget, done=done,
    )  # fmt: skip
