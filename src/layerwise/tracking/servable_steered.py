"""Steered models as MLflow models: prompts in, what the model under its plan writes behind them out. Also the module MLflow loads them through.

The folder holds the plan and its tensors (``interventions.saving``) and ``model.json``: which language model, by name, options and
fingerprint, which is checked on loading; or a copy of it. Nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from layerwise.config import plain
from layerwise.errors import UserError
from layerwise.tracking.logged_models import Servable, data_folder, log_servable, trusts
from layerwise.tracking.models import TRACKED, local_folder

if TYPE_CHECKING:
    from layerwise.interventions.intervened import Intervened
    from layerwise.models.model import LanguageModel
    from layerwise.tracking.run import Tracker

_REQUIRED = ("mlflow", "torch", "transformers", "safetensors", "numpy", "pandas")
_PLAN, _MODEL, _WHICH = "plan", "language_model", "model.json"
_DEFAULTS = {"max_new_tokens": 40, "temperature": 0.0, "seed": 0}


def log_steered(
    tracker: Tracker,
    intervened: Intervened,
    name: str = "steered",
    *,
    metrics: Mapping[str, float] | None = None,
    copy_model: bool = False,
    register: str | None = None,
) -> str:
    """Record a plan over its language model as the servable LoggedModel ``name`` of the tracker's run; returns ``models:/…``.

    ``metrics`` become the model's own. ``copy_model`` puts the language model beside the plan. ``register`` is a name of the model
    registry. Raises UserError for a plan that needs more than a prompt: sources, or positions given at each call.
    """
    from layerwise.interventions.saving import save
    from layerwise.models.quiet import quiet_transformers

    check_servable(intervened)
    model: LanguageModel = intervened.model

    def write(folder: Path) -> None:
        save(intervened, folder / _PLAN, alone=True)
        which = {"config": plain(model.config), "name": model.name, "fingerprint": model.fingerprint}
        (folder / _WHICH).write_text(json.dumps(which, indent=1, ensure_ascii=False), encoding="utf-8")
        if copy_model:
            with quiet_transformers():
                model.module.save_pretrained(folder / _MODEL)
                model.tokenizer.save_pretrained(folder / _MODEL)

    steps = intervened.plan.steps
    steered = Servable(
        kind="steered model",
        loader=__name__,
        write=write,
        signature=ModelSignature(
            inputs=Schema([ColSpec(DataType.string, "prompt")]),
            outputs=Schema([ColSpec(DataType.string, "text")]),
            params=ParamSchema(
                [
                    ParamSpec("max_new_tokens", DataType.long, _DEFAULTS["max_new_tokens"]),
                    ParamSpec("temperature", DataType.double, _DEFAULTS["temperature"]),
                    ParamSpec("seed", DataType.long, _DEFAULTS["seed"]),
                ]
            ),
        ),
        requires=_REQUIRED,
        params={
            "operations": ", ".join(dict.fromkeys(step.operation.kind for step in steps))[:250],
            "sites": ", ".join(dict.fromkeys(site for step in steps for site in step.sites))[:250],
            "model_name": model.name,
        },
        tags={"layerwise.model_fingerprint": model.fingerprint},
        metrics=metrics or {},
    )
    return log_servable(tracker, name, steered, register)


def check_servable(intervened: Intervened) -> None:
    """UserError unless the plan can be carried out knowing nothing but a prompt."""
    from layerwise.interventions.plan import BASE
    from layerwise.models.model import LanguageModel

    if not isinstance(intervened.model, LanguageModel) or intervened.model.tokenizer is None:
        raise UserError("a steered model takes text: lay the plan over a language model with its tokenizer.")
    for step in intervened.plan.steps:
        if step.source not in ("", BASE) or step.into != BASE:
            raise UserError(
                f"step {step.name} reads from the run {step.source!r}, and whoever calls a steered model gives a prompt alone.\n"
                "Take operations with a vector (add, constant, project_out, clamp, …)."
            )
        if str(step.positions).startswith(("each", "chars:", "part:")):
            raise UserError(f"step {step.name} acts at positions {step.positions}, which a prompt alone does not tell.")


def load_steered(uri: str, model: LanguageModel | None = None, trust_remote_code: bool = False) -> Steered:
    """A steered model from the tracking server: ``runs:/RUN_ID/steered``, ``models:/…`` or a folder.

    >>> load_steered("models:/kinder/1").generate(["I hate"])  # doctest: +SKIP
    ['I hate to leave, but …']

    ``model``: an already loaded language model, checked by its fingerprint. ``trust_remote_code``: allow code that a plan names or that
    came with the model to run. Raises UserError where there is none, or the language model is another one.
    """
    folder = local_folder(uri) if uri.startswith(TRACKED) else Path(uri).expanduser()
    if not (folder / _PLAN).is_dir():
        folder = data_folder(folder)
    return _attached(folder, model, trusts(trust_remote_code))


class Steered:
    """A language model under a plan, as it was logged: ``intervened`` is the plan over ``intervened.model``."""

    def __init__(self, intervened: Intervened) -> None:
        self.intervened = intervened

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int = 40, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """What the model under its plan writes behind each prompt; its likeliest tokens at temperature 0, else drawn from ``seed``."""
        import torch

        from layerwise.models.generation import continue_texts

        decoding = {"do_sample": True, "temperature": float(temperature)} if temperature > 0 else {}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return continue_texts(
                self.intervened.model, prompts, max_new_tokens=max_new_tokens, around=self.intervened.generating, decoding=decoding,
            )  # fmt: skip


class ServedSteered:
    """What ``mlflow.pyfunc.load_model`` and ``mlflow models serve`` call."""

    def __init__(self, steered: Steered) -> None:
        self.steered = steered

    def predict(self, data: pd.DataFrame | Sequence[str], params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """``data``: a frame with a column ``prompt``, or prompts. Returns the ``text`` behind each."""
        prompts = [str(prompt) for prompt in (data["prompt"] if isinstance(data, pd.DataFrame) else data)]
        said = {name: value for name, value in (params or {}).items() if name in _DEFAULTS}
        return pd.DataFrame({"text": self.steered.generate(prompts, **{**_DEFAULTS, **said})})


def _load_pyfunc(path: str) -> ServedSteered:
    return ServedSteered(_attached(Path(path), None, trusts(False)))


def _attached(folder: Path, model: LanguageModel | None, trusted: bool) -> Steered:
    from layerwise.interventions.saving import load

    try:
        which = json.loads((folder / _WHICH).read_text(encoding="utf-8"))
        name, fingerprint, options = which["name"], which["fingerprint"], which["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} holds no steered model: {error}.") from None
    model = _language_model(folder, options, trusted) if model is None else model
    if model.fingerprint != fingerprint:
        raise UserError(
            f"this plan was made for {name} (fingerprint {fingerprint[:12]}…), but {model.name} has the fingerprint "
            f"{model.fingerprint[:12]}….\nLoad the model it belongs to, or log the plan over this one."
        )
    return Steered(load(folder / _PLAN, model, trust_code=trusted))


def _language_model(folder: Path, options: Mapping[str, Any], trusted: bool) -> LanguageModel:
    from layerwise.models.config import ModelConfig
    from layerwise.models.loading import load_model

    known = {field.name for field in fields(ModelConfig)}
    said = {key: value for key, value in options.items() if key in known} | {"trust_remote_code": trusted}
    if (
        folder / _MODEL
    ).is_dir():  # trained weights in a folder, whatever the original's name, revision or random start was
        said |= {"name": str(folder / _MODEL), "tokenizer": None, "revision": None, "random_init": False}
    return load_model(ModelConfig(**said))
