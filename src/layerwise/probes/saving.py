"""Fitted probes on disk without pickle: JSON and safetensors for our own, skops with a fixed list of types for scikit-learn's.

A folder holds ``estimator.json``, and ``tensors.safetensors`` or ``estimator.skops``. A custom probe's own file goes with it; it
is run on loading only where the person allows code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from layerwise.errors import UserError
from layerwise.probes.attention import AttentionProbe
from layerwise.probes.ccs import CCSProbe
from layerwise.probes.custom import find_class, source_of
from layerwise.probes.linear import LDAProbe, LinearProbe, MassMeanProbe, NearestCentroidProbe
from layerwise.probes.neural import GLUProbe, MLPProbe
from layerwise.probes.penalised import LogisticProbe, RidgeClassifierProbe, RidgeRegressorProbe
from layerwise.probes.principal import PCAClassifierProbe, PCARegressorProbe
from layerwise.probes.scaled import ScaledProbe
from layerwise.probes.torch_probe import TorchProbe

FORMAT = 1
SCIKIT_LEARN = "scikit-learn"  # an estimator of its own, no wrapper of ours around it
LINEAR: dict[str, type[LinearProbe]] = {
    probe.__name__: probe
    for probe in (
        LogisticProbe, RidgeClassifierProbe, RidgeRegressorProbe, LDAProbe, MassMeanProbe, NearestCentroidProbe,
        PCAClassifierProbe, PCARegressorProbe,
    )
}  # fmt: skip
TORCH: dict[str, Any] = {probe.__name__: probe for probe in (MLPProbe, GLUProbe, AttentionProbe, CCSProbe)}
# What a file of scikit-learn's may hold beside what skops trusts of its own accord.
TRUSTED = (
    "layerwise.probes.scaled.SquaredErrorClassifier",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.tree._tree.Tree",
)


def save_probe(estimator: Any, folder: Path) -> None:
    """Write a fitted probe to a new folder.

    Raises:
        UserError: for a probe that is not fitted, is of a class this cannot save, or an existing folder.
    """
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists already: name a new folder for the probe.")
    try:
        check_is_fitted(estimator)
    except Exception:
        raise UserError(f"{type(estimator).__name__} is not fitted: there is nothing to save.") from None
    folder.mkdir(parents=True)
    described: dict[str, Any] = {"format": FORMAT, "class": type(estimator).__name__}
    tensors: Mapping[str, torch.Tensor] = {}
    if type(estimator) in LINEAR.values():
        described |= _described_attributes(estimator)
        tensors = {name: _tensor(getattr(estimator, name)) for name in ("coef_", "intercept_")}
    elif type(estimator) in TORCH.values():
        described["state"], tensors = estimator.state()
    elif type(estimator) is TorchProbe:
        described["state"], tensors = estimator.state()
        described["code"] = _keep_code(estimator.module, folder)
    elif type(estimator) is ScaledProbe:
        described |= _described_attributes(estimator)
        tensors = {name: _tensor(getattr(estimator, name)) for name in ("mean_", "scale_")}
        _dump(estimator.fitted_, folder)
    elif type(estimator).__module__.startswith("sklearn."):
        described["class"] = SCIKIT_LEARN
        _dump(estimator, folder)
    elif isinstance(estimator, BaseEstimator):
        described["class"], described["code"] = "custom", _keep_code(type(estimator), folder)
        _dump(estimator, folder)
    else:
        raise UserError(f"a {type(estimator).__name__} cannot be saved: it is no scikit-learn estimator.")
    if tensors:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "tensors.safetensors")
    text = json.dumps(described, indent=2, default=_plain)
    (folder / "estimator.json").write_text(text + "\n", encoding="utf-8")


def load_probe_estimator(folder: Path, allow_code: bool = False) -> Any:
    """The fitted probe that ``save_probe`` wrote.

    Args:
        allow_code: run the code of a custom probe: the copy of its file in the folder, or the installed module it names.

    Raises:
        UserError: for a folder without a probe, a damaged one, one of another version, one whose code is not allowed, and
            one that holds a type outside the fixed list.
    """
    folder = Path(folder)
    described = _described(folder)
    name = described["class"]
    if ("code" in described) and not allow_code:
        raise UserError(
            f"the probe in {folder} is code of its maker's ({described['code']}), which loading it would run.\n"
            "Read that code, then allow it: load_probe(…, trust_remote_code=True), --trust_probe_code of apply,\n"
            "or LAYERWISE_TRUST_REMOTE_CODE=1 in the environment of a server (here: allow_code=True)."
        )
    try:
        if name in LINEAR:
            probe = _with_attributes(LINEAR[name](**_tuples(described["params"])), described)
            probe.coef_, probe.intercept_ = (_tensors(folder)[part].numpy() for part in ("coef_", "intercept_"))
            return probe
        if name in TORCH:
            return TORCH[name].from_state(described["state"], _tensors(folder))
        if name == "TorchProbe":
            return TorchProbe.from_state(described["state"], _tensors(folder), module=_found_code(described, folder))
        if name == "ScaledProbe":
            fitted = _load(folder, ())
            probe = _with_attributes(ScaledProbe(clone(fitted), **described["params"]), described)
            probe.fitted_ = fitted
            probe.mean_, probe.scale_ = (_tensors(folder)[part].numpy() for part in ("mean_", "scale_"))
            return probe
        if name == SCIKIT_LEARN:
            return _load(folder, ())
        if name == "custom" and "code" in described:
            own = _found_code(described, folder)
            return _load(folder, (f"{own.__module__}.{own.__qualname__}",))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the probe in {folder} is damaged: {error}") from error
    raise UserError(f"the probe in {folder} is a {name!r}, which this version of layerwise does not know.")


def _described_attributes(estimator: Any) -> dict[str, Any]:
    """Parameters and small fitted attributes, as JSON."""
    given = estimator.get_params(deep=False).items()
    params = {name: value for name, value in given if name not in ("estimator", "device")}  # devices differ by machine
    wanted = ("n_features_in_", "C_", "alpha_", "target_mean_", "target_scale_")
    attributes = {name: getattr(estimator, name) for name in wanted if hasattr(estimator, name)}
    described: dict[str, Any] = {"params": params, "attributes": attributes}
    if hasattr(estimator, "classes_"):
        described["classes"] = {"dtype": estimator.classes_.dtype.str, "values": estimator.classes_.tolist()}
    return described


def _with_attributes(probe: Any, described: Mapping[str, Any]) -> Any:
    for name, value in described["attributes"].items():
        setattr(probe, name, value)
    if "classes" in described:
        probe.classes_ = np.array(described["classes"]["values"], dtype=described["classes"]["dtype"])
    return probe


def _tuples(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in params.items()}


def _tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "tensors.safetensors"
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is missing or damaged: {error}") from None
    return tensors


def _described(folder: Path) -> dict[str, Any]:
    path = folder / "estimator.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no probe: there is no estimator.json in it.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged: {error}.") from None
    if not isinstance(described, dict) or described.get("format") != FORMAT or "class" not in described:
        raise UserError(f"{path} was not written by this version of layerwise (format {FORMAT}).")
    return described


def _dump(estimator: Any, folder: Path) -> None:
    """Write with skops, and refuse now what loading would refuse."""
    try:
        skops.io.dump(estimator, folder / "estimator.skops")
    except Exception as error:
        raise UserError(f"{type(estimator).__name__} cannot be saved without pickle: {error}") from error


def _load(folder: Path, trusted: tuple[str, ...]) -> Any:
    path = folder / "estimator.skops"
    try:
        found = skops.io.get_untrusted_types(file=path)
        strange = sorted(set(found) - {*TRUSTED, *trusted})
        if strange:
            raise UserError(
                f"{path} holds types that are not trusted: {', '.join(strange)}.\nNothing of it was loaded."
            )
        return skops.io.load(path, trusted=found)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} is missing or damaged: {type(error).__name__}: {error}") from error


def _keep_code(found: Any, folder: Path) -> str:
    """Where a custom class is found again: a copy of its file in the folder, or its dotted path."""
    source = source_of(found)
    if source is None:
        return f"{found.__module__}.{found.__qualname__}"
    (folder / "custom_probe.py").write_bytes(source)
    return f"custom_probe.py:{found.__qualname__}"


def _found_code(described: Mapping[str, Any], folder: Path) -> type:
    file, colon, name = str(described["code"]).rpartition(":")
    if not colon:
        return find_class(name)
    if file != "custom_probe.py":
        raise UserError(f"the probe in {folder} names a file outside its folder: {file}.")
    return find_class(f"{folder / file}:{name}")


def _plain(value: Any) -> Any:
    """NumPy numbers as JSON has them."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be saved")
