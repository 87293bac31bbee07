"""Which tokens of a text stand for it, and how they become one vector: one frozen dataclass per pooler.

A pooler is its own configuration: ``Quantile(0.5)``, ``quantile:0.5`` on the command line and
``{kind: quantile, q: 0.5}`` in YAML are the same thing, and ``parse_pooler(pooler.label) == pooler``. Nothing heavy is
imported here; the arithmetic is in ``pooling``.

Tokens are counted over the real tokens of a text, never over padding. By default every real token counts, those that
the tokenizer or a chat template added (a beginning-of-text token, ``[CLS]``, the system prompt) included, since that is
what the model read. ``over="text"`` (written ``mean@text``) leaves them out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from layerwise.errors import UserError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from layerwise.activations.pooling import TokenRows

Reduction = Literal["mean", "max", "min"]
Over = Literal["all", "text"]
Unit = Literal["chars", "tokens"]


@dataclass(frozen=True)
class _Pooler:
    """What all poolers share.

    ``pooler(hidden, mask, context)`` turns ``hidden`` (batch, tokens, …width) into (batch, width) in float32 (float64
    stays); ``mask`` (batch, tokens) is True at real tokens, wherever the padding is; what stands at padding, NaN
    included, changes nothing. ``context`` holds what some poolers need besides: token ids, places in the text, spans.
    Raises UserError, naming the text, where a text lacks the token asked for.
    """

    over: Over = field(default="all", kw_only=True)

    def __post_init__(self) -> None:
        if self.over not in get_args(Over):
            raise unknown("pooler.over", str(self.over), get_args(Over))
        self._check()

    def _check(self) -> None:
        """Raise UserError where a field's value makes no sense."""

    def _arguments(self) -> str:
        return ""

    @property
    def label(self) -> str:
        """Canonical text: the kind, its arguments after colons, ``@text`` where only the text's own tokens count."""
        kind: str = self.kind  # type: ignore[attr-defined]  # every pooler has one
        return kind + self._arguments() + ("@text" if self.over == "text" else "")

    @classmethod
    def parse(cls, text: str) -> Pooler:
        return parse_pooler(text)

    def __call__(self, hidden: Tensor, mask: Tensor, context: TokenRows | None = None) -> Tensor:
        from layerwise.activations.pooling import pool

        return pool(self, hidden, mask, context)  # type: ignore[arg-type]  # only the poolers below are made


@dataclass(frozen=True)
class First(_Pooler):
    """The first token."""

    kind: Literal["first"] = field(default="first", kw_only=True)


@dataclass(frozen=True)
class Last(_Pooler):
    """The last token."""

    kind: Literal["last"] = field(default="last", kw_only=True)


@dataclass(frozen=True)
class Index(_Pooler):
    """The token at ``index``, counted from 0, or from the end where negative. A text without it is an error."""

    index: int = 0
    kind: Literal["index"] = field(default="index", kw_only=True)

    def _check(self) -> None:
        _whole("pooler.index", self.index)

    def _arguments(self) -> str:
        return f":{self.index}"


@dataclass(frozen=True)
class Quantile(_Pooler):
    """The token round(q·(length − 1)), halves to even: 0 is the first, 1 the last, 0.5 the middle one."""

    q: float = 0.5
    kind: Literal["quantile"] = field(default="quantile", kw_only=True)

    def _check(self) -> None:
        _share("pooler.q", self.q)

    def _arguments(self) -> str:
        return f":{_number(self.q)}"


@dataclass(frozen=True)
class Mean(_Pooler):
    """The mean over tokens."""

    kind: Literal["mean"] = field(default="mean", kw_only=True)


@dataclass(frozen=True)
class Max(_Pooler):
    """The largest value of each dimension over tokens."""

    kind: Literal["max"] = field(default="max", kw_only=True)


@dataclass(frozen=True)
class Min(_Pooler):
    """The smallest value of each dimension over tokens."""

    kind: Literal["min"] = field(default="min", kw_only=True)


@dataclass(frozen=True)
class Sum(_Pooler):
    """The sum over tokens."""

    kind: Literal["sum"] = field(default="sum", kw_only=True)


@dataclass(frozen=True)
class LastK(_Pooler):
    """The mean of the last ``k`` tokens; of all tokens where a text has fewer."""

    k: int = 3
    kind: Literal["last_k"] = field(default="last_k", kw_only=True)

    def _check(self) -> None:
        _whole("pooler.k", self.k)
        if self.k < 1:
            raise UserError(f"pooler.k must be at least 1, got {self.k}.")

    def _arguments(self) -> str:
        return f":{self.k}"


@dataclass(frozen=True)
class Span(_Pooler):
    """The mean over a piece of the text: the dataset's own spans, or characters or tokens ``start`` to ``end`` (exclusive).

    A character span takes every token that overlaps it; of a text pair, tokens of the first text. Character places
    are the user's text alone; token places count as for the other poolers. Texts shorter than the end are an error only where nothing is left.
    """

    start: int | None = None
    end: int | None = None
    unit: Unit = "chars"
    kind: Literal["span"] = field(default="span", kw_only=True)

    def _check(self) -> None:
        if self.unit not in get_args(Unit):
            raise unknown("pooler.unit", str(self.unit), get_args(Unit))
        if (self.start is None) != (self.end is None):
            raise UserError(
                f"a span needs a start and an end, got {self.start} and {self.end}; leave both out to use the dataset's spans."
            )
        if self.start is None or self.end is None:
            if self.unit == "tokens":
                raise UserError(
                    "a span of tokens needs a start and an end: span:tokens:2-5. The dataset's spans are in characters."
                )
            return
        _whole("pooler.start", self.start)
        _whole("pooler.end", self.end)
        if not 0 <= self.start < self.end:
            raise UserError(f"a span must start at 0 or later and end after its start, got {self.start}-{self.end}.")

    def _arguments(self) -> str:
        return "" if self.start is None else f":{self.unit}:{self.start}-{self.end}"


@dataclass(frozen=True)
class TokenIds(_Pooler):
    """The mean over the positions that hold one of these token ids. A text without any is an error."""

    ids: tuple[int, ...] = ()
    kind: Literal["token_ids"] = field(default="token_ids", kw_only=True)

    def _check(self) -> None:
        if not self.ids:
            raise UserError("the token_ids pooler needs at least one token id: token_ids:5+7.")
        for token in self.ids:
            _whole("pooler.ids", token)
            if token < 0:
                raise UserError(f"token ids are 0 or larger, got {token}.")
        object.__setattr__(self, "ids", tuple(sorted(set(self.ids))))

    def _arguments(self) -> str:
        return ":" + "+".join(str(token) for token in self.ids)


@dataclass(frozen=True)
class Quantiles(_Pooler):
    """The tokens at several quantiles, reduced by ``mean``, ``max`` or ``min``."""

    qs: tuple[float, ...] = (0.25, 0.5, 0.75)
    reduce: Reduction = "mean"
    kind: Literal["quantiles"] = field(default="quantiles", kw_only=True)

    def _check(self) -> None:
        if not self.qs:
            raise UserError("the quantiles pooler needs at least one quantile: quantiles:0.25+0.75:mean.")
        for q in self.qs:
            _share("pooler.qs", q)
        if self.reduce not in get_args(Reduction):
            raise unknown("pooler.reduce", str(self.reduce), get_args(Reduction))
        object.__setattr__(self, "qs", tuple(float(q) for q in self.qs))

    def _arguments(self) -> str:
        return ":" + "+".join(_number(q) for q in self.qs) + f":{self.reduce}"


@dataclass(frozen=True)
class NoPool(_Pooler):
    """No pooling: every token keeps its own vector."""

    kind: Literal["none"] = field(default="none", kw_only=True)


Pooler = First | Last | Index | Quantile | Mean | Max | Min | Sum | LastK | Span | TokenIds | Quantiles | NoPool
POOLERS: dict[str, type[Pooler]] = {str(c.__dataclass_fields__["kind"].default): c for c in get_args(Pooler)}

_EXAMPLES = {"span": "span:chars:4-9", "token_ids": "token_ids:5+7"}  # of the others, what they are by default


def parse_pooler(text: str) -> Pooler:
    """The pooler that ``text`` names: the inverse of ``label``.

    >>> parse_pooler("quantile:0.5")
    Quantile(over='all', q=0.5, kind='quantile')

    Raises UserError with the nearest name, or with an example of the arguments that kind takes.
    """
    body, _, over = text.strip().partition("@")
    kind, _, rest = body.partition(":")
    if kind not in POOLERS:
        raise unknown("pooler", kind, POOLERS)
    if over not in ("", *get_args(Over)):
        raise UserError(f"pooler {text!r}: after @ stands 'text' or 'all', got {over!r}.")
    counted: Over = "text" if over == "text" else "all"
    try:
        return _build(kind, rest, counted)
    except ValueError:
        example = _EXAMPLES.get(kind) or POOLERS[kind]().label
        raise UserError(f"cannot read the pooler {text!r}. It is written like this: {example}") from None


def _build(kind: str, rest: str, over: Over) -> Pooler:
    """ValueError where ``rest`` is not what ``kind`` takes."""
    if kind == "index":
        return Index(int(rest), over=over)
    if kind == "quantile":
        return Quantile(float(rest), over=over)
    if kind == "last_k":
        return LastK(int(rest), over=over)
    if kind == "token_ids":
        return TokenIds(tuple(int(part) for part in rest.split("+")), over=over)
    if kind == "quantiles":
        numbers, _, reduce = rest.partition(":")
        return Quantiles(tuple(float(part) for part in numbers.split("+")), reduce or "mean", over=over)  # type: ignore[arg-type]  # checked there
    if kind == "span" and rest:
        match = re.fullmatch(r"(?:(chars|tokens):)?(\d+)-(\d+)", rest)
        if match is None:
            raise ValueError
        return Span(int(match[2]), int(match[3]), match[1] or "chars", over=over)  # type: ignore[arg-type]  # one of the two
    if rest:
        raise ValueError
    return POOLERS[kind](over=over)


def as_poolers(poolers: str | Pooler | Sequence[str | Pooler]) -> tuple[Pooler, ...]:
    """One or many poolers or labels (``"mean,last"`` too) → poolers, each once, in the order given."""
    if isinstance(poolers, str):
        poolers = [part for part in poolers.split(",") if part.strip()]
    elif isinstance(poolers, _Pooler):
        poolers = [poolers]
    found = [parse_pooler(pooler) if isinstance(pooler, str) else pooler for pooler in poolers]
    if not found:
        raise UserError("no pooler was named. Name one or more: mean, last, quantile:0.5, …")
    for pooler in found:
        if not isinstance(pooler, _Pooler):
            raise UserError(
                f"a pooler is a name such as 'mean' or a pooler object, got {type(pooler).__name__}: {pooler!r}"
            )
    return tuple(dict.fromkeys(found))


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _whole(what: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{what} must be a whole number, got {value!r}.")


def _share(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= 1:
        raise UserError(f"{what} must be a number from 0 (first token) to 1 (last token), got {value!r}.")
