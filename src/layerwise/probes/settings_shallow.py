"""Settings of the probes without directions that scikit-learn fits: densities, neighbours, trees, kernels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from layerwise.probes.settings import ProbeSettings


@dataclass(frozen=True)
class QDA(ProbeSettings):
    """Quadratic discriminant analysis; each class's covariance is shrunk by ``shrinkage`` towards its diagonal mean."""

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    kind: Literal["qda"] = field(default="qda", kw_only=True)
    shrinkage: float = 0.1

    def __post_init__(self) -> None:
        self._share("shrinkage")


@dataclass(frozen=True)
class GaussianNB(ProbeSettings):
    """Gaussian naive Bayes; ``var_smoothing`` times the largest variance is added to every variance."""

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    kind: Literal["gaussian_nb"] = field(default="gaussian_nb", kw_only=True)
    var_smoothing: float = 1e-9

    def __post_init__(self) -> None:
        self._not_negative("var_smoothing")


@dataclass(frozen=True)
class KNN(ProbeSettings):
    """k nearest neighbours."""

    kind: Literal["knn"] = field(default="knn", kw_only=True)
    neighbors: int = 5
    metric: Literal["euclidean", "cosine", "manhattan"] = "euclidean"
    standardize: bool = True

    def __post_init__(self) -> None:
        self._at_least_one("neighbors")
        self._one_of("metric", ("euclidean", "cosine", "manhattan"))


@dataclass(frozen=True)
class RandomForest(ProbeSettings):
    """Random forest; ``max_depth`` none grows trees until their leaves are pure."""

    kind: Literal["random_forest"] = field(default="random_forest", kw_only=True)
    trees: int = 200
    max_depth: int | None = None

    def __post_init__(self) -> None:
        self._at_least_one("trees", *([] if self.max_depth is None else ["max_depth"]))


@dataclass(frozen=True)
class HistGradientBoosting(ProbeSettings):
    """Gradient boosted trees over histogram bins."""

    kind: Literal["hist_gradient_boosting"] = field(default="hist_gradient_boosting", kw_only=True)
    iterations: int = 100
    learning_rate: float = 0.1
    l2: float = 0.0

    def __post_init__(self) -> None:
        self._at_least_one("iterations")
        self._positive("learning_rate")
        self._not_negative("l2")


@dataclass(frozen=True)
class GaussianProcess(ProbeSettings):
    """Gaussian process with an RBF kernel.

    length_scale: of the kernel on standardised features (in which two rows are about √(2 · width) apart).
    noise: variance of the noise in standardised targets; regression only.
    optimize: fit length scale and amplitude by marginal likelihood, from there.
    """

    kind: Literal["gaussian_process"] = field(default="gaussian_process", kw_only=True)
    length_scale: float = 10.0
    noise: float = 0.1
    optimize: bool = True

    def __post_init__(self) -> None:
        self._positive("length_scale", "noise")


@dataclass(frozen=True)
class SVR(ProbeSettings):
    """Kernel support vector machine: regression with an ``epsilon`` tube; for classes SVC with the same kernel and C."""

    kind: Literal["svr"] = field(default="svr", kw_only=True)
    C: float = 1.0
    kernel: Literal["rbf", "linear", "poly", "sigmoid"] = "rbf"
    epsilon: float = 0.1
    standardize: bool = True

    def __post_init__(self) -> None:
        self._positive("C")
        self._not_negative("epsilon")
        self._one_of("kernel", ("rbf", "linear", "poly", "sigmoid"))
