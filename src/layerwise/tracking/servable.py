"""Fitted probes as MLflow models: text, or a pair of texts, in; label and score out. Also the module MLflow loads them through.

MLflow is given a folder and the name of this module (``loader_module``), so nothing is pickled. The folder holds the probe's
bundle and, when asked for, a copy of its language model; otherwise that is loaded by name and its fingerprint checked.

A served probe runs in the local environment (``mlflow models serve --env-manager local``), where layerwise is installed; the
recorded requirements pin the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from layerwise.errors import UserError, nearest
from layerwise.tracking.logged_models import Servable, log_servable, trusts
from layerwise.tracking.models import TRACKED, local_folder, model_of_run
from layerwise.tracking.server import connect

if TYPE_CHECKING:
    from layerwise.data.dataset import TextDataset
    from layerwise.models.model import LanguageModel
    from layerwise.probes.fitted import FittedProbe
    from layerwise.tracking.run import Tracker

_REQUIRED = ("mlflow", "torch", "transformers", "scikit-learn", "skops", "safetensors", "numpy", "pandas")
_BUNDLE, _MODEL = "probe", "language_model"


def log_probe(
    tracker: Tracker,
    bundle: Path,
    name: str,
    metrics: Mapping[str, float],
    dataset: TextDataset | None,
    language_model: LanguageModel | None,
    register: str | None,
) -> str:
    """Record a bundle folder as the LoggedModel ``name`` of the tracker's run; returns its ``models:/…``.

    ``language_model`` is copied into it where given. ``metrics`` become the model's own, with ``dataset`` as what they were
    measured on; of text pairs, what is served takes pairs. ``register`` is a name of the model registry.
    """
    from layerwise.models.quiet import quiet_transformers
    from layerwise.probes.fitted import FittedProbe

    if language_model is not None:
        FittedProbe.load(bundle, language_model, allow_code=True)  # this process just fitted it
    described = json.loads((bundle / "probe.json").read_text(encoding="utf-8"))

    def write(folder: Path) -> None:
        copytree(bundle, folder / _BUNDLE)
        if language_model is not None:
            with quiet_transformers():
                language_model.module.save_pretrained(folder / _MODEL)
                language_model.tokenizer.save_pretrained(folder / _MODEL)

    probe = Servable(
        kind="probe",
        loader=__name__,
        write=write,
        signature=_signature(described, dataset is not None and dataset.pairs is not None),
        requires=_REQUIRED,
        params={key: str(described[key]) for key in ("sites", "pooler", "task", "model_name") if key in described},
        tags={"layerwise.model_fingerprint": str(described.get("model_fingerprint", ""))},
        metrics=metrics,
        data=None if dataset is None else (dataset.name, dataset.digest()),
    )
    return log_servable(tracker, name, probe, register)


def load_probe(uri: str, model: LanguageModel | None = None, trust_remote_code: bool = False) -> AttachedProbe:
    """A probe from the tracking server with its language model: ``runs:/RUN_ID``, ``runs:/RUN_ID/probe``, ``models:/…`` or a folder.

    >>> probe = load_probe("runs:/8590e2004bf14ff3967f0a072adc0c03")
    >>> probe.predict(["The city of Paris is in France."])
       label     score
    0   true  0.993218

    ``model``: an already loaded language model, checked by its fingerprint. ``trust_remote_code``: allow the code of a custom probe
    and of a language model that came with some to run; the environment variable LAYERWISE_TRUST_REMOTE_CODE=1 allows it too.

    Raises UserError where there is no such run or probe, the language model found is not the one the probe was fitted on, or
    code would run that is not allowed.
    """
    name = uri.removeprefix("runs:/").strip("/")
    if uri.startswith("runs:/") and "/" not in name:
        server = connect()
        try:
            model_id = model_of_run(server.client, name)
        except mlflow.exceptions.MlflowException:
            raise UserError(f"no run {name!r} at {server.uri}.") from None
        if model_id is None:
            raise UserError(f"run {name} logged no probe that reads texts.")
        uri = f"models:/{model_id}"
    if not uri.startswith(TRACKED):
        if not Path(uri).expanduser().is_dir():
            raise UserError(
                f"no probe {uri!r}: there is no such folder.{nearest(uri, ['latest'])}\n"
                "A probe is runs:/RUN_ID, models:/NAME/1, a folder, or (for the job apply) latest."
            )
        return _attach(Path(uri).expanduser(), model, trust_remote_code)
    folder = local_folder(uri)
    try:
        logged = Model.load(str(folder))
        attached = _attach(folder / logged.flavors["python_function"]["data"], model, trust_remote_code)
        return AttachedProbe(attached.probe, attached.model, _takes_pairs(logged))
    except (mlflow.exceptions.MlflowException, KeyError):
        raise UserError(f"{uri} is there, but it is no probe.") from None


class AttachedProbe:
    """A fitted probe together with its language model.

    ``probe`` is the FittedProbe (estimator, sites, pooler), ``model`` the LanguageModel; ``predict(texts)`` gives a row per text
    with ``label`` and ``score``, ``features(texts)`` what the probe reads. A probe of text pairs takes their second texts too.
    ``takes_pairs``: whether it is one; None where that is not known (a bare folder).
    """

    def __init__(self, probe: FittedProbe, model: LanguageModel, takes_pairs: bool | None = None) -> None:
        self.probe, self.model, self.takes_pairs = probe, model, takes_pairs

    def predict(self, texts: Sequence[str] | TextDataset, pairs: Sequence[str] | None = None) -> pd.DataFrame:
        """A row per text: its label, its score, and each class's probability where the probe has them.

        Raises UserError where the probe was fitted on pairs and these are single texts, or the other way round.
        """
        return self.probe.predict_frame(self.read(texts, pairs), self.model)

    def features(self, texts: Sequence[str] | TextDataset, pairs: Sequence[str] | None = None) -> dict[str, Any]:
        """What the probe reads in each text, by site: (texts, width)."""
        return self.probe.features(self.read(texts, pairs), self.model)

    def read(self, texts: Sequence[str] | TextDataset, pairs: Sequence[str] | None = None) -> TextDataset:
        """The texts as a dataset of the kind the probe was fitted on."""
        from layerwise.data.dataset import TextDataset

        second = None if pairs is None else tuple(pairs)
        dataset = texts if isinstance(texts, TextDataset) else TextDataset("texts", tuple(texts), pairs=second)
        if self.takes_pairs and dataset.pairs is None:
            raise UserError("this probe was fitted on pairs of texts: give the second text of each too.")
        if self.takes_pairs is False and dataset.pairs is not None:
            raise UserError("this probe was fitted on single texts: leave out the second text of each pair.")
        return dataset


class ServedProbe:
    """What ``mlflow.pyfunc.load_model`` and ``mlflow models serve`` call."""

    def __init__(self, attached: AttachedProbe) -> None:
        self.attached = attached

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """``data``: a frame with the columns of the signature, or texts. Returns ``label`` and ``score`` per text."""
        frame = data if isinstance(data, pd.DataFrame) else pd.DataFrame({"text": data})
        columns = {name: [str(text) for text in frame[name]] for name in ("text", "pair") if name in frame}
        return self.attached.predict(columns["text"], columns.get("pair"))[["label", "score"]]


def _load_pyfunc(path: str) -> ServedProbe:
    return ServedProbe(_attach(Path(path), None))


def _attach(folder: Path, model: LanguageModel | None, trusted: bool = False) -> AttachedProbe:
    from layerwise.probes.fitted import FittedProbe

    trusted = trusts(trusted)
    probe = FittedProbe.load(folder / _BUNDLE if (folder / _BUNDLE).is_dir() else folder, allow_code=trusted)
    if model is None:
        # A copy is trained weights in a folder, whatever the original's name, revision or random start was.
        copy = {"name": str(folder / _MODEL), "tokenizer": None, "revision": None, "random_init": False}
        model = probe.load_model(trust_remote_code=trusted, **(copy if (folder / _MODEL).is_dir() else {}))
    else:
        probe.check_model(model)
    return AttachedProbe(probe, model)


def _signature(described: Mapping[str, Any], pairs: bool) -> ModelSignature:
    label = DataType.double if described.get("task") == "regression" else DataType.string
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, name) for name in (("text", "pair") if pairs else ("text",))]),
        outputs=Schema([ColSpec(label, "label"), ColSpec(DataType.double, "score")]),
    )


def _takes_pairs(logged: Model) -> bool | None:
    return None if logged.signature is None else "pair" in logged.signature.inputs.input_names()
