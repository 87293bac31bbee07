"""What the settings of every kind of probe share: a label, and checks whose messages name the field and what it got."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar

from layerwise.errors import UserError, unknown

BOTH = ("classification", "regression")


@dataclass(frozen=True)
class ProbeSettings:
    """What every kind has: its name, the tasks it can do and a canonical label."""

    tasks: ClassVar[tuple[str, ...]] = BOTH
    kind: str = field(kw_only=True)

    @property
    def label(self) -> str:
        """The kind, with the settings that differ from the defaults: ``ridge``, ``ridge(alpha=10.0)``.

        >>> Ridge(alpha=10.0).label
        'ridge(alpha=10.0)'
        """
        values = {f.name: (getattr(self, f.name), _default(f)) for f in fields(self) if f.name != "kind"}
        said = [f"{name}={value}" for name, (value, default) in values.items() if value != default]
        return f"{self.kind}({', '.join(said)})" if said else self.kind

    def _refuse(self, name: str, accepts: str) -> UserError:
        return UserError(f"probe {self.kind!r}: {name} must be {accepts}, got {getattr(self, name)!r}.")

    def _positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if isinstance(value, str) or not 0 < value < float("inf"):
                raise self._refuse(name, "a number above 0")

    def _not_negative(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) < float("inf"):
                raise self._refuse(name, "0 or a number above")

    def _at_least_one(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise self._refuse(name, "a whole number of at least 1")

    def _share(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise self._refuse(name, "between 0 and 1")

    def _one_of(self, name: str, accepts: tuple[str, ...]) -> None:
        if getattr(self, name) not in accepts:
            raise unknown(f"{self.kind} {name}", str(getattr(self, name)), accepts)

    def _penalty(self, name: str) -> None:
        value = getattr(self, name)
        if value != "path" and (isinstance(value, str) or not 0 < value < float("inf")):
            raise self._refuse(name, "a number above 0, or 'path' to choose it on the training rows")


def _default(setting: Field[Any]) -> Any:
    return setting.default if setting.default_factory is MISSING else setting.default_factory()
