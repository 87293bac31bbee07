"""Texts to train on: read from files or the hub, split into training, validation and test, mixed over languages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from layerwise.errors import UserError
from layerwise.training.data_config import FilesData, HubData, TextSettings
from layerwise.training.file_texts import file_texts
from layerwise.training.hub_texts import hub_texts, source_of

PARTS = ("train", "validation", "test")
FEW = 20  # so few samples in blocks are held out by characters: three books are not split one by one
Reader = Callable[[], Iterator[str]]


@dataclass(frozen=True)
class Texts:
    """The samples of each part, and notes on how they were read.

    parts: train (unless streamed), validation and, if any are held out, test.
    stream: of streamed texts, a function that begins the training samples anew.
    """

    parts: dict[str, Sequence[str]]
    notes: tuple[str, ...] = ()
    stream: Reader | None = None


def marker(data: TextSettings) -> str | None:
    """The text after which the loss counts: as the settings or the source say."""
    if data.loss_after is None and isinstance(data, HubData):
        return source_of(data).loss_after
    return data.loss_after


def read_texts(data: TextSettings) -> Texts:
    """The samples the settings name, split and mixed.

    Raises UserError where there is nothing to read or too little to split.
    """
    notes: list[str] = []
    sources = {"": file_texts(data, notes)} if isinstance(data, FilesData) else hub_texts(data)
    if data.streaming:
        return _stream(data, sources, notes)
    every: dict[str, list[Sequence[str]]] = {name: [] for name in PARTS}
    for source in sources.values():
        for name, samples in split_texts(
            {part: _take(read(), data.limit) for part, read in source.items()}, data
        ).items():
            every[name].append(samples)
    balanced = isinstance(data, HubData) and data.balanced
    parts: dict[str, Sequence[str]] = {
        name: mixed(found, balanced) for name, found in every.items() if len(found) == len(sources)
    }
    if len(sources) > 1:
        used = min(map(len, every["train"])) if balanced else 0
        counts = (
            f"{used or len(found):,} of {len(found):,} {name}"
            for name, found in zip(sources, every["train"], strict=True)
        )
        notes.append(f"training samples by language: {', '.join(counts)}.")
    return Texts(parts, tuple(notes))


def mixed(sources: Sequence[Sequence[str]], balanced: bool) -> list[str]:
    """One sample of each source in turn until one has no more; or all, one source after the other.

    >>> mixed([["a", "b"], ["x", "y", "z"]], balanced=True)
    ['a', 'x', 'b', 'y']
    """
    if balanced:
        return [sample for turn in zip(*sources, strict=False) for sample in turn]
    return [sample for source in sources for sample in source]


def split_texts(parts: dict[str, list[str]], data: TextSettings) -> dict[str, Sequence[str]]:
    """Training, validation and test: as given, or the end of the training samples in order, test last.

    A few long samples in blocks are split by characters. Raises UserError where one of them is empty.
    """
    train = parts["train"]
    found: dict[str, Sequence[str]] = {name: parts[name] for name in PARTS[1:] if parts.get(name)}
    wanted = {name: getattr(data, name) for name in ("test", "validation") if name not in found and getattr(data, name)}
    size = len(train)
    by_characters = data.packing == "blocks" and size < FEW and all(share < 1 for share in wanted.values())
    total = sum(map(len, train)) if by_characters else size
    cut = _cut_characters if by_characters else _cut_samples
    for name, amount in wanted.items():
        count = int(amount) if amount >= 1 else total - int(total * (1 - amount))
        train, found[name] = cut(train, count)
        if not train or not found[name]:
            raise UserError(
                f"too few samples ({size}) to hold out {amount:g} for {name} and train on the rest.\n"
                f"Give more text, or set data.{name} lower."
            )
    if not train:
        raise UserError("there are no texts to train on.")
    if "validation" not in found:
        raise UserError("there are no validation texts: set data.validation above 0, or give a file named validation.")
    return {"train": train, **{name: found[name] for name in PARTS[1:] if name in found}}


def _cut_samples(samples: list[str], count: int) -> tuple[list[str], list[str]]:
    place = max(len(samples) - count, 0)
    return samples[:place], samples[place:]


def _cut_characters(samples: list[str], count: int) -> tuple[list[str], list[str]]:
    """The samples without their last ``count`` characters, and these."""
    head, tail = list(samples), []
    while count > 0 and head:
        last = head.pop()
        kept = max(len(last) - count, 0)
        count -= len(last) - kept
        tail.append(last[kept:])
        if kept:
            head.append(last[:kept])
    return head, tail[::-1]


def _take(texts: Iterable[str], limit: int | None) -> list[str]:
    return list(islice(texts, limit))


def _stream(data: TextSettings, sources: dict[str, dict[str, Reader]], notes: list[str]) -> Texts:
    """Held-out parts read now, from their own part or from the beginning of the stream, evenly from all sources."""
    readers = {
        part: [source[part] for source in sources.values()]
        for part in PARTS
        if all(part in source for source in sources.values())
    }
    held: dict[str, Sequence[str]] = {}
    skipped = 0
    for part in PARTS[1:]:
        amount = getattr(data, part)
        if not amount:
            continue
        if amount < 1:
            raise UserError(
                f"a stream has no known end, so data.{part} must be a number of samples, got the share {amount:g}."
            )
        own = part in readers
        held[part] = _take(_in_turn(readers[part if own else "train"], 0 if own else skipped), int(amount))
        skipped += 0 if own else len(held[part])
        if len(held[part]) < amount:
            raise UserError(
                f"the stream has only {len(held[part])} samples for {part}, data.{part} asks for {int(amount)}."
            )
    if "validation" not in held:
        raise UserError("a stream needs data.validation: how many samples to hold out.")

    def training() -> Iterator[str]:
        return islice(_in_turn(readers["train"], skipped), data.limit)

    if next(training(), None) is None:
        raise UserError(f"the stream has nothing left to train on after the {skipped} samples that are held out.")
    return Texts(held, tuple(notes), training)


def _in_turn(readers: Sequence[Reader], skipped: int) -> Iterator[str]:
    """One sample of each reader in turn until one has no more, after the first ``skipped``."""
    turns = zip(*(read() for read in readers), strict=False)
    return islice((sample for turn in turns for sample in turn), skipped, None)
