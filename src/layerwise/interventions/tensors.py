"""Tensors from files, by name: safetensors and NumPy arrays. Nothing that could run code is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from layerwise.errors import UserError, nearest

_ONLY = "array"  # what the one array of an .npy file is called


def read_tensors(file: str | Path, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Tensors of a .safetensors, .npz or .npy file by name, all of them without ``names``.

    Raises UserError for a file or a name that is not there, and for arrays of Python objects, which are pickles.
    """
    path = Path(file).expanduser()
    if path.suffix not in (".safetensors", ".npz", ".npy"):
        raise UserError(f"tensors are read from .safetensors, .npz and .npy files only, got {str(file)!r}.")
    if not path.is_file():
        raise UserError(f"no file {file}.")
    found = _safetensors(path, names) if path.suffix == ".safetensors" else _arrays(path)
    for name in names or ():
        if name not in found:
            raise _missing(path, name, list(found))
    return found if names is None else {name: found[name] for name in names}


def read_vector(text: str) -> Tensor:
    """The tensor that ``file.safetensors#name`` (or .npz) names, or the only one of a file."""
    file, _, name = text.partition("#")
    found = read_tensors(file, [name] if name else None)
    if len(found) != 1:
        raise UserError(f"{file} holds {len(found)} tensors: name one, {file}#{next(iter(found), 'name')}.")
    return next(iter(found.values()))


def _safetensors(path: Path, names: Sequence[str] | None) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as opened:
            there = list(opened.keys())
            for name in names or ():
                if name not in there:
                    raise _missing(path, name, there)
            return {name: opened.get_tensor(name) for name in (there if names is None else names)}
    except SafetensorError as error:
        raise UserError(f"{path} is no safetensors file, or a damaged one: {error}.") from None


def _arrays(path: Path) -> dict[str, Tensor]:
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {_ONLY: loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path} holds Python objects, which could run code on loading: nothing was read."
            ) from None
        raise UserError(f"{path} is no NumPy file, or a damaged one: {error}.") from None
    except (TypeError, OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read as tensors: {error}.") from None


def _missing(path: Path, name: str, there: Sequence[str]) -> UserError:
    return UserError(f"{path} has no tensor {name!r}.{nearest(name, there)}\nIt has: {', '.join(there[:10])}.")
