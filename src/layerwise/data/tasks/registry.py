"""Tasks by name: a decorator registers them, ``make_task`` makes one with its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

from layerwise.config.build import Layer, configure
from layerwise.data.custom import find_function, names_loader
from layerwise.data.tasks.base import Sample, Task
from layerwise.errors import UserError, unknown

__all__ = ["Sample", "Task", "make_task", "task", "task_names"]

TaskClass = TypeVar("TaskClass", bound=type[Task])
_TASKS: dict[str, type[Task]] = {}
_FAMILIES = (
    "copying",
    "counting",
    "sorting",
    "arithmetic",
    "brackets",
    "sequences",
    "recall",
    "equality",
    "price_tagging",
)


def task(name: str) -> Callable[[TaskClass], TaskClass]:
    """Register a task under a name.

    >>> @task("first")
    ... @dataclass(frozen=True)
    ... class First(Lengths, Task): ...
    """

    def register(task_class: TaskClass) -> TaskClass:
        task_class.name = name
        _TASKS[name] = task_class
        return task_class

    return register


def task_names() -> tuple[str, ...]:
    """The names of all registered tasks."""
    for family in _FAMILIES:
        import_module(f"layerwise.data.tasks.{family}")
    return tuple(sorted(_TASKS))


def make_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """The task of this name, or the one that ``file.py:Name`` or ``package.module.Name`` defines, with its options.

    Raises UserError for an unknown name or option and for values the task refuses.
    """
    known = task_names()
    found: Any = _TASKS.get(name)
    if found is None:
        if not names_loader(name):
            raise unknown("task", name, [*known, "file.py:Name"])
        found = find_function(name, "task")
        if not (isinstance(found, type) and issubclass(found, Task)):
            raise UserError(f"{name} is no task: it must be a class derived from layerwise.data.tasks.base.Task.")
    made: Task = configure(found, Layer(dict(options or {}), f"the options of task {name}"))
    return made
