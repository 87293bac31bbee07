"""A probe of a person's own, named by path: a scikit-learn estimator class, or a torch module class with ``forward``.

Naming one runs its code: in a config of one's own that is the wish; what came with a run or a model asks first (``saving.py``).
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from sklearn.base import BaseEstimator

from layerwise.errors import UserError, nearest


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


def make(path: str, params: Mapping[str, Any], task: str, seed: int) -> Any:
    """The probe named by ``path``, made with ``params``, unfitted.

    An estimator class gets ``task`` and ``random_state`` too where its constructor has them; a torch module is trained by
    ``TorchProbe``.

    Raises:
        UserError: as ``find_class``; for parameters the class does not take; for a class that is neither.
    """
    import torch

    from layerwise.probes.torch_probe import TorchProbe

    found = find_class(path)
    if issubclass(found, torch.nn.Module):
        return TorchProbe(
            found, dict(params), task="regression" if task == "regression" else "classification", random_state=seed
        )
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


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"no file {path} to take a probe from.")
    spec = importlib.util.spec_from_file_location(f"layerwise_probe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
