"""Which transformers class a checkpoint is loaded with, and whether the checkpoint fills it."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import PretrainedConfig

from layerwise.errors import UserError

_BY_TASK = (
    ("Seq2SeqLM", transformers.AutoModelForSeq2SeqLM),
    ("CausalLM", transformers.AutoModelForCausalLM),
    ("MaskedLM", transformers.AutoModelForMaskedLM),
)


def model_class(config: PretrainedConfig) -> Any:
    """The class the checkpoint was saved from, so that no head is missing or made up.

    Where the checkpoint does not say (or its code is its own), the auto class of the first task its architecture has:
    sequence to sequence for encoder-decoders, then causal, then masked language modelling, then the bare body.
    """
    for name in config.architectures or []:
        known = getattr(transformers, name, None)
        if known is not None:
            return known
    wanted = [auto for task, auto in _BY_TASK if config.is_encoder_decoder or task != "Seq2SeqLM"]
    for auto in wanted:
        if type(config) in auto._model_mapping or auto.__name__ in (getattr(config, "auto_map", None) or {}):
            return auto
    return transformers.AutoModel


def refuse_missing(name: str, module: Any, missing: Any) -> None:
    """transformers fills weights that a checkpoint lacks with random ones; in the body that would make every result noise."""
    headed = module.base_model is not module
    body = sorted(key for key in missing if not headed or key.startswith(module.base_model_prefix + "."))
    body = [key for key in body if ".pooler." not in f".{key}"]  # BERT's, unused by every site
    if body:
        raise UserError(
            f"{name} lacks {len(body)} of the weights its configuration asks for, {body[0]} for one.\n"
            "The files are incomplete, or config.json belongs to another model."
        )
