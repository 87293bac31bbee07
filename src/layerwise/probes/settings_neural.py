"""Settings of the probes that torch trains, and of a probe of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from layerwise.errors import UserError
from layerwise.probes.settings import ProbeSettings


@dataclass(frozen=True)
class MLP(ProbeSettings):
    """A network of 1 to 3 layers of weights (1 is linear), ReLU between them, trained by AdamW with early stopping.

    patience: epochs without a better loss on held-out training rows before it stops.
    """

    kind: Literal["mlp"] = field(default="mlp", kw_only=True)
    layers: int = 2
    hidden: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    batch_size: int = 64
    max_epochs: int = 100
    patience: int = 10

    def __post_init__(self) -> None:
        self._at_least_one("layers", "hidden", "batch_size", "max_epochs", "patience")
        if self.layers > 3:
            raise self._refuse("layers", "1, 2 or 3")
        self._positive("learning_rate")
        self._not_negative("weight_decay")


@dataclass(frozen=True)
class GLU(ProbeSettings):
    """A gated linear unit, ``W₃(f(W₁x) ⊙ σ(W₂x))`` (Dauphin et al. 2017), trained as MLP is.

    activation: f; none leaves the value path linear.
    """

    kind: Literal["glu"] = field(default="glu", kw_only=True)
    activation: Literal["relu", "gelu", "silu", "tanh"] | None = None
    hidden: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    batch_size: int = 64
    max_epochs: int = 100
    patience: int = 10

    def __post_init__(self) -> None:
        self._at_least_one("hidden", "batch_size", "max_epochs", "patience")
        if self.activation is not None:
            self._one_of("activation", ("relu", "gelu", "silu", "tanh"))
        self._positive("learning_rate")
        self._not_negative("weight_decay")


@dataclass(frozen=True)
class AttentionProbe(ProbeSettings):
    """Attention pooling over a text's tokens, then a linear layer; needs token-level activations (pooler ``none``)."""

    kind: Literal["attention"] = field(default="attention", kw_only=True)
    heads: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    batch_size: int = 64
    max_epochs: int = 100
    patience: int = 10

    def __post_init__(self) -> None:
        self._at_least_one("heads", "batch_size", "max_epochs", "patience")
        self._positive("learning_rate")
        self._not_negative("weight_decay")


@dataclass(frozen=True)
class CCS(ProbeSettings):
    """Contrast-consistent search (Burns et al. 2022) over statements and their negations; the best of ``tries`` starts.

    method: ``tpc`` takes the top principal component of the differences instead.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    kind: Literal["ccs"] = field(default="ccs", kw_only=True)
    tries: int = 10
    epochs: int = 1000
    learning_rate: float = 0.01
    weight_decay: float = 0.01
    method: Literal["ccs", "tpc"] = "ccs"

    def __post_init__(self) -> None:
        self._at_least_one("tries", "epochs")
        self._one_of("method", ("ccs", "tpc"))
        self._positive("learning_rate")
        self._not_negative("weight_decay")


@dataclass(frozen=True)
class Custom(ProbeSettings):
    """A probe of one's own: a scikit-learn estimator class, or a torch module class with ``forward(x) -> scores``.

    ``custom:my_probe.py:Class`` says kind and path in one.

    path: dotted (``package.module.Class``) or a file and the class in it (``my_probe.py:Class``).
    params: keyword arguments of its constructor; of a torch module also those of its training, as ``MLP`` has them.
    """

    shorthand: ClassVar[str] = "path"
    kind: Literal["custom"] = field(default="custom", kw_only=True)
    path: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path.strip():
            raise UserError(
                "probe 'custom': path is empty: name a class, 'package.module.Class' or 'my_probe.py:Class'."
            )
