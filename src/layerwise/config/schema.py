"""What a config dataclass accepts, read off its annotations: fields, kinds, items, and words for them."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union

MISSING = dataclasses.MISSING


@dataclass(frozen=True)
class Field:
    """One field of a config dataclass: its resolved annotation, its default (MISSING if it has none), one line of help.

    ``splits``: whether a bare text of a one-or-many field is split at commas; ``field(metadata={"splits": False})`` says no, for
    sentences, which have commas of their own.
    """

    name: str
    annotation: Any
    default: Any
    help: str
    splits: bool = True


@cache
def fields_of(config_class: Any) -> dict[str, Field]:
    """The fields of a config dataclass in order, without ``kind``."""
    hints = typing.get_type_hints(config_class)
    helps = field_help(config_class)
    found = {}
    for item in dataclasses.fields(config_class):
        if item.init and item.name != "kind":
            default = item.default_factory() if item.default_factory is not MISSING else item.default
            splits = bool(item.metadata.get("splits", True))
            found[item.name] = Field(item.name, hints[item.name], default, helps.get(item.name, ""), splits)
    return found


def field_help(config_class: type) -> dict[str, str]:
    """Help per field: the line ``name: text`` (or ``one, two: text``) of the class docstring, continued by deeper lines.

    A field that the docstring does not explain takes the comment at the end of its own line.
    """
    names = {item.name for item in dataclasses.fields(config_class)}
    found: dict[str, str] = {}
    current: list[str] = []
    depth = 0
    for line in (inspect.getdoc(config_class) or "").splitlines():
        indent = len(line) - len(line.lstrip())
        head = re.match(r"\s*(\w+(?:, \w+)*):\s+(\S.*)$", line)
        if head and set(head[1].split(", ")) <= names:
            current, depth = head[1].split(", "), indent
            found.update({current[0]: head[2], **dict.fromkeys(current[1:], f"as {current[0]}")})
        elif current and line.strip() and indent > depth:
            found[current[0]] += f" {line.strip()}"
        else:
            current = []
    return {**_comments(config_class), **found}


def _comments(config_class: type) -> dict[str, str]:
    try:
        source = inspect.getsource(config_class)
    except (OSError, TypeError):
        return {}
    return dict(re.findall(r"^\s+(\w+):[^#\n]*\s#\s*(.+)$", source, flags=re.MULTILINE))


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the annotation alone."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return tuple(part for item in typing.get_args(annotation) for part in members(item))
    if typing.get_origin(annotation) is typing.Annotated:
        return members(typing.get_args(annotation)[0])
    return (annotation,)


def is_optional(annotation: Any) -> bool:
    return type(None) in members(annotation)


def config_classes(annotation: Any) -> tuple[type, ...]:
    """The config dataclasses among the alternatives: one for a plain sub-config, several for a choice by kind."""
    return tuple(item for item in members(annotation) if isinstance(item, type) and dataclasses.is_dataclass(item))


def item_annotations(annotation: Any) -> tuple[Any, ...]:
    """The item type of every ``list[x]`` or ``tuple[x, ...]`` among the alternatives: the field takes one or many."""
    found = []
    for item in members(annotation):
        arguments = typing.get_args(item)
        if typing.get_origin(item) in (list, Sequence) or (
            typing.get_origin(item) is tuple and arguments[-1:] == (Ellipsis,)
        ):
            found.append(arguments[0])
    return tuple(found)


def makes_tuple(annotation: Any) -> bool:
    return any(typing.get_origin(item) is tuple for item in members(annotation))


def mapping_value(annotation: Any) -> Any:
    """The value type of a ``dict[str, x]`` field, or None where the field takes anything but a mapping too."""
    alternatives = [item for item in members(annotation) if item is not type(None)]
    if len(alternatives) == 1 and typing.get_origin(alternatives[0]) in (dict, Mapping):
        return typing.get_args(alternatives[0])[1]
    return None


def takes_mapping(annotation: Any) -> bool:
    return any(item is dict or typing.get_origin(item) in (dict, Mapping) for item in members(annotation))


def kind_of(config_class: Any) -> str:
    """The name that chooses this class among the classes of a field."""
    return str(getattr(config_class, "kind", config_class.__name__))


def words(annotation: Any) -> str:
    """What an annotation accepts, in words for a person."""
    return " or ".join(dict.fromkeys(_word(item) for item in members(annotation)))


def _word(item: Any) -> str:
    simple = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): "null",
        Any: "anything",
    }
    if item in simple:
        return simple[item]
    origin, arguments = typing.get_origin(item), typing.get_args(item)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if item_annotations(item):
        return f"one or many, joined by commas, each {words(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}: {', '.join(map(words, arguments))}"
    if origin in (dict, Mapping) or item is dict:
        return "a mapping (JSON, or one flag per key)"
    if dataclasses.is_dataclass(item):
        return f"the config {kind_of(typing.cast(type, item))}"
    return getattr(item, "__name__", str(item))


def leaves(config_class: type, prefix: str = "") -> list[str]:
    """Every dotted field name, of every kind where there is a choice; for suggesting the right one."""
    found: list[str] = []
    for name, field in fields_of(config_class).items():
        found.append(prefix + name)
        for child in config_classes(field.annotation):
            found += leaves(child, f"{prefix}{name}.")
    return list(dict.fromkeys(found))
