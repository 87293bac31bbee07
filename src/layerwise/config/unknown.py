"""What a person is told about a field that does not exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from layerwise.config.flags import OPTIONS, is_typed
from layerwise.config.schema import fields_of, kind_of, leaves
from layerwise.errors import UserError


class UnknownField(Exception):
    """A name that the config dataclass ``owner`` at ``path`` does not have; ``alternatives`` are the other kinds of a choice."""

    def __init__(self, path: str, got: Any, source: str, owner: type, alternatives: tuple[type, ...]) -> None:
        super().__init__(path)
        self.path, self.got, self.source, self.owner, self.alternatives = path, got, source, owner, alternatives

    def explained(self, root: type) -> UserError:
        """The error for a person; ``root`` is the job's config dataclass, all of whose names may have been meant."""
        parent, _, name = self.path.rpartition(".")
        kinds = [kind_of(other) for other in self.alternatives if name in fields_of(other)]
        if kinds:
            hint = f" {name} belongs to the kind {', '.join(kinds)}: choose it with {parent}.kind."
        else:
            hint = _suggestion(name, parent, fields_of(self.owner), leaves(root))
        got: Any = self.got
        while isinstance(got, Mapping) and is_typed(got):
            got = next(iter(got.values()))
        got = str(got) if isinstance(got, str) else got  # without the class of a flag's text
        where = f"{parent} ({kind_of(self.owner)})" if self.alternatives else parent or "The job"
        accepted = ", ".join((["kind"] if self.alternatives else []) + list(fields_of(self.owner)))
        return UserError(
            f"unknown field '{self.path}' in {self.source}, got {got!r}.{hint}\n{where} accepts: {accepted}."
        )


def _suggestion(name: str, parent: str, siblings: Iterable[str], everywhere: list[str]) -> str:
    """The nearest field beside the unknown one, else one of that name elsewhere, else the nearest of all."""
    siblings = [*siblings, *([] if parent else OPTIONS)]
    beside = [known for known in siblings if known.lower() == name.lower()] or get_close_matches(name, siblings, n=1)
    last = {known.rpartition(".")[2]: known for known in reversed(everywhere)}
    elsewhere = [last[match] for match in get_close_matches(name, list(last), n=1, cutoff=0.75)]
    found = [f"{parent}.{known}" if parent else known for known in beside] or elsewhere
    found = found or get_close_matches(f"{parent}.{name}" if parent else name, [*everywhere, *OPTIONS], n=1)
    return f" Did you mean '{found[0]}'?" if found else ""
