"""Data ready for training: rows of token ids for each part, their tokenizer, kept under a key of everything they depend on."""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
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
from layerwise.training.data_config import DataSettings, FilesData, TaskData, TokenizerSettings
from layerwise.training.packing import Rows
from layerwise.training.task_rows import TaskPart, check_room, code_task, task_parts, task_texts, whole_vocabulary
from layerwise.training.text import find_files, read_files
from layerwise.training.text_rows import code_texts
from layerwise.training.tokenizers import build_tokenizer, encode

FORMAT = "layerwise training data 1"
REPORT = "report.json"

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
        seed: of a task's samples.
        cache: the folder of kept data; the project's own where none is given.

    Raises UserError for settings that do not fit the data, each naming the field to change.
    """
    if context < 2:
        raise UserError(f"the context must be at least 2 tokens, got {context}.")
    task = make_task(data.name, data.options) if isinstance(data, TaskData) else None
    folder = (cache or cache_folder("training_data")) / _key(data, tokenizer, context, seed, task)
    if not (folder / REPORT).is_file():
        made = (
            _from_task(data, task, tokenizer, context, seed, quiet)
            if task
            else _from_files(data, tokenizer, context, quiet)
        )
        _save(folder, *made)
    parts = task_parts(data, task, seed) if task and isinstance(data, TaskData) else None
    return _load(folder, task, parts)


def _key(data: DataSettings, tokenizer: TokenizerSettings, context: int, seed: int, task: Task | None) -> str:
    content: Any = None
    if task is not None:
        content = [hashlib.sha256(inspect.getsource(inspect.getmodule(type(task))).encode()).hexdigest(), seed]  # type: ignore[arg-type]
    elif isinstance(data, FilesData):
        content = [[file.name, file_digest(file)] for file in find_files(data.path)]
    settings = [{"kind": item.kind, **asdict(item)} for item in (data, tokenizer)]
    return digest([FORMAT, version("tokenizers"), settings, context, content])[:32]


def _from_task(
    data: Any, task: Task, settings: TokenizerSettings, context: int, seed: int, quiet: bool
) -> tuple[dict[str, Rows], PreTrainedTokenizerFast, list[str]]:
    parts = task_parts(data, task, seed)
    symbols = whole_vocabulary(parts)
    tokenizer = build_tokenizer(settings, task_texts(parts["train"]), (symbols, task.spaced))
    if settings.kind == "characters":
        check_room(parts, tokenizer, context)
    rows, notes = code_task(parts, tokenizer, context, data.loss, quiet)
    return rows, tokenizer, notes


def _from_files(
    data: Any, settings: TokenizerSettings, context: int, quiet: bool
) -> tuple[dict[str, Rows], PreTrainedTokenizerFast, list[str]]:
    texts = read_files(data)
    tokenizer = build_tokenizer(settings, texts.parts["train"], begins=data.packing == "samples")
    rows, notes = code_texts(texts, data, tokenizer, context, quiet)
    return rows, tokenizer, [*texts.notes, *notes]


def _save(folder: Path, rows: dict[str, Rows], tokenizer: PreTrainedTokenizerFast, notes: list[str]) -> None:
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
            "vocabulary": len(tokenizer),
        }
        (temporary / REPORT).write_text(json.dumps(report, indent=1), encoding="utf-8")


def _load(folder: Path, task: Task | None, samples: dict[str, TaskPart] | None) -> PreparedData:
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    sets = {name: Rows(**load_file(folder / f"{name}.safetensors")) for name in report["parts"]}
    return PreparedData(
        train=sets.pop("train"),
        validation=sets.pop("validation"),
        test=dict(sets),
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
        digest=report["digest"],
        report=DataReport(report["parts"], tuple(report["notes"]), report["vocabulary"]),
        task=task,
        samples=None if samples is None else {name: part for name, part in samples.items() if name != "train"},
    )
