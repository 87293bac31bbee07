"""The plan: which operations, at which sites and positions, fed by which runs, when. Said in YAML or Python; a model comes later.

    steps:
    - {operation: interchange, sites: resid_post.5, positions: last, source: corrupted}
    - {operation: {kind: add, strength: 4, vector: truth.safetensors}, sites: resid_post.8-10, when: every}

Runs are named: ``base`` is the one whose output is wanted, all others are sources. Each step reads from its ``source`` and
writes ``into`` a run, ``base`` where nothing is said. Steps that name one source share its pass. Two steps, a → b and b →
base, are a chain: b runs with a's values in it. As a source, ``base`` is the base's texts run clean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layerwise.config import Layer, configure, parse_mapping, plain, read_mapping, to_yaml
from layerwise.errors import UserError, nearest
from layerwise.interventions.positions import Positions
from layerwise.interventions.settings import OperationSettings
from layerwise.models.names import split_site

BASE = "base"
_STEPS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


@dataclass(frozen=True)
class When:
    """In which forwards of a generation a step acts. ``prompt``, ``decode`` (every new token), ``every`` (both), or the numbers
    of new tokens, ``1,3-5``: the forward over the first new token, which chooses the second, is 1. A plain forward is the prompt's.
    """

    text: str

    def __post_init__(self) -> None:
        if self.text not in ("prompt", "decode", "every") and not _STEPS.fullmatch(self.text):
            raise UserError(
                f"when is prompt, decode, every, or numbers of new tokens such as 1,3-5; got {self.text!r}."
            )
        if re.search(r"(?:^|,)0(?:$|[,-])", self.text):
            raise UserError("when counts new tokens from 1; what acts on the prompt says prompt or every.")

    @property
    def on_prompt(self) -> bool:
        """Whether it acts on the tokens of the prompt."""
        return self.text in ("prompt", "every")

    def on_token(self, number: int) -> bool:
        """Whether it acts in the forward over new token ``number``, counted from 1."""
        if self.text in ("prompt", "decode", "every"):
            return self.text != "prompt"
        spans = ([int(end) for end in part.split("-")] for part in self.text.split(","))
        return any(span[0] <= number <= span[-1] for span in spans)

    @property
    def on_tokens(self) -> bool:
        """Whether it acts on any new token."""
        return self.text != "prompt"


@dataclass(frozen=True)
class Step:
    """One operation at some sites and positions.

    operation: what is done.
    sites: where the result is written, and read in the source too unless ``read`` says otherwise.
    positions: all, first, last, 5, -1, 2-5, chars:10-14, part:NAME, part:NAME:last, or each (lists at run time).
    source: the run whose values are read; by default ``source`` where the operation needs one.
    read: other sites of the source to read, one for each of ``sites``.
    source_positions: positions in the source, if other than ``positions``.
    into: the run that is written.
    when: during generation: prompt, decode, every, or numbers of new tokens such as 1,3-5.
    dims: which numbers of the operation's space it acts on, such as 0-15,20; of a partition, which parts.
    partition: parts of the space, such as [0-7, 8-15].
    joined: the positions and heads of a text are one long vector.
    weights: steps and sites with the same name share one operation and its parameters.
    name: what results and run-time settings are listed under; the kind and a number by default.
    """

    operation: OperationSettings
    sites: tuple[str, ...]
    positions: str | int = "all"
    source: str = ""
    read: tuple[str, ...] = ()
    source_positions: str | int = ""
    into: str = BASE
    when: str | int = "prompt"
    dims: str | int = ""
    partition: tuple[int | str, ...] = ()
    joined: bool = False
    weights: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if not self.sites:
            raise UserError("a step needs sites, such as resid_post.5.")
        for site in (*self.sites, *self.read):
            for part in site.split(","):
                split_site(part)
        Positions(str(self.positions)), When(str(self.when))
        if self.source_positions != "":
            Positions(str(self.source_positions))
        for text in (self.dims, *self.partition):
            parse_numbers(str(text))
        reads = self.operation.reads_source
        if self.source and not reads:
            raise UserError(f"{self.operation.kind} reads no source, but its step names {self.source!r}.")
        if reads and not self.source:
            object.__setattr__(self, "source", self.operation.source_name)
        if not reads and (self.read or self.source_positions != ""):
            raise UserError(f"{self.operation.kind} reads no source: leave out read and source_positions.")
        if self.joined and When(str(self.when)).on_tokens:
            raise UserError("joined positions are those of a prompt: such a step acts when: prompt.")
        if self.source == self.into != BASE:
            raise UserError(f"a step reads from {self.source!r} and writes into it: name two runs.")


@dataclass(frozen=True)
class Plan:
    """Steps in the order they act where they meet at one site. ``str(plan)`` is a table of them."""

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        if not self.steps:
            raise UserError("a plan needs at least one step.")
        named = tuple(
            step if step.name else replace(step, name=f"{step.operation.kind}_{number}")
            for number, step in enumerate(self.steps)
        )
        object.__setattr__(self, "steps", named)
        names = [step.name for step in named]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"two steps are named {name!r}.")
            if not re.fullmatch(r"\w+", name):
                raise UserError(f"a step's name is letters, digits and _, got {name!r}.")
        self.order()

    @classmethod
    def read(cls, text_or_file: str | Path) -> Plan:
        """A plan from a YAML file, or from YAML text (which has more than one line or a brace)."""
        text = str(text_or_file)
        if isinstance(text_or_file, str) and ("\n" in text or "{" in text):
            return configure(cls, Layer(parse_mapping(text, "the plan"), "the plan"))
        return configure(cls, Layer(read_mapping(Path(text)), text))

    @classmethod
    def of(cls, values: Any, source: str = "the plan") -> Plan:
        """A plan from plain data, as :meth:`plain` gives it."""
        return configure(cls, Layer(values, source))

    def with_given(self, names: Iterable[str]) -> Plan:
        """The plan with the vectors of these steps handed over in Python rather than read from their files."""
        steps = []
        for step in self.steps:
            operation: Any = step.operation
            steps.append(replace(step, operation=replace(operation, vector="given")) if step.name in names else step)
        return Plan(tuple(steps))

    def plain(self) -> dict[str, Any]:
        """Mappings, lists and scalars alone."""
        return dict(plain(self))

    def yaml(self) -> str:
        """YAML that reads back as an equal plan."""
        return to_yaml(self)

    def step(self, name: str) -> Step:
        """The step of a name. Raises UserError with the nearest one."""
        found = {step.name: step for step in self.steps}
        if name not in found:
            raise UserError(f"the plan has no step {name!r}.{nearest(name, found)}\nSteps: {', '.join(found)}.")
        return found[name]

    def order(self) -> list[str]:
        """The runs besides the base, each after those whose values are written into it.

        Raises UserError where they form a circle, or where a run that is written is never read.
        """
        into: dict[str, set[str]] = {}
        for step in self.steps:
            into.setdefault(step.into, set())
            if step.source:
                into[step.into].add(step.source)
                if step.source != BASE:
                    into.setdefault(step.source, set())
        read = {step.source for step in self.steps}
        unread = sorted(run for run in into if run not in read | {BASE})
        if unread:
            raise UserError(f"steps write into the run {unread[0]!r}, and none reads from it.")
        done: list[str] = []
        waiting = [run for run in into if run != BASE]
        while waiting:
            ready = [run for run in waiting if into[run] - {BASE} <= set(done)]
            if not ready:
                raise UserError(f"the runs {', '.join(waiting)} form a circle: each waits for another's values.")
            done += ready
            waiting = [run for run in waiting if run not in ready]
        return done

    def __str__(self) -> str:
        heads = ("step", "operation", "sites", "positions", "from → into", "when", "dims", "weights")
        rows = [tuple(_row(step)) for step in self.steps]
        shown = [index for index in range(len(heads)) if index < 4 or any(row[index] for row in rows)]
        table = [[row[index] for index in shown] for row in (heads, *rows)]
        widths = [max(len(row[index]) for row in table) for index in range(len(shown))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
        ]
        return "\n".join([lines[0], "  ".join("─" * width for width in widths), *lines[1:]])


def _row(step: Step) -> Iterator[str]:
    settings = plain(step.operation)
    defaults = {name: field.default for name, field in type(step.operation).__dataclass_fields__.items()}
    said = [
        f"{name}={value}"
        for name, value in settings.items()
        if name != "kind" and value != defaults[name] and value != {}
    ]
    positions = str(step.positions)
    if step.source_positions != "":
        positions = f"{step.source_positions} → {positions}"
    sites = ", ".join(step.sites)
    if step.read:
        sites = f"{', '.join(step.read)} → {sites}"
    dims = " of ".join(
        text
        for text in (str(step.dims), "[" + "] [".join(map(str, step.partition)) + "]" if step.partition else "")
        if text
    )
    yield step.name
    yield f"{step.operation.kind}({', '.join(said)})" if said else step.operation.kind
    yield sites
    yield positions + (" joined" if step.joined else "")
    yield f"{step.source} → {step.into}" if step.source else "" if step.into == BASE else f"→ {step.into}"
    yield "" if step.when == "prompt" else str(step.when)
    yield dims
    yield step.weights


def parse_numbers(text: str) -> list[int]:
    """[0, 1, 2, 7] for ``0-2,7``; [] for ''. Raises UserError for anything else."""
    if not text:
        return []
    if not _STEPS.fullmatch(text):
        raise UserError(f"cannot read the numbers {text!r}.\nWrite 3, 0-15, or 0-15,20.")
    spans = [[int(end) for end in part.split("-")] for part in text.split(",")]
    return list(dict.fromkeys(number for span in spans for number in range(span[0], span[-1] + 1)))
