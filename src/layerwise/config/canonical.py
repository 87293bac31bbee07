"""The one canonical form of a config: plain data, YAML, and flat dotted names with text values.

Runs and trials record the same form, and each form reads back as an equal config.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from layerwise.config.documents import dump_yaml
from layerwise.config.schema import fields_of, kind_of

_KEY = re.compile(r"[A-Za-z0-9_\- ]+")


def plain(value: Any) -> Any:
    """Mappings, lists and scalars alone: what YAML and JSON can hold.

    A sub-config with a ``label`` that its ``parse`` reads is that text; one chosen by kind begins with its ``kind``.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if _has_notation(value):
            return str(value.label)  # type: ignore[attr-defined]
        kind = {"kind": kind_of(type(value))} if hasattr(type(value), "kind") else {}
        return {**kind, **{name: plain(getattr(value, name)) for name in fields_of(type(value))}}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_item(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _plain_item(value: Any) -> Any:
    """In a list, a sub-config with nothing but defaults is the name of its kind: ``mean,last`` rather than two mappings."""
    if dataclasses.is_dataclass(value) and hasattr(type(value), "kind") and not _has_notation(value):
        fields = fields_of(value.__class__)
        if all(getattr(value, name) == field.default for name, field in fields.items()):
            return kind_of(type(value))
    return plain(value)


def to_yaml(config: Any) -> str:
    """The whole config as YAML text, defaults included."""
    return dump_yaml(plain(config))


def flatten(config: Any) -> dict[str, str]:
    """Dotted field name → canonical text, as a flag would take it.

    >>> flatten(ProbeJob(probe=Ridge(alpha=1), sites=("resid_post.*",), poolers=("mean", "last")))
    {'probe.kind': 'ridge', 'probe.alpha': '1.0', 'sites': 'resid_post.*', 'poolers': 'mean,last'}
    """
    flat: dict[str, str] = {}
    _flatten(plain(config), "", flat, set(_unsplit(config, "")))
    return flat


def _flatten(value: Any, path: str, flat: dict[str, str], unsplit: set[str]) -> None:
    if isinstance(value, dict) and value and all(_KEY.fullmatch(key) for key in value):
        for key, item in value.items():
            _flatten(item, f"{path}.{key}" if path else key, flat, unsplit)
    else:
        as_json = path in unsplit and isinstance(value, list)
        flat[path] = json.dumps(value, ensure_ascii=False) if as_json else canonical_text(value)


def _unsplit(config: Any, prefix: str) -> Iterator[str]:
    """Names of the fields whose text commas do not divide."""
    for name, field in fields_of(config.__class__).items():
        if not field.splits:
            yield prefix + name
        if dataclasses.is_dataclass(value := getattr(config, name)):
            yield from _unsplit(value, f"{prefix}{name}.")


def canonical_text(value: Any) -> str:
    """One value as text: ``null``, ``true``, ``0.1``, ``mean,last``; JSON for what commas cannot say."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return repr(float(value)).replace("inf", ".inf").replace("nan", ".nan")
    if isinstance(value, (list, tuple)) and value and not any(isinstance(item, (list, tuple, dict)) for item in value):
        items = [canonical_text(item) for item in value]
        if all(item and item == item.strip() and not re.search(r"[,\[\](){}]", item) for item in items):
            return ",".join(items)
    return json.dumps(value, ensure_ascii=False)


def _has_notation(value: Any) -> bool:
    return hasattr(type(value), "parse") and hasattr(value, "label")
