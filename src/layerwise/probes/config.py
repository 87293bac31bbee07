"""Which probe, and its settings: one frozen dataclass per kind. Nothing here imports more than the standard library.

A probe's settings never say how many features, classes or rows there are, nor its seed; ``build.py`` makes the estimator.
"""

from __future__ import annotations

from layerwise.errors import unknown
from layerwise.probes.settings_linear import (
    LDA,
    SGD,
    ElasticNet,
    Lasso,
    LinearSVM,
    Logistic,
    MassMean,
    NearestCentroid,
    PCAProbe,
    Ridge,
)
from layerwise.probes.settings_neural import CCS, GLU, MLP, AttentionProbe, Custom
from layerwise.probes.settings_shallow import (
    KNN,
    QDA,
    SVR,
    GaussianNB,
    GaussianProcess,
    HistGradientBoosting,
    RandomForest,
)

ProbeConfig = (
    Logistic | Ridge | Lasso | ElasticNet | LinearSVM | LDA | QDA | GaussianNB | NearestCentroid | MassMean | PCAProbe | KNN
    | RandomForest | HistGradientBoosting | GaussianProcess | SGD | SVR | MLP | GLU | AttentionProbe | CCS | Custom
)  # fmt: skip

KINDS: dict[str, type[ProbeConfig]] = {config.kind: config for config in ProbeConfig.__args__}


def parse(text: str) -> ProbeConfig:
    """The default settings of a kind by its name, or a custom probe by its path.

    >>> parse("ridge")
    Ridge(kind='ridge', alpha='path', standardize=True)

    Raises:
        UserError: for an unknown kind, with the nearest known one.
    """
    name = text.strip()
    if "." in name:
        return Custom(path=name)
    if name not in KINDS:
        raise unknown("probe", name, KINDS)
    return KINDS[name]()
