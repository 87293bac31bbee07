"""Settings of the operations that nothing is learned for: ablations, directions, plain swaps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from layerwise.errors import UserError, check_seed
from layerwise.interventions.settings_base import Settings


@dataclass(frozen=True)
class Zero(Settings):
    """0 takes the value's place."""

    kind: Literal["zero"] = field(default="zero", kw_only=True)


@dataclass(frozen=True)
class Mean(Settings):
    """The mean takes the value's place: of a vector, or of what ``fit`` saw at the same site and positions."""

    kind: Literal["mean"] = field(default="mean", kw_only=True)
    vector: str = "fit"  # fit, given, or a safetensors file


@dataclass(frozen=True)
class Resample(Settings):
    """The value of another example takes its place: of the same texts, run clean, or of another source's."""

    source_name: ClassVar[str] = "base"
    kind: Literal["resample"] = field(default="resample", kw_only=True)
    seed: int = 0  # which example gives to which; no example gives to itself


@dataclass(frozen=True)
class Constant(Settings):
    """A number, or a vector, takes the value's place."""

    kind: Literal["constant"] = field(default="constant", kw_only=True)
    value: float = 0.0
    vector: str = ""  # takes the number's place: given, or a safetensors file


@dataclass(frozen=True)
class Noise(Settings):
    """Noise is added, drawn anew for each token and number, the same at every call.

    scale: its standard deviation.
    seed: seed of the draw.
    distribution: normal or uniform.
    """

    kind: Literal["noise"] = field(default="noise", kw_only=True)
    scale: float = 1.0
    seed: int = 0
    distribution: Literal["normal", "uniform"] = "normal"

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise UserError(f"scale of noise must be 0 or more, got {self.scale}.")
        check_seed(self.seed)


@dataclass(frozen=True)
class _Moved(Settings):
    strength: float = 1.0
    vector: str = ""  # given, or a safetensors file; without one the source's value is taken
    normalize: bool = False  # give the vector length 1 first

    source_name: ClassVar[str] = "source"

    @property
    def reads_source(self) -> bool:
        return not self.vector


@dataclass(frozen=True)
class Add(_Moved):
    """strength × a vector, or × the source's value, is added."""

    kind: Literal["add"] = field(default="add", kw_only=True)


@dataclass(frozen=True)
class Subtract(_Moved):
    """strength × a vector, or × the source's value, is subtracted."""

    kind: Literal["subtract"] = field(default="subtract", kw_only=True)


@dataclass(frozen=True)
class Scale(Settings):
    """The value is multiplied, or only its part along a direction."""

    kind: Literal["scale"] = field(default="scale", kw_only=True)
    factor: float = 1.0
    vector: str = ""  # given, or a safetensors file, of one direction or several as rows


@dataclass(frozen=True)
class ProjectOut(Settings):
    """The part of the value in the span of the directions is taken out."""

    kind: Literal["project_out"] = field(default="project_out", kw_only=True)
    vector: str = "given"  # given, or a safetensors file, of one direction or several as rows


@dataclass(frozen=True)
class Erase(Settings):
    """x − left · right · (x − mean): what a fitted eraser takes out (``interventions/erasure``)."""

    kind: Literal["erase"] = field(default="erase", kw_only=True)
    vector: str = "given"  # given, or a safetensors file: as rows, those of leftᵀ, as many of right, and the mean


@dataclass(frozen=True)
class Clamp(Settings):
    """The component along a direction is held between two bounds (equal bounds set it)."""

    kind: Literal["clamp"] = field(default="clamp", kw_only=True)
    low: float = 0.0
    high: float = 0.0
    vector: str = "given"

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise UserError(f"clamp needs low at most high, got {self.low} and {self.high}.")


@dataclass(frozen=True)
class Interchange(Settings):
    """The source's value takes the value's place (Vig et al. 2020; Geiger et al. 2021)."""

    source_name: ClassVar[str] = "source"
    kind: Literal["interchange"] = field(default="interchange", kw_only=True)


@dataclass(frozen=True)
class Skip(Settings):
    """The module's input takes its output's place: the module does nothing."""

    kind: Literal["skip"] = field(default="skip", kw_only=True)


@dataclass(frozen=True)
class Collect(Settings):
    """The value is kept, with its gradient, and goes on unchanged."""

    kind: Literal["collect"] = field(default="collect", kw_only=True)
