"""Data ready for training: rows of token ids for each part, their tokenizer, kept under a key of everything they depend on."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from layerwise.data.tasks.base import Task
from layerwise.data.tasks.registry import make_task
from layerwise.errors import UserError
from layerwise.files import atomic_folder, cache_folder, digest, file_digest
from layerwise.training.data_config import (
    Characters,
    DataSettings,
    Pretrained,
    TaskData,
    TextSettings,
    TokenizerSettings,
)
from layerwise.training.packing import Rows
from layerwise.training.streamed import StreamedRows
from layerwise.training.task_rows import TaskPart, check_room, code_task, task_parts, task_texts, whole_vocabulary
from layerwise.training.text import marker, read_texts
from layerwise.training.text_rows import TextCoder, code_texts
from layerwise.training.tokenizers import build_tokenizer, encode, load_pretrained

FORMAT = "layerwise training data 2"
REPORT = "report.json"
LEARNT_FROM = 10_000  # texts of a stream that its tokenizer is learnt from

RowSet = Dataset[dict[str, torch.Tensor]]


@dataclass(frozen=True)
class DataReport:
    """What was prepared: for each part its rows, tokens and the tokens the loss counts; and notes for a person."""

    parts: dict[str, dict[str, int]]
    notes: tuple[str, ...]
    vocabulary: int


@dataclass(frozen=True)
class PreparedData:
    """Rows to train and evaluate on.

    train, validation: datasets of ``{input_ids, labels}``, each (tokens,) int64; labels are -100 where no loss counts.
    test: further sets by name: ``test``, and ``test_length_30`` and the like.
    task, samples: of a synthetic task, the task and the samples of each held-out part, in the order of its rows.
    digest: sha256 of all rows and the tokenizer.
    """

    train: RowSet
    validation: RowSet
    test: dict[str, RowSet]
    tokenizer: PreTrainedTokenizerFast
    digest: str
    report: DataReport
    task: Task | None = None
    samples: dict[str, TaskPart] | None = None

    def prompt_ids(self, prompt: tuple[str, ...]) -> list[int]:
        """The token ids a task's prompt begins its row with."""
        if self.task is None:
            raise UserError("these data are texts, no task: they have no prompts.")
        return encode(self.tokenizer, self.task.text(prompt))

    def answer(self, ids: list[int]) -> tuple[str, ...]:
        """The symbols of generated ids, up to the end token."""
        if self.task is None:
            raise UserError("these data are texts, no task: they have no answers.")
        end = self.tokenizer.eos_token_id
        kept = ids[: ids.index(end)] if end in ids else ids
        return self.task.read(self.tokenizer.decode(kept))


def prepare_data(
    data: DataSettings,
    tokenizer: TokenizerSettings,
    context: int,
    seed: int = 0,
    cache: Path | None = None,
    quiet: bool = False,
) -> PreparedData:
    """The data of the settings as rows of at most ``context`` tokens; kept, so that a second call only reads them.

    Args:
        seed: of a task's samples, and of the order of a stream.
        cache: the folder of kept data; the project's own where none is given.

    Raises UserError for settings that do not fit the data, each naming the field to change.
    """
    if context < 2:
        raise UserError(f"the context must be at least 2 tokens, got {context}.")
    root = cache or cache_folder("training_data")
    if isinstance(data, TaskData):
        return _task_data(data, tokenizer, context, seed, root, quiet)
    return _text_data(data, tokenizer, context, seed, root, quiet)


def _task_data(
    data: TaskData, settings: TokenizerSettings, context: int, seed: int, root: Path, quiet: bool
) -> PreparedData:
    task = make_task(data.name, data.options)
    parts = task_parts(data, task, seed)
    # A task is known by its code: its own file and the one that draws and joins symbols for it.
    code = [file_digest(Path(inspect.getfile(made_of))) for made_of in (type(task), Task)]
    folder = root / _key(asdict(data), settings, context, [seed, code])
    if not (folder / REPORT).is_file():
        symbols = (whole_vocabulary(parts), task.spaced)
        made = build_tokenizer(settings, task_texts(parts["train"]), symbols)
        if isinstance(settings, Characters):
            check_room(parts, made, context)
        rows, indices, notes = code_task(parts, made, context, data.loss, quiet)
        _save(folder, rows, made, notes, indices)
    indices = json.loads((folder / REPORT).read_text(encoding="utf-8"))["indices"]
    held = {name: replace(parts[name], indices=kept) for name, kept in indices.items()}
    return _load(folder, task=task, samples=held)


def _text_data(
    data: TextSettings, settings: TokenizerSettings, context: int, seed: int, root: Path, quiet: bool
) -> PreparedData:
    texts = read_texts(data)
    after = marker(data)
    learnt = texts.parts["train"] if texts.stream is None else list(islice(texts.stream(), LEARNT_FROM))
    content = {name: _text_digest(samples) for name, samples in {**texts.parts, "train": learnt}.items()}
    folder = root / _key([data.packing, data.too_long, after], settings, context, content)
    if not (folder / REPORT).is_file():
        made = build_tokenizer(settings, learnt, begins=data.packing == "samples")
        rows, notes = code_texts(texts.parts, TextCoder(made, context, data.packing, data.too_long, after), quiet)
        if texts.stream is not None and not isinstance(settings, Pretrained):
            notes.append(f"the tokenizer was learnt from the first {len(learnt):,} texts of the stream.")
        _save(folder, rows, made, [*texts.notes, *notes])
    if texts.stream is None:
        return _load(folder)
    coder = TextCoder(_tokenizer(folder), context, data.packing, data.too_long, after)
    return _load(folder, StreamedRows(texts.stream, coder, seed))


def _key(rules: Any, tokenizer: TokenizerSettings, context: int, content: Any) -> str:
    """What the rows depend on: how they are made, what they are made of, and the tokenizer. Where the texts lay is no part of it."""
    learnt: Any = {"kind": tokenizer.kind, **asdict(tokenizer)}
    if isinstance(tokenizer, Pretrained):
        learnt = [tokenizer.crop, load_pretrained(tokenizer.name).backend_tokenizer.to_str()]
    return digest([FORMAT, version("tokenizers"), rules, learnt, context, content])[:32]


def _text_digest(samples: Sequence[str]) -> str:
    content = hashlib.sha256()
    for sample in samples:
        encoded = sample.encode("utf-8", "surrogatepass")
        content.update(len(encoded).to_bytes(8, "big") + encoded)
    return content.hexdigest()


def _save(
    folder: Path,
    rows: dict[str, Rows],
    tokenizer: PreTrainedTokenizerFast,
    notes: list[str],
    indices: dict[str, list[int]] | None = None,
) -> None:
    content = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
    with atomic_folder(folder) as temporary:
        counts = {}
        for name, part in rows.items():
            save_file(part.tensors(), temporary / f"{name}.safetensors")
            content.update(f"{name} {file_digest(temporary / f'{name}.safetensors')}".encode())
            counts[name] = {"rows": len(part), "tokens": len(part.tokens), "counted": int(part.counted.sum())}
        tokenizer.save_pretrained(temporary / "tokenizer")
        report = {
            "format": FORMAT,
            "digest": content.hexdigest(),
            "parts": counts,
            "notes": notes,
            "indices": indices,
            "vocabulary": len(tokenizer),
        }
        (temporary / REPORT).write_text(json.dumps(report, indent=1), encoding="utf-8")


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    found: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    return found


def _load(
    folder: Path,
    stream: StreamedRows | None = None,
    task: Task | None = None,
    samples: dict[str, TaskPart] | None = None,
) -> PreparedData:
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    sets: dict[str, RowSet] = {name: Rows(**load_file(folder / f"{name}.safetensors")) for name in report["parts"]}
    return PreparedData(
        train=stream or sets.pop("train"),
        validation=sets.pop("validation"),
        test=sets,
        tokenizer=_tokenizer(folder),
        digest=report["digest"],
        report=DataReport(report["parts"], tuple(report["notes"]), report["vocabulary"]),
        task=task,
        samples=samples,
    )
