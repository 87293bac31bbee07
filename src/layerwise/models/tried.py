"""Mechanisms that no configuration tells of: whether a model has them is tried on the model itself, once."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

# What models raise that do not take what a mechanism gives them. Such a model goes the plain way, which is right for all.
_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError, NotImplementedError)


def tried_once(trial: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """``trial(model)``, called once for each module; a model that it cannot run on does not have the mechanism."""
    known: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

    @wraps(trial)
    def has(model: Any) -> bool:
        if model.module not in known:
            try:
                known[model.module] = trial(model)
            except _REFUSALS:
                known[model.module] = False
        return known[model.module]

    return has
