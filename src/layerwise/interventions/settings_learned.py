"""Settings of the operations that live in a learned or fitted space, adapt the model, or are a person's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from layerwise.errors import UserError
from layerwise.interventions.settings_base import Settings, positive


@dataclass(frozen=True)
class PCA(Settings):
    """Swap along principal components, which ``fit`` finds.

    components: how many, at most the width. standardize: divide each number by its standard deviation first.
    """

    source_name: ClassVar[str] = "source"
    kind: Literal["pca"] = field(default="pca", kw_only=True)
    components: int = 8
    standardize: bool = False

    def __post_init__(self) -> None:
        positive("components", self.components)


@dataclass(frozen=True)
class Rotation(Settings):
    """Swap in a learned rotation of the whole space: distributed alignment search (Geiger et al. 2023)."""

    source_name: ClassVar[str] = "source"
    kind: Literal["rotation"] = field(default="rotation", kw_only=True)
    seed: int = 0  # of the random rotation it begins with


@dataclass(frozen=True)
class LowRankRotation(Settings):
    """Swap along ``rank`` learned orthonormal directions (Wu et al. 2024)."""

    source_name: ClassVar[str] = "source"
    kind: Literal["low_rank_rotation"] = field(default="low_rank_rotation", kw_only=True)
    rank: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        positive("rank", self.rank)


@dataclass(frozen=True)
class Boundless(Settings):
    """Swap the first numbers of a learned rotation, how many is learned (Boundless DAS, Wu et al. 2023)."""

    source_name: ClassVar[str] = "source"
    kind: Literal["boundless"] = field(default="boundless", kw_only=True)
    boundary: float = 0.5  # the share of numbers it begins with
    temperature: float = 50.0
    seed: int = 0

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        if not 0 < self.boundary <= 1:
            raise UserError(f"boundary is a share above 0 and at most 1, got {self.boundary}.")


@dataclass(frozen=True)
class Mask(Settings):
    """Swap each number by a learned share, ``sigmoid(mask / temperature)``, in the model's basis or in a learned rotation."""

    source_name: ClassVar[str] = "source"
    kind: Literal["mask"] = field(default="mask", kw_only=True)
    rotated: bool = False
    start: float = 0.0  # the value of every mask number before training
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)


@dataclass(frozen=True)
class SAE(Settings):
    """Swap or set latents of a sparse autoencoder.

    file: safetensors or .npz with W_enc (width, latents), W_dec (latents, width), b_enc, b_dec, and threshold for jumprelu, or the
    names of other trainers; a folder of SAELens; or ``given``, handed over in Python.
    activation: relu, jumprelu (Rajamanoharan et al. 2024) or topk (Gao et al. 2024).
    k: how many latents topk keeps.
    keep_error: what the autoencoder does not reconstruct stays as it was.
    value: set the chosen latents to this; without it the source's latents take their place.
    center: subtract b_dec before encoding.
    """

    source_name: ClassVar[str] = "source"
    kind: Literal["sae"] = field(default="sae", kw_only=True)
    file: str = ""
    activation: Literal["relu", "jumprelu", "topk"] = "relu"
    k: int = 32
    keep_error: bool = True
    value: float | None = None
    center: bool = False

    @property
    def reads_source(self) -> bool:
        return self.value is None

    def __post_init__(self) -> None:
        positive("k", self.k)
        if not self.file:
            raise UserError("sae needs a file: safetensors with W_enc, W_dec, b_enc and b_dec, or a folder of SAELens.")


@dataclass(frozen=True)
class LoRA(Settings):
    """alpha / rank × B A x is added, x being the module's input (Hu et al. 2021); B begins at 0."""

    kind: Literal["lora"] = field(default="lora", kw_only=True)
    rank: int = 4
    alpha: float = 8.0
    seed: int = 0

    def __post_init__(self) -> None:
        positive("rank", self.rank)


@dataclass(frozen=True)
class ReFT(Settings):
    """h + Rᵀ(W h + b − R h), R with ``rank`` orthonormal rows: low-rank ReFT (Wu et al. 2024)."""

    kind: Literal["reft"] = field(default="reft", kw_only=True)
    rank: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        positive("rank", self.rank)


@dataclass(frozen=True)
class Custom(Settings):
    """A function or an nn.Module class of your own: ``(rows, width)`` to the same shape, or None to leave it.

    path: file.py:name or package.module.name, or ``given``. A class is made with ``width`` and ``params``.
    params: keyword arguments.
    source: it is called with the source's value as second argument.
    input: it is called with the module's input as ``input=``.
    """

    kind: Literal["custom"] = field(default="custom", kw_only=True)
    path: str = "given"
    params: dict[str, Any] = field(default_factory=dict)
    source: bool = False
    input: bool = False

    source_name: ClassVar[str] = "source"

    @property
    def reads_source(self) -> bool:
        return self.source
