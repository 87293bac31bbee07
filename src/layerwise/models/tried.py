"""Mechanisms that no configuration tells of: whether a model has them is tried on the model itself, once."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

# What models raise that do not take what a mechanism gives them. Such a model goes the plain way, which is right for all.
_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError, NotImplementedError)


def _of_one_kind(model: Any) -> str:
    """What is tried holds for a model whatever it is set to."""
    return ""


def tried_once(trial: Callable[[Any], bool], kind: Callable[[Any], str] = _of_one_kind) -> Callable[[Any], bool]:
    """``trial(model)``, called once for each module; a model that it cannot run on does not have the mechanism.

    ``kind(model)`` tells apart what a module may be set to for a time: it is tried once for each.
    """
    known: WeakKeyDictionary[nn.Module, dict[str, bool]] = WeakKeyDictionary()

    @wraps(trial)
    def has(model: Any) -> bool:
        of_kinds, now = known.setdefault(model.module, {}), kind(model)
        if now not in of_kinds:
            try:
                of_kinds[now] = trial(model)
            except _REFUSALS:
                of_kinds[now] = False
        return of_kinds[now]

    return has
