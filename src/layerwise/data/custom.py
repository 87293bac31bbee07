"""A dataset from a person's own loader: a function named by ``file.py:function`` or ``package.module.function``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from layerwise.data.table import Table
from layerwise.errors import UserError, nearest


def names_loader(name: str) -> bool:
    """Whether ``name`` has the form of a loader: ``file.py:function``, or identifiers joined by dots that are no file."""
    file, colon, function = name.rpartition(":")
    if colon and file.endswith(".py") and function.isidentifier():
        return True
    return "." in name and all(part.isidentifier() for part in name.split(".")) and not Path(name).exists()


def call_loader(name: str) -> Any:
    """What the loader named ``name`` returns, called without arguments.

    Raises:
        UserError: when the file, module or function is missing, or the loader itself fails; an error of the loader is the
            cause of the UserError and shows with ``--debug``.
    """
    function = find_function(name)
    try:
        return function()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the loader {name} failed: {type(error).__name__}: {error}") from error


def as_table(value: Any, name: str) -> Table:
    """A frame, a dict of columns or a list of rows, as a table. Raises UserError for anything else."""
    try:
        if isinstance(value, pd.DataFrame):
            return Table(value.reset_index(drop=True))
        if isinstance(value, Mapping) or (isinstance(value, list) and all(isinstance(row, Mapping) for row in value)):
            return Table(pd.DataFrame(value))
    except ValueError as error:
        raise UserError(f"the loader {name} returned columns that do not fit together: {error}.") from None
    raise UserError(
        f"the loader {name} returned {type(value).__name__}. It must return a TextDataset, a DataFrame, or a dict of columns."
    )


def find_function(name: str, what: str = "loader") -> Callable[..., Any]:
    """The function (or class) that ``file.py:function`` or ``package.module.function`` names; ``what`` it is, for messages.

    Raises UserError where the file, the module or the function is missing, or importing it fails.
    """
    file, colon, function = name.rpartition(":")
    if not colon:
        file, _, function = name.rpartition(".")
    elif not Path(file).expanduser().is_file():
        raise UserError(f"no file {file} (named by the {what} {name}).")
    try:
        module = _import_file(Path(file).expanduser()) if colon else importlib.import_module(file)
    except ModuleNotFoundError as error:
        raise UserError(f"cannot import {error.name!r} for the {what} {name}.") from None
    except Exception as error:
        raise UserError(f"importing the {what} {name} failed: {type(error).__name__}: {error}") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise UserError(f"{file} has no function {function!r}.{nearest(function, vars(module))}")
    return found


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"layerwise_loader_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its own module up
    spec.loader.exec_module(module)
    return module
