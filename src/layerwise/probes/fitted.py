"""A fitted probe with everything needed to use it on new texts: where it reads, how it pools, what its outputs mean.

The folder it is saved to holds ``probe.json`` and ``estimator/``; nothing in it is a pickle and nothing in it is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from layerwise.activations.collect import collect
from layerwise.activations.layers import LayerReduction, combine
from layerwise.activations.result import Activations
from layerwise.data.dataset import TextDataset
from layerwise.errors import UserError
from layerwise.files import atomic_folder
from layerwise.models.config import ModelConfig
from layerwise.probes.calibration import Platt
from layerwise.probes.evaluation import are_probabilities, belief, predictions
from layerwise.probes.outputs import outputs

if TYPE_CHECKING:
    from layerwise.models.model import LanguageModel

FORMAT = 1
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """What a probe says about n texts.

    labels: (n,) int64 class ids, or float64 values of a regression. scores: (n,) the belief in the second of two classes
    (its probability, or the decision value of a probe that has none), the largest output of more classes, the value of a
    regression. probabilities: (n, classes), or None where the probe has none.
    """

    labels: NDArray[Any]
    scores: Floats
    probabilities: Floats | None
    outputs: Floats


@dataclass(frozen=True, eq=False)
class FittedProbe:
    """Estimator + sites + pooler, and the model they belong to.

    Attributes:
        estimator: a fitted scikit-learn estimator; its classes are class ids.
        sites: canonical names; the features of several are joined by ``over_layers``.
        pooler: canonical label; ``none`` gives each text's tokens, for attention probes and token-level probes.
        task: ``tokens`` is a classification of each token.
        label_names: by class id; empty for regression.
        over_layers: ``concat``, ``mean``, ``max`` or ``min``; ``rows`` (each layer was a training row) reads the last site
            alone. None with a single site.
        threshold: on the belief in the second of two classes; None is 0.5 for probabilities, 0 for decision values.
        thresholds: those tuned on validation data, by what each is best for (``accuracy``, ``f1``); ``threshold`` may be one.
        calibration: (slope, intercept) of the sigmoid that makes probabilities of two classes' decision values (Platt 1999);
            labels do not depend on it.
        model_name, model_fingerprint: the language model it was fitted on; another is refused. Empty where it was fitted on
            activations that a person brought: it then reads features alone.
        model_config: the ``ModelConfig`` fields that load it again.
        max_length: the longest text in tokens, where the model's own limit was lowered.
    """

    estimator: Any
    sites: tuple[str, ...]
    pooler: str
    task: Literal["classification", "regression", "tokens"]
    label_names: tuple[str, ...] = ()
    over_layers: LayerReduction | Literal["rows"] | None = None
    threshold: float | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    calibration: tuple[float, float] | None = None
    model_name: str = ""
    model_fingerprint: str = ""
    model_config: Mapping[str, Any] = field(default_factory=dict)
    max_length: int | None = None

    @classmethod
    def on(
        cls, model: LanguageModel, estimator: Any, sites: Sequence[str] | str, pooler: str, **fields: Any
    ) -> FittedProbe:
        """A probe of ``model``: its name, fingerprint and config are taken from it.

        >>> probe = FittedProbe.on(model, estimator, "resid_post.15", "mean", task="classification", label_names=("false", "true"))
        """
        names = (sites,) if isinstance(sites, str) else tuple(sites)
        config = asdict(model.config)
        return cls(
            estimator,
            names,
            pooler,
            model_name=model.name,
            model_fingerprint=model.fingerprint,
            model_config=config,
            **fields,
        )

    @property
    def is_regression(self) -> bool:
        return self.task == "regression"

    def check_model(self, model: LanguageModel) -> None:
        """UserError unless ``model`` is the very model the probe was fitted on."""
        self._refuse_without_model()
        if model.fingerprint != self.model_fingerprint:
            raise UserError(
                f"this probe was fitted on {self.model_name} (fingerprint {self.model_fingerprint[:12]}…), "
                f"but {model.name} has the fingerprint {model.fingerprint[:12]}….\n"
                "Its weights, tokenizer or chat template differ: load the model the probe belongs to, or fit a probe on this one."
            )

    def _refuse_without_model(self) -> None:
        if not self.model_fingerprint:
            raise UserError(
                "this probe was fitted on activations of your own and belongs to no model here.\n"
                "It reads features, not texts: FittedProbe.load(folder).predict_features(X)."
            )

    def load_model(self, trust_remote_code: bool = False, **changes: Any) -> LanguageModel:
        """The language model of this probe, loaded by the name and options it had, and checked.

        ``changes`` replace fields of its ``ModelConfig``, such as ``device``. Code that came with the model runs only with
        ``trust_remote_code``, whatever was set when the probe was saved. Raises UserError where another model is found.
        """
        from layerwise.models.loading import load_model

        self._refuse_without_model()
        known = {entry.name for entry in dataclass_fields(ModelConfig)}
        options = {name: value for name, value in self.model_config.items() if name in known}
        model = load_model(ModelConfig(**{**options, **changes, "trust_remote_code": trust_remote_code}))
        self.check_model(model)
        return model

    def features(self, texts: Sequence[str] | TextDataset, model: LanguageModel) -> dict[str, Any]:
        """What the probe reads in each text, by site: (n, width) float32, or the texts' tokens where nothing is pooled."""
        activations = self._collected(texts, model)
        if self.pooler.startswith("none"):
            return {site: activations.tokens(site) for site in self.sites}
        return {site: activations.matrix(site) for site in self.sites}

    def _collected(self, texts: Sequence[str] | TextDataset, model: LanguageModel) -> Activations:
        self.check_model(model)
        return collect(model, texts, list(self.sites), [self.pooler], max_length=self.max_length, progress=False)

    def predict(self, texts: Sequence[str] | TextDataset, model: LanguageModel) -> Predictions:
        """Labels, scores and probabilities of texts; of a ``tokens`` probe one of each token, text after text."""
        features = list(self.features(texts, model).values())
        return self.predict_features(
            self.joined([one.values for one in features] if self.task == "tokens" else features)
        )

    def joined(self, features: Sequence[Any]) -> Any:
        """The features of each of the sites, in their order, as the one input of the estimator."""
        if self.over_layers is None or self.over_layers == "rows":
            return features[-1]
        return combine(features, self.over_layers)

    def predict_features(self, X: Any) -> Predictions:
        """As ``predict``, from features that are there already."""
        values = outputs(self.estimator, X)
        if self.is_regression:
            return Predictions(values[:, 0], values[:, 0], None, values)
        classes = np.asarray(self.estimator.classes_)
        labels = classes[predictions(values, len(classes), self.threshold)]
        believed = values
        if self.calibration is not None and len(classes) == 2 and not are_probabilities(values):
            slope, intercept = self.calibration
            believed = Platt((slope,), (intercept,)).probabilities(values)
        scores = belief(believed) if len(classes) == 2 else believed.max(1)
        return Predictions(labels, scores, believed if are_probabilities(believed) else None, values)

    def predict_frame(self, texts: Sequence[str] | TextDataset, model: LanguageModel) -> pd.DataFrame:
        """One row per text: ``label`` (its name), ``score``, and each class's probability under ``probability_<name>``.

        A ``tokens`` probe gives one row per token, which begins with ``text`` (its number), and ``token``.
        """
        found = self.predict(texts, model)
        if self.is_regression:
            return pd.DataFrame({"label": found.labels, "score": found.scores})
        frame = pd.DataFrame({"label": [self.name_of(label) for label in found.labels], "score": found.scores})
        if found.probabilities is not None:
            for column, label in enumerate(self.estimator.classes_):
                frame[f"probability_{self.name_of(label)}"] = found.probabilities[:, column]
        if self.task == "tokens":
            rows = self.tokens(texts, model)
            frame.insert(0, "text", np.repeat(np.arange(len(rows)), [len(row) for row in rows]))
            frame.insert(1, "token", [model.tokenizer.decode([token]) for row in rows for token in row])
        return frame

    def tokens(self, texts: Sequence[str] | TextDataset, model: LanguageModel) -> list[NDArray[np.int64]]:
        """The token ids of each text that a probe without pooling reads."""
        plain = list(texts.texts if isinstance(texts, TextDataset) else texts)
        read = model.tokenize(plain, texts.pairs if isinstance(texts, TextDataset) else None, self.max_length)
        if not self.pooler.endswith("@text"):
            return read.ids
        return [ids[~special] for ids, special in zip(read.ids, read.special, strict=True)]

    def name_of(self, label: Any) -> str:
        """The name of a class id; the id itself where the classes have no names."""
        return self.label_names[int(label)] if self.label_names else str(label)

    def save(self, folder: Path) -> None:
        """Write the probe to a new folder, whole or not at all. Raises UserError where the folder exists."""
        from layerwise.probes.saving import save_probe

        folder = Path(folder)
        if folder.exists():
            raise UserError(f"{folder} exists already: name a new folder for the probe.")
        described = {
            entry.name: getattr(self, entry.name) for entry in dataclass_fields(self) if entry.name != "estimator"
        }
        with atomic_folder(folder) as temporary:
            save_probe(self.estimator, temporary / "estimator")
            text = json.dumps({"format": FORMAT, **described}, indent=2, default=_plain)
            (temporary / "probe.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, model: LanguageModel | None = None, allow_code: bool = False) -> FittedProbe:
        """The probe saved in ``folder``, checked against ``model`` where one is given.

        ``allow_code``: run the code of a custom probe. Read that code first.
        Raises UserError where the folder holds no probe, a damaged one, one of a later version, or one of another model.
        """
        from layerwise.probes.saving import load_probe_estimator

        path = Path(folder) / "probe.json"
        try:
            described = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"{folder} holds no probe: there is no probe.json in it.") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is damaged: {error}.") from error
        if not isinstance(described, dict) or described.pop("format", None) != FORMAT:
            raise UserError(f"{path} was not written by this version of layerwise (format {FORMAT}).")
        needed = {entry.name for entry in dataclass_fields(cls)} - {"estimator"}
        if set(described) != needed:
            raise UserError(f"{path} is damaged: wrong or missing fields {', '.join(sorted(set(described) ^ needed))}.")
        for name in ("sites", "label_names", "calibration"):
            if not isinstance(described[name], list) and (described[name] is not None or name != "calibration"):
                raise UserError(f"{path} is damaged: {name} is {described[name]!r}.")
            described[name] = None if described[name] is None else tuple(described[name])
        probe = cls(load_probe_estimator(Path(folder) / "estimator", allow_code), **described)
        if model is not None:
            probe.check_model(model)
        return probe


def _plain(value: Any) -> Any:
    """What JSON has no form for: NumPy numbers, and mappings that are no dicts."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be saved")
