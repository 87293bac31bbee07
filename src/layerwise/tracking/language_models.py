"""Language models made here as LoggedModels, with their step and metrics. Also the module MLflow loads them through.

The folder holds what ``save_pretrained`` writes and the tokenizer, so that ``load_model("runs:/…")`` takes it as any other; nothing
that only a training needs to go on (optimizer, random numbers) enters it, and nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import pandas as pd
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from layerwise.tracking.datasets import DIGEST_LENGTH
from layerwise.tracking.logged_models import Servable, log_servable
from layerwise.tracking.models import logged_model_id
from layerwise.tracking.run import Tracker

_REQUIRED = ("mlflow", "torch", "transformers", "safetensors", "numpy", "pandas")
_TRAINING_ONLY = (
    "optimizer*",
    "scheduler*",
    "scaler*",
    "rng_state*",
    "trainer_state.json",
    "training_args.bin",
    "progress.json",
)


def log_language_model(
    tracker: Tracker,
    folder: Path,
    name: str,
    *,
    step: int,
    metrics: Mapping[str, float],
    data: tuple[str, str] | None = None,
) -> str:
    """Record a saved model as the LoggedModel ``name`` of the tracker's run; returns its ``models:/…``.

    ``metrics`` become the model's own, at ``step``, measured on ``data`` (name and digest).
    """

    def write(files: Path) -> None:
        copytree(folder, files, ignore=ignore_patterns(*_TRAINING_ONLY), dirs_exist_ok=True)

    return log_servable(
        tracker,
        name,
        Servable(
            "language model",
            __name__,
            write,
            ModelSignature(
                inputs=Schema([ColSpec(DataType.string, "prompt")]), outputs=Schema([ColSpec(DataType.string, "text")])
            ),
            _REQUIRED,
            params={"step": str(step)},
            metrics=metrics,
            data=data,
            step=step,
        ),
    )


def logged_names(tracker: Tracker) -> set[str]:
    """The names of the models that the tracker's run has logged whole."""
    outputs: Any = tracker.client.get_run(tracker.run_id).outputs
    models = [tracker.client.get_logged_model(one.model_id) for one in (outputs.model_outputs if outputs else [])]
    return {model.name for model in models}


def last_steps(tracker: Tracker) -> dict[str, int]:
    """Every metric of the tracker's run and the last step recorded of it."""
    names = tracker.client.get_run(tracker.run_id).data.metrics
    return {name: max(item.step for item in tracker.client.get_metric_history(tracker.run_id, name)) for name in names}


def training_data(tracker: Tracker, name: str, digest: str, parts: Mapping[str, Mapping[str, int]]) -> None:
    """Record prepared training data as inputs of the run: each part with its role, rows and tokens."""
    inputs = [
        DatasetInput(
            Dataset(
                name=name[:500],
                digest=digest[:DIGEST_LENGTH],
                source_type="layerwise",
                source=json.dumps({"source": name, "digest": digest}, ensure_ascii=False),
                schema=json.dumps({"columns": ["input_ids", "labels"]}),
                profile=json.dumps(dict(parts)),
            ),
            [InputTag("mlflow.data.context", "training")],
        )
    ]
    tracker.client.log_inputs(tracker.run_id, datasets=inputs)


def origin(tracker: Tracker, name: str) -> None:
    """Record that a training began from a model of this name, where it was made here."""
    model_id = logged_model_id(tracker.client, name)
    if model_id is not None:
        tracker.client.log_inputs(tracker.run_id, models=[LoggedModelInput(model_id)])


class ServedLanguageModel:
    """What ``mlflow.pyfunc.load_model`` and ``mlflow models serve`` call."""

    def __init__(self, folder: Path) -> None:
        from layerwise.models.loading import load_model

        self.model = load_model(str(folder))

    def predict(self, data: pd.DataFrame | Sequence[str], params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """``data``: a frame with a column ``prompt``, or prompts. Returns the likeliest ``text`` behind each."""
        from layerwise.training.inspection.config import Sampling
        from layerwise.training.inspection.sampling import sample

        prompts = [str(one) for one in (data["prompt"] if isinstance(data, pd.DataFrame) else data)]
        found = sample(self.model, prompts, Sampling(temperature=0))
        return pd.DataFrame({"text": [one.text for [one] in found]})


def _load_pyfunc(path: str) -> ServedLanguageModel:
    return ServedLanguageModel(Path(path))
