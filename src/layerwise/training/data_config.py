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
    """What all texts share: how they are split, cut and packed.

    validation, test: below 1 a share of the samples, else how many; from their end, where the source has no such parts.
        A stream's first samples are held out, and it has no share.
    limit: use only the first so many samples of each part and language.
    streaming: read while training, for what fits neither memory nor disk; validation and test are read before.
    packing: blocks filled to the context, or a sample a row.
    too_long: what becomes of a sample over the context that is a row: refuse it, cut its end off, or split it.
    loss_after: the loss counts only what comes after this text, in every sample that holds it.
    """

    validation: float = field(default=0.1, kw_only=True)
    test: float = field(default=0.05, kw_only=True)
    limit: int | None = field(default=None, kw_only=True)
    streaming: bool = field(default=False, kw_only=True)
    packing: Literal["blocks", "samples"] = field(default="blocks", kw_only=True)
    too_long: Literal["refuse", "cut", "split"] = field(default="refuse", kw_only=True)
    loss_after: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        shares = 0.0
        for name in ("validation", "test"):
            value = getattr(self, name)
            if value < 0 or (value > 1 and value != int(value)):
                raise UserError(f"data.{name} is a share below 1, or a number of samples; got {value}.")
            shares += value if value < 1 else 0.0
        if shares >= 1:
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


@dataclass(frozen=True)
class HubData(_Texts):
    """Texts of the Hugging Face hub, or of a folder of the same form.

    name: ptb, wikitext, fineweb, tinystories, wiki40b, c4, squad; any owner/name of the hub; or a folder with a copy.
    form: which of those names a folder is a copy of.
    subset: the hub's configuration, where the name has several.
    languages: of a source with several, as it names them: en, fr for wiki40b; each a folder of its own in a copy.
    balanced: as many samples of each language, in turn; else all there are.
    text: the column that holds the text, or a template of columns; none: the name's own, or text.
    """

    kind: Literal["hub"] = field(default="hub", kw_only=True)
    shorthand: ClassVar[str] = "name"
    name: str
    form: str | None = None
    subset: str | None = None
    languages: tuple[str, ...] = ()
    balanced: bool = True
    text: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subset and self.languages:
            raise UserError("data.subset and data.languages both choose a part of the source: give one of them.")
        if len(set(self.languages)) < len(self.languages):
            raise UserError(f"data.languages names one twice: {', '.join(self.languages)}.")


TextSettings = FilesData | HubData
DataSettings = TaskData | FilesData | HubData


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
