"""A probe of a person's own, named by path: a scikit-learn estimator class, or a torch module class with ``forward``.

Naming one runs its code: in a config of one's own that is the wish; what came with a run or a model asks first (``saving.py``).
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from sklearn.base import BaseEstimator

from layerwise.errors import UserError, nearest
from layerwise.files import file_digest

FILE_MODULE = "layerwise_probe_"  # how modules made from files are called
SOURCE = "__layerwise_source__"  # and where they keep their file's content


Task = Literal["classification", "regression"]


def find_class(path: str) -> type:
    """The class at ``package.module.Class`` or ``file.py:Class``.

    Raises:
        UserError: where the file, module or class is missing or importing it fails; its own error is the cause.
    """
    source, colon, name = path.rpartition(":")
    if not colon:
        source, _, name = path.rpartition(".")
    try:
        module = _import_file(Path(source).expanduser()) if colon else importlib.import_module(source)
    except ModuleNotFoundError as error:
        raise UserError(f"cannot import {error.name!r} for the probe {path}.") from None
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"importing the probe {path} failed: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise UserError(f"{source} has no class {name!r}.{nearest(name, classes)}")
    return found


def make(path: str, params: Mapping[str, Any], task: Task, seed: int) -> Any:
    """The probe named by ``path``, made with ``params``, unfitted.

    An estimator class gets ``task`` and ``random_state`` too where its constructor has them. A torch module is trained by
    ``TorchProbe``, which takes the parameters of its own (``learning_rate``, ``max_epochs``, …) that the module does not have.

    Raises:
        UserError: as ``find_class``; for parameters the class does not take; for a class that is neither.
    """
    import torch

    from layerwise.probes.torch_probe import TorchProbe

    found = find_class(path)
    if issubclass(found, torch.nn.Module):
        own = inspect.signature(found).parameters
        trainer = (
            set(inspect.signature(TorchProbe).parameters) - {"module", "params", "task", "random_state"} - set(own)
        )
        training = {name: value for name, value in params.items() if name in trainer}
        rest = {name: value for name, value in params.items() if name not in trainer}
        return TorchProbe(found, rest, task=task, random_state=seed, **training)
    if not (issubclass(found, BaseEstimator) and hasattr(found, "fit") and hasattr(found, "predict")):
        raise UserError(
            f"{path} is neither a scikit-learn estimator nor a torch module.\n"
            "Derive it from sklearn.base.BaseEstimator (fit, predict) or from torch.nn.Module (forward)."
        )
    accepted = inspect.signature(found).parameters
    known = {"task": task, "random_state": seed}
    given = {name: value for name, value in known.items() if name in accepted} | dict(params)
    try:
        return found(**given)
    except TypeError as error:
        wrong = next((name for name in given if name not in accepted), "")
        raise UserError(
            f"the probe {path} cannot be made: {error}.{nearest(wrong, accepted) if wrong else ''}"
        ) from None


def source_of(found: Any) -> bytes | None:
    """The file that a class was taken from by ``file.py:Class``, as it was then; None for a class of an importable module."""
    source: bytes | None = getattr(sys.modules.get(found.__module__), SOURCE, None)
    return source


def _import_file(path: Path) -> ModuleType:
    """The module of a file, under a name that its content alone decides, so that a copy of the file is the same module."""
    if not path.is_file():
        raise UserError(f"no file {path} to take a probe from.")
    spec = importlib.util.spec_from_file_location(FILE_MODULE + file_digest(path)[:16], path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file.")
    if spec.name in sys.modules:
        return sys.modules[spec.name]
    module = importlib.util.module_from_spec(spec)
    setattr(module, SOURCE, path.read_bytes())
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module
