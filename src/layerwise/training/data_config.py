"""What a model is trained on: a synthetic task, texts in files, texts of the hub. Nothing here imports more than the standard library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from layerwise.errors import UserError


@dataclass(frozen=True)
class TaskData:
    """A synthetic task. Test and validation samples come first in its sequence, so that more training samples leave them as they are.

    name: the task, or file.py:Name of one's own.
    options: the task's own parameters, max_length for one.
    train, validation, test: how many samples.
    test_lengths: for each a further test set whose samples all have that length, longer than any in training for instance.
    loss: answer (what the prompt asks for), or all.
    """

    kind: Literal["task"] = field(default="task", kw_only=True)
    shorthand: ClassVar[str] = "name"
    name: str = "copy"
    options: dict[str, Any] = field(default_factory=dict)
    train: int = 20_000
    validation: int = 1_000
    test: int = 1_000
    test_lengths: tuple[int, ...] = ()
    loss: Literal["answer", "all"] = "answer"

    def __post_init__(self) -> None:
        for name in ("train", "validation"):
            if getattr(self, name) < 1:
                raise UserError(f"data.{name} must be at least 1 sample, got {getattr(self, name)}.")
        if self.test < 0:
            raise UserError(f"data.test must be at least 0 samples, got {self.test}.")
        for length in self.test_lengths:
            if length < 1:
                raise UserError(f"data.test_lengths must be at least 1, got {length}.")


@dataclass(frozen=True)
class _Texts:
    """What all texts share: how they are split, cut and packed."""

    validation: float = field(default=0.1, kw_only=True)  # share of the samples, from the end, where no part is given
    test: float = field(default=0.05, kw_only=True)  # share of the samples, after validation's
    limit: int | None = field(default=None, kw_only=True)  # use the first so many samples only
    packing: Literal["blocks", "samples"] = field(default="blocks", kw_only=True)  # full blocks, or a sample a row
    too_long: Literal["refuse", "cut", "split"] = field(default="refuse", kw_only=True)  # a sample over the context
    loss_after: str | None = field(default=None, kw_only=True)  # the loss counts only after this text, where it occurs

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"data.{name} is a share between 0 and 1, got {getattr(self, name)}.")
        if self.validation + self.test >= 1:
            raise UserError(
                f"data.validation and data.test together leave nothing to train on: {self.validation} and {self.test}."
            )
        if self.limit is not None and self.limit < 1:
            raise UserError(f"data.limit must be at least 1 sample, got {self.limit}.")
        if self.loss_after == "":
            raise UserError("data.loss_after is empty: name the text after which the loss counts, or leave it out.")


@dataclass(frozen=True)
class FilesData(_Texts):
    """Texts in files of one's own: text, JSON lines, CSV, Parquet, or folders of these.

    path: file or folder, or several. Files named train, validation and test are these parts.
    sample: one sample a line, or each file as a whole. Of tables, a row is a sample.
    text: the column of tables that holds the text, or a template of columns: "Q: {question} A: {answer}".
    """

    kind: Literal["files"] = field(default="files", kw_only=True)
    shorthand: ClassVar[str] = "path"
    path: str | tuple[str, ...]
    sample: Literal["line", "document"] = "line"
    text: str = "text"


DataSettings = TaskData | FilesData


@dataclass(frozen=True)
class Characters:
    """One token for each character of the training texts; of a task, for each of its symbols."""

    kind: Literal["characters"] = field(default="characters", kw_only=True)


@dataclass(frozen=True)
class BytePairs:
    """Byte-level BPE trained on the training texts: any text can be written in it.

    vocabulary: how many tokens in all.
    """

    kind: Literal["bpe"] = field(default="bpe", kw_only=True)
    vocabulary: int = 4096

    def __post_init__(self) -> None:
        least = 256 + 4
        if self.vocabulary < least:
            raise UserError(
                f"tokenizer.vocabulary must be at least {least} (256 bytes and 4 special tokens), got {self.vocabulary}."
            )


@dataclass(frozen=True)
class Pretrained:
    """The tokenizer of a pretrained model.

    name: hub id, folder, alias, or a model kept by the tracking server.
    crop: keep only the tokens that the training texts use, and what is needed to write any other text.
    """

    kind: Literal["pretrained"] = field(default="pretrained", kw_only=True)
    shorthand: ClassVar[str] = "name"
    name: str
    crop: bool = False


TokenizerSettings = Characters | BytePairs | Pretrained
