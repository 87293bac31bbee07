"""The command line taken apart: ``--name value``, ``--name=value`` and bare ``--name``, before any type is known."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from layerwise.errors import UserError

_FLAG = re.compile(r"--([A-Za-z_][\w.-]*)(?:=(.*))?\Z", re.DOTALL)
OPTIONS = {
    "config": "YAML file with the job's fields",
    "from_run": "take the config of this run in place of --config; other flags win over it",
    "print_config": "print the whole config as YAML and stop",
    "trust_remote_code": "with --from_run: allow the code that the run's config names. Read that code first",
    "force": "run even if a finished run has the same fingerprint",
    "debug": "show the traceback of an error",
    "help": "show this help",
}
_SWITCHES = ("print_config", "trust_remote_code", "force", "debug", "help")


class Text(str):
    """A value as typed on the command line: its type is the field's to say."""

    __slots__ = ()


class Bare(Text):
    """A flag without a value: true for a switch, an error for anything else."""

    __slots__ = ()


@dataclass(frozen=True)
class Command:
    """What was typed after the job's name. ``fields`` holds the config's own flags: dotted name → text."""

    fields: dict[str, Text] = field(default_factory=dict)
    config: str | None = None
    from_run: str | None = None
    print_config: bool = False
    trust_remote_code: bool = False
    force: bool = False
    debug: bool = False
    help: bool = False

    def nested(self) -> dict[str, Any]:
        """The flags as one nested mapping: ``probe.C`` under ``probe`` under ``C``. A field that got both a whole value and
        dotted ones holds ``{"": whole, ...dotted}``.
        """
        root: dict[str, Any] = {}
        for name in sorted(self.fields, key=lambda name: name.count(".")):
            *parents, last = name.split(".")
            node = root
            for parent in parents:
                below = node.setdefault(parent, {})
                if not isinstance(below, dict):
                    below = node[parent] = {"": below}
                node = below
            node[last] = self.fields[name]
        return root


def is_typed(values: Any) -> bool:
    """Whether a value, or a mapping's values, were typed as flags."""
    return isinstance(values, Text) or (isinstance(values, Mapping) and any(map(is_typed, values.values())))


def split_command(arguments: Sequence[str]) -> Command:
    """Take the arguments apart; raises UserError for a word that belongs to no flag, a flag given twice, a value missing."""
    given: dict[str, Text] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word == "-h":
            word = "--help"
        match = _FLAG.match(word)
        if match is None:
            raise UserError(f"got {word!r} where a flag was expected: write --field value, or --field=value.")
        name = match[1] if match[1] not in ("print-config", "from-run") else match[1].replace("-", "_")
        if match[2] is not None:
            value = Text(match[2])
        elif words and not _FLAG.match(words[0]) and words[0] != "-h":
            value = Text(words.pop(0))
        else:
            value = Bare("true")
        if name in given:
            raise UserError(
                f"--{name} is given twice: {str(given[name])!r} and {str(value)!r}. Join several values by commas."
            )
        given[name] = value
    options: dict[str, Any] = {}
    for name in OPTIONS:
        if name in given:
            options[name] = _option(name, given.pop(name))
    return Command(fields=given, **options)


def _option(name: str, value: Text) -> bool | str:
    if name in _SWITCHES:
        if value.lower() not in ("true", "false"):
            raise UserError(f"--{name} is a switch: got {str(value)!r}, accepts nothing, true or false.")
        return value.lower() == "true"
    if isinstance(value, Bare) or not value:
        raise UserError(f"--{name} needs a value: {OPTIONS[name]}.")
    return str(value)
