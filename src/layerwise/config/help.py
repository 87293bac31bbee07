"""The help text of a job: every field with what it takes, its default and a line of explanation."""

from __future__ import annotations

import dataclasses
import inspect
import shutil
import textwrap
import typing
from typing import Any, Literal

from layerwise.config.canonical import canonical_text, plain
from layerwise.config.flags import OPTIONS
from layerwise.config.schema import (
    MISSING,
    config_classes,
    fields_of,
    item_annotations,
    kind_of,
    mapping_value,
    members,
)

_COLUMN = 38
_NAMES = {str: "TEXT", int: "INT", float: "NUMBER", bool: "true|false", type(None): "null", Any: "VALUE"}


def help_text(program: str, summary: str, config_class: type, config: Any) -> str:
    """What ``--help`` prints.

    ``config`` decides which kind's fields are listed, so ``--probe ridge --help`` shows ridge's; None shows the defaults.
    """
    width = min(shutil.get_terminal_size((110, 24)).columns, 130)
    blocks = [f"usage: {program} [--config FILE] [--FIELD VALUE ...]", textwrap.fill(summary, width)]
    options = [_row(f"--{name}{_OPTION_VALUES.get(name, '')}", text, width) for name, text in OPTIONS.items()]
    blocks.append("\n".join(["options:", *options]))
    own: list[str] = []
    groups: list[str] = []
    _rows(config_class, config, "", own, groups, width)
    blocks.append("\n".join([f"fields of {program.rpartition(' ')[2]}:", *own]))
    return "\n\n".join(blocks + groups) + "\n"


_OPTION_VALUES = {"config": " FILE", "from_run": " RUN_ID"}


def _rows(config_class: type, config: Any, prefix: str, own: list[str], groups: list[str], width: int) -> None:
    """Add a row per plain field to ``own``, and a block per sub-config to ``groups``."""
    for name, field in fields_of(config_class).items():
        path = prefix + name
        classes = config_classes(field.annotation)
        value = getattr(config, name) if config is not None else field.default
        items = [item for annotation in item_annotations(field.annotation) for item in config_classes(annotation)]
        choices = classes or tuple(items)
        kinds = [kind_of(item) for item in choices] if len(choices) > 1 else []
        help_line = " ".join(
            part for part in (field.help.rstrip("."), f"(one of {', '.join(kinds)})" if kinds else "") if part
        )
        if not classes:
            own.append(_row(f"--{path} {metavar(field.annotation)}", _with_default(help_line, value), width))
            continue
        shown = value if dataclasses.is_dataclass(value) and not isinstance(value, type) else None
        own.append(_row(f"--{path} {_sub_config_value(classes)}", _with_default(help_line, _short(value)), width))
        if shown is None or not fields_of(type(shown)):
            continue
        rows: list[str] = []
        below: list[str] = []
        _rows(type(shown), shown, f"{path}.", rows, below, width)
        about = (inspect.getdoc(type(shown)) or "").strip().splitlines()[0].rstrip(".").replace("``", "")
        title = f"{path} of kind {kind_of(type(shown))}" if kinds else path
        others = f" (another kind's fields: --{path} KIND --help)" if kinds else ""
        heading = textwrap.fill(f"{title}: {about}{others}", width)
        groups += ["\n".join([heading, *rows]), *below]


def metavar(annotation: Any) -> str:
    """What a field takes, in a word: ``TEXT``, ``INT,...``, ``a|b``."""
    value = mapping_value(annotation)
    if value is not None:
        return "JSON"
    parts = [_metavar(item) for item in members(annotation) if item is not type(None)]
    return "|".join(dict.fromkeys(parts)) if parts else "null"


def _metavar(item: Any) -> str:
    if item in _NAMES:
        return _NAMES[item]
    if typing.get_origin(item) is Literal:
        return "|".join(map(str, typing.get_args(item)))
    if item_annotations(item):
        inner = item_annotations(item)[0]
        return f"{_sub_config_value(config_classes(inner)) if config_classes(inner) else metavar(inner)},..."
    return (
        "JSON"
        if typing.get_origin(item) in (dict, tuple, list) or item is dict
        else getattr(item, "__name__", "VALUE").upper()
    )


def _sub_config_value(classes: tuple[type, ...]) -> str:
    if len(classes) > 1:
        return "KIND"
    return str(getattr(classes[0], "shorthand", "JSON")).upper()


def _short(value: Any) -> Any:
    data = plain(value)
    if isinstance(data, dict):
        return data.get("kind", data.get(getattr(type(value), "shorthand", ""), MISSING))
    return data


def _with_default(text: str, default: Any) -> str:
    shown = "" if default is MISSING else canonical_text(plain(default))
    plain_text = text.replace("``", "").rstrip(".")
    return f"{plain_text} [{shown}]".strip() if shown not in ("", "null", "{}", "[]") else plain_text


def _row(left: str, text: str, width: int) -> str:
    gap = " " * _COLUMN
    lines = textwrap.wrap(text, max(width - _COLUMN, 30))
    if len(left) + 3 < _COLUMN:
        return "\n".join(
            [f"  {left}".ljust(_COLUMN) + "".join(lines[:1]), *(gap + line for line in lines[1:])]
        ).rstrip()
    head = textwrap.wrap(left, width, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
    return "\n".join([*head, *(gap + line for line in lines)])
