"""A synthetic task as rows: which samples belong to which part, and their token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from layerwise.data.tasks.base import Sample, Task
from layerwise.errors import UserError
from layerwise.progress import Progress
from layerwise.training.data_config import TaskData
from layerwise.training.packing import Coded, Rows, one_a_row
from layerwise.training.tokenizers import frame_of, unknown_id

_PIECE = 4096  # samples tokenized at once


@dataclass(frozen=True)
class TaskPart(Sequence[Sample]):
    """Samples of a task's sequence, by their indices there."""

    task: Task
    seed: int
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Sample:  # type: ignore[override]
        return self.task.sample(self.seed, self.indices[place])


def task_parts(data: TaskData, task: Task, seed: int) -> dict[str, TaskPart]:
    """The samples of each part. Raises UserError where a task dealt without repetition has too few."""
    wanted = data.test + data.validation + data.train
    if task.size is not None and wanted > task.size:
        raise UserError(
            f"task {data.name} has {task.size:,} different samples, and data.train, validation and test ask for {wanted:,}.\n"
            f"Set data.train to at most {task.size - data.test - data.validation:,}, or give the task more symbols."
        )
    parts = {
        "train": TaskPart(task, seed, range(data.test + data.validation, wanted)),
        "validation": TaskPart(task, seed, range(data.test, data.test + data.validation)),
    }
    if data.test:
        parts["test"] = TaskPart(task, seed, range(data.test))
    for length in data.test_lengths:
        parts[f"test_length_{length}"] = TaskPart(task.of_length(length), seed, range(data.test or data.validation))
    return parts


def whole_vocabulary(parts: dict[str, TaskPart]) -> tuple[str, ...]:
    """Every symbol of any part: longer test samples may need some that training never shows."""
    return tuple(dict.fromkeys(symbol for part in parts.values() for symbol in part.task.vocabulary))


def task_texts(part: TaskPart) -> Iterator[str]:
    """The samples as texts."""
    for sample in part:
        yield part.task.text(sample.prompt + sample.answer)


def check_room(parts: dict[str, TaskPart], tokenizer: PreTrainedTokenizerFast, context: int) -> None:
    """UserError where the longest sample does not fit into the context, counted in symbols."""
    begin, end = frame_of(tokenizer)
    around = len(begin) + max(len(end), 1)
    for name, part in parts.items():
        if part.task.longest + around > context:
            raise UserError(
                f"a sample of {part.task.name} ({name}) has up to {part.task.longest} symbols and {around} special tokens, the context holds {context}.\n"
                f"Set context to at least {part.task.longest + around}, or shorten the samples (data.options.max_length)."
            )


def code_task(
    parts: dict[str, TaskPart], tokenizer: PreTrainedTokenizerFast, context: int, loss: str, quiet: bool = False
) -> tuple[dict[str, Rows], dict[str, list[int]], list[str]]:
    """The rows of each part, the indices of the held-out samples that are their rows, and notes on what was left out.

    A row is what begins a text, prompt, answer, and the end token; the loss counts the answer and its end, or everything. A
    held-out sample whose prompt is trained on is left out: short ones above all, of which there are few.
    Raises UserError for a symbol the tokenizer does not know, a sample that is too long in tokens, and a held-out part of which
    nothing is left.
    """
    coder = _Coder(tokenizer, context, loss)
    trained: set[int] = set()  # hashes of prompts: millions of them are few megabytes
    rows: dict[str, Rows] = {}
    indices: dict[str, list[int]] = {}
    notes = []
    with Progress("samples", sum(len(part) for part in parts.values()), "sample", quiet) as progress:
        for name, part in parts.items():
            coded: list[Coded] = []
            kept: list[int] = []
            for start in range(0, len(part), _PIECE):
                places = range(start, min(start + _PIECE, len(part)))
                drawn = {part.indices[place]: part[place] for place in places}
                if name == "train":
                    trained.update(hash(sample.prompt) for sample in drawn.values())
                else:
                    drawn = {index: sample for index, sample in drawn.items() if hash(sample.prompt) not in trained}
                    kept += drawn
                coded += coder.code(part.task, list(drawn.values()))
                progress.advance(len(places))
            if not coded:
                raise UserError(
                    f"every sample of {part.task.name} in {name} is also trained on: there are too few different ones.\n"
                    "Make them longer, or train on fewer."
                )
            if len(coded) < len(part):
                notes.append(
                    f"{len(part) - len(coded):,} of {len(part):,} {name} samples were left out: their prompts are trained on."
                )
            rows[name] = one_a_row(coded)
            if name != "train":
                indices[name] = kept
    return rows, indices, notes


@dataclass(frozen=True)
class _Coder:
    tokenizer: PreTrainedTokenizerFast
    context: int
    loss: str

    def code(self, task: Task, samples: Sequence[Sample]) -> list[Coded]:
        if not samples:
            return []
        begin, end = frame_of(self.tokenizer)
        if not end and self.tokenizer.eos_token_id is not None:
            end = [self.tokenizer.eos_token_id]
        apart = " " if task.spaced else ""
        prompts = self._ids(task, [task.text(sample.prompt) for sample in samples])
        answers = self._ids(task, [apart + task.text(sample.answer) for sample in samples])
        coded = []
        for sample, prompt, answer in zip(samples, prompts, answers, strict=True):
            ids = np.array([*begin, *prompt, *answer, *end], dtype=np.int32)
            if len(ids) > self.context:
                raise UserError(
                    f"a sample of {task.name} has {len(ids)} tokens, the context holds {self.context}: {task.text(sample.prompt)[:60]!r}.\n"
                    f"Set context to at least {len(ids)}, or shorten the samples (data.options.max_length)."
                )
            counted = np.ones(len(ids), dtype=bool)
            if self.loss == "answer" and not sample.prompt_counts:
                counted[: len(begin) + len(prompt)] = False
            coded.append(Coded(ids, counted))
        return coded

    def _ids(self, task: Task, texts: list[str]) -> list[list[int]]:
        coded = self.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        unknown = unknown_id(self.tokenizer)
        for text, row in zip(texts, coded, strict=True):
            if unknown is not None and unknown in row.ids:
                start, stop = row.offsets[row.ids.index(unknown)]
                raise UserError(
                    f"the tokenizer does not know {text[start:stop]!r}, a symbol of task {task.name}. Use tokenizer: characters."
                )
        return [row.ids for row in coded]
