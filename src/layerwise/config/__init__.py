"""Configs: one frozen dataclass per job, filled from defaults, a YAML file or another run, and flags, in that order.

The dataclass is the whole contract: names, types, defaults, and in ``__post_init__`` what may not be. A bare text is a
shorthand where the class names a ``shorthand`` field or has a ``parse`` classmethod; a union of dataclasses is a choice by
``kind``. Nothing here imports torch, mlflow or anything else that is slow.
"""

from layerwise.config.build import Layer, configure
from layerwise.config.canonical import canonical_text, flatten, plain, to_yaml
from layerwise.config.documents import parse_mapping, read_mapping
from layerwise.config.flags import Command, split_command
from layerwise.config.help import help_text
from layerwise.config.named_code import named_code

__all__ = [
    "Command",
    "Layer",
    "canonical_text",
    "configure",
    "flatten",
    "help_text",
    "named_code",
    "parse_mapping",
    "plain",
    "read_mapping",
    "split_command",
    "to_yaml",
]
