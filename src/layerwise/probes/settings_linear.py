"""Settings of the probes that find directions: their estimators have ``coef_`` in the features' own space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from layerwise.probes.settings import ProbeSettings


@dataclass(frozen=True)
class Logistic(ProbeSettings):
    """Logistic regression with an L2 penalty, binary or multinomial.

    C: inverse of the penalty, as scikit-learn has it, on standardised features; ``path`` chooses it by cross-validation
        inside the training rows.
    standardize: give each feature mean 0 and variance 1 on the training rows before fitting.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    kind: Literal["logistic"] = field(default="logistic", kw_only=True)
    C: float | Literal["path"] = 0.01
    standardize: bool = True

    def __post_init__(self) -> None:
        self._penalty("C")


@dataclass(frozen=True)
class Ridge(ProbeSettings):
    """Least squares with an L2 penalty; classes are targets of −1 and 1, one column a class.

    alpha: the penalty, as scikit-learn has it; ``path`` chooses it by leave-one-out error on the training rows.
    """

    kind: Literal["ridge"] = field(default="ridge", kw_only=True)
    alpha: float | Literal["path"] = "path"
    standardize: bool = True

    def __post_init__(self) -> None:
        self._penalty("alpha")


@dataclass(frozen=True)
class Lasso(ProbeSettings):
    """Least squares with an L1 penalty ``alpha``: few features; classes are targets of −1 and 1."""

    kind: Literal["lasso"] = field(default="lasso", kw_only=True)
    alpha: float = 0.01
    standardize: bool = True

    def __post_init__(self) -> None:
        self._positive("alpha")


@dataclass(frozen=True)
class ElasticNet(ProbeSettings):
    """Least squares with a penalty ``alpha`` of which the share ``l1_ratio`` is L1; classes are targets of −1 and 1."""

    kind: Literal["elastic_net"] = field(default="elastic_net", kw_only=True)
    alpha: float = 0.01
    l1_ratio: float = 0.5
    standardize: bool = True

    def __post_init__(self) -> None:
        self._positive("alpha")
        self._share("l1_ratio")


@dataclass(frozen=True)
class LinearSVM(ProbeSettings):
    """Linear support vector machine: squared hinge loss, or the epsilon-insensitive loss for regression."""

    kind: Literal["linear_svm"] = field(default="linear_svm", kw_only=True)
    C: float = 0.01
    standardize: bool = True

    def __post_init__(self) -> None:
        self._positive("C")


@dataclass(frozen=True)
class LDA(ProbeSettings):
    """Linear discriminant analysis in closed form.

    shrinkage: of the within-class covariance towards its diagonal mean: a share, ``auto`` for Ledoit and Wolf's, or none,
        which needs more rows than features.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    kind: Literal["lda"] = field(default="lda", kw_only=True)
    shrinkage: float | Literal["auto"] | None = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.shrinkage, str) and self.shrinkage != "auto":
            raise self._refuse("shrinkage", "'auto', none or between 0 and 1")
        if isinstance(self.shrinkage, int | float):
            self._share("shrinkage")


@dataclass(frozen=True)
class NearestCentroid(ProbeSettings):
    """The class whose mean is nearest, by Euclidean distance."""

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    kind: Literal["nearest_centroid"] = field(default="nearest_centroid", kw_only=True)
    standardize: bool = True


@dataclass(frozen=True)
class MassMean(ProbeSettings):
    """The difference of the class means as direction (Marks & Tegmark 2023), in the features' own scale.

    covariance: turn the direction by the inverse of the within-class covariance (Ledoit-Wolf shrunk).
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    kind: Literal["mass_mean"] = field(default="mass_mean", kw_only=True)
    covariance: bool = False


@dataclass(frozen=True)
class PCAProbe(ProbeSettings):
    """The leading principal components, found without labels; labels only place the line (or the threshold) on them."""

    kind: Literal["pca"] = field(default="pca", kw_only=True)
    components: int = 1
    standardize: bool = True

    def __post_init__(self) -> None:
        self._at_least_one("components")


@dataclass(frozen=True)
class SGD(ProbeSettings):
    """A linear model by stochastic gradient descent: log loss or squared error, L2 penalty ``alpha``."""

    kind: Literal["sgd"] = field(default="sgd", kw_only=True)
    alpha: float = 1e-4
    epochs: int = 1000
    standardize: bool = True

    def __post_init__(self) -> None:
        self._positive("alpha")
        self._at_least_one("epochs")
