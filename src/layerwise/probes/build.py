"""From settings to an estimator: each kind of probe as a real scikit-learn estimator, unfitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sklearn import discriminant_analysis, ensemble, gaussian_process, linear_model, naive_bayes, neighbors, svm
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from layerwise.errors import UserError
from layerwise.probes import config as settings
from layerwise.probes.custom import make
from layerwise.probes.linear import LDAProbe, MassMeanProbe, NearestCentroidProbe
from layerwise.probes.penalised import LogisticProbe, RidgeClassifierProbe, RidgeRegressorProbe
from layerwise.probes.principal import PCAClassifierProbe, PCARegressorProbe
from layerwise.probes.scaled import ScaledProbe, SquaredErrorClassifier

MOST_STEPS = 10_000  # of coordinate descent and of the linear SVM


def build(config: settings.ProbeConfig, task: str, seed: int = 0, device: str = "auto") -> Any:
    """The unfitted estimator of a probe.

    Args:
        config: one of ``layerwise.probes.config``.
        task: ``classification`` (``tokens`` is one, of each token) or ``regression``.
        seed: of whatever is random in the estimator.
        device: of the fast solvers and of torch probes; ``auto`` takes CUDA where there is one.

    Raises:
        UserError: for a task the probe cannot do.

    >>> build(Logistic(C=0.1), "classification")
    LogisticProbe(C=0.1)
    """
    task = "classification" if task == "tokens" else task
    if task not in config.tasks:
        able = sorted(kind for kind, one in settings.KINDS.items() if task in one.tasks)
        raise UserError(
            f"the probe {config.kind!r} cannot do {task}, only {' and '.join(config.tasks)}.\nFor {task}: {', '.join(able)}."
        )
    return _BUILDERS[type(config)](config, task == "classification", seed, device)


def _logistic(config: settings.Logistic, classify: bool, seed: int, device: str) -> Any:
    return LogisticProbe(config.C, standardize=config.standardize, random_state=seed, device=device)


def _ridge(config: settings.Ridge, classify: bool, seed: int, device: str) -> Any:
    probe = RidgeClassifierProbe if classify else RidgeRegressorProbe
    return probe(config.alpha, standardize=config.standardize, device=device)


def _lasso(config: settings.Lasso, classify: bool, seed: int, device: str) -> Any:
    return _squared_error(linear_model.Lasso(config.alpha, max_iter=MOST_STEPS), classify, config.standardize)


def _elastic_net(config: settings.ElasticNet, classify: bool, seed: int, device: str) -> Any:
    regressor = linear_model.ElasticNet(config.alpha, l1_ratio=config.l1_ratio, max_iter=MOST_STEPS)
    return _squared_error(regressor, classify, config.standardize)


def _squared_error(regressor: Any, classify: bool, standardize: bool) -> Any:
    return ScaledProbe(SquaredErrorClassifier(regressor) if classify else regressor, standardize)


def _linear_svm(config: settings.LinearSVM, classify: bool, seed: int, device: str) -> Any:
    common: dict[str, Any] = {"C": config.C, "max_iter": MOST_STEPS, "random_state": seed, "dual": "auto"}
    machine = svm.LinearSVC(**common) if classify else svm.LinearSVR(loss="squared_epsilon_insensitive", **common)
    return ScaledProbe(machine, config.standardize)


def _lda(config: settings.LDA, classify: bool, seed: int, device: str) -> Any:
    return LDAProbe(config.shrinkage, device)


def _qda(config: settings.QDA, classify: bool, seed: int, device: str) -> Any:
    # Shrinkage is towards the mean variance, which means something only for features of one scale.
    return ScaledProbe(discriminant_analysis.QuadraticDiscriminantAnalysis(solver="eigen", shrinkage=config.shrinkage))


def _gaussian_nb(config: settings.GaussianNB, classify: bool, seed: int, device: str) -> Any:
    return ScaledProbe(naive_bayes.GaussianNB(var_smoothing=config.var_smoothing), standardize=False)


def _nearest_centroid(config: settings.NearestCentroid, classify: bool, seed: int, device: str) -> Any:
    return NearestCentroidProbe(config.standardize, device)


def _mass_mean(config: settings.MassMean, classify: bool, seed: int, device: str) -> Any:
    return MassMeanProbe(config.covariance, device)


def _pca(config: settings.PCAProbe, classify: bool, seed: int, device: str) -> Any:
    probe = PCAClassifierProbe if classify else PCARegressorProbe
    return probe(config.components, config.standardize, device)


def _knn(config: settings.KNN, classify: bool, seed: int, device: str) -> Any:
    machine = neighbors.KNeighborsClassifier if classify else neighbors.KNeighborsRegressor
    return ScaledProbe(machine(config.neighbors, metric=config.metric, algorithm="brute"), config.standardize)


def _random_forest(config: settings.RandomForest, classify: bool, seed: int, device: str) -> Any:
    forest = ensemble.RandomForestClassifier if classify else ensemble.RandomForestRegressor
    return ScaledProbe(forest(config.trees, max_depth=config.max_depth, random_state=seed), standardize=False)


def _hist_gradient_boosting(config: settings.HistGradientBoosting, classify: bool, seed: int, device: str) -> Any:
    trees = ensemble.HistGradientBoostingClassifier if classify else ensemble.HistGradientBoostingRegressor
    common: dict[str, Any] = {
        "max_iter": config.iterations,
        "learning_rate": config.learning_rate,
        "random_state": seed,
    }
    return ScaledProbe(trees(l2_regularization=config.l2, **common), standardize=False)


def _gaussian_process(config: settings.GaussianProcess, classify: bool, seed: int, device: str) -> Any:
    bounds = (1e-2, 1e4) if config.optimize else "fixed"
    kernel = ConstantKernel(1.0, bounds) * RBF(config.length_scale, bounds)
    optimizer = "fmin_l_bfgs_b" if config.optimize else None
    if classify:
        return ScaledProbe(gaussian_process.GaussianProcessClassifier(kernel, optimizer=optimizer, random_state=seed))
    common: dict[str, Any] = {"alpha": config.noise, "optimizer": optimizer, "random_state": seed}
    return ScaledProbe(gaussian_process.GaussianProcessRegressor(kernel, **common))


def _sgd(config: settings.SGD, classify: bool, seed: int, device: str) -> Any:
    common: dict[str, Any] = {"alpha": config.alpha, "max_iter": config.epochs, "random_state": seed}
    machine = linear_model.SGDClassifier(loss="log_loss", **common) if classify else linear_model.SGDRegressor(**common)
    return ScaledProbe(machine, config.standardize)


def _svr(config: settings.SVR, classify: bool, seed: int, device: str) -> Any:
    if classify:
        return ScaledProbe(svm.SVC(C=config.C, kernel=config.kernel), config.standardize)
    return ScaledProbe(svm.SVR(C=config.C, kernel=config.kernel, epsilon=config.epsilon), config.standardize)


def _trained(
    config: settings.MLP | settings.GLU | settings.AttentionProbe, classify: bool, seed: int, device: str
) -> Any:
    from layerwise.probes.attention import AttentionProbe
    from layerwise.probes.neural import GLUProbe, MLPProbe

    classes: dict[type, Callable[..., Any]] = {
        settings.MLP: MLPProbe, settings.GLU: GLUProbe, settings.AttentionProbe: AttentionProbe,
    }  # fmt: skip
    given = {name: value for name, value in vars(config).items() if name != "kind"}
    task = "classification" if classify else "regression"
    return classes[type(config)](**given, task=task, random_state=seed, device=device)


def _ccs(config: settings.CCS, classify: bool, seed: int, device: str) -> Any:
    from layerwise.probes.ccs import CCSProbe

    given = {name: value for name, value in vars(config).items() if name != "kind"}
    return CCSProbe(**given, random_state=seed, device=device)


def _custom(config: settings.Custom, classify: bool, seed: int, device: str) -> Any:
    return make(config.path, config.params, "classification" if classify else "regression", seed)


_BUILDERS: dict[type, Callable[[Any, bool, int, str], Any]] = {
    settings.Logistic: _logistic,
    settings.Ridge: _ridge,
    settings.Lasso: _lasso,
    settings.ElasticNet: _elastic_net,
    settings.LinearSVM: _linear_svm,
    settings.LDA: _lda,
    settings.QDA: _qda,
    settings.GaussianNB: _gaussian_nb,
    settings.NearestCentroid: _nearest_centroid,
    settings.MassMean: _mass_mean,
    settings.PCAProbe: _pca,
    settings.KNN: _knn,
    settings.RandomForest: _random_forest,
    settings.HistGradientBoosting: _hist_gradient_boosting,
    settings.GaussianProcess: _gaussian_process,
    settings.SGD: _sgd,
    settings.SVR: _svr,
    settings.MLP: _trained,
    settings.GLU: _trained,
    settings.AttentionProbe: _trained,
    settings.CCS: _ccs,
    settings.Custom: _custom,
}
