"""The model that is trained, from its config: our own, an architecture of transformers, or a pretrained one with its adapter."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from layerwise.errors import UserError, nearest, unknown
from layerwise.models.catalogue import CATALOGUE
from layerwise.models.config import ModelConfig
from layerwise.models.hub import explain_loading
from layerwise.models.loading import load_model
from layerwise.models.model import LanguageModel
from layerwise.models.quiet import quiet_transformers
from layerwise.models.sources import find
from layerwise.models.transformer import LayerwiseConfig, LayerwiseForCausalLM
from layerwise.training.model_config import ArchitectureModel, BuiltModel, PretrainedModel, TrainedModel

_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def build_model(config: TrainedModel, tokenizer: Any, context: int, seed: int) -> PreTrainedModel:
    """A model on the CPU, in float32, ready to be trained on texts of ``context`` tokens of ``tokenizer``.

    From scratch its weights depend on ``seed`` alone. Of a pretrained one with an adapter the adapter alone is trained.

    Raises UserError for sizes that do not fit, unknown pieces, architectures and fields, and a context the model cannot read.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match config:
            case BuiltModel():
                return _built(config, tokenizer, context)
            case ArchitectureModel():
                return _architecture(config, tokenizer, context)
            case PretrainedModel():
                return _pretrained(config, tokenizer, context)


def _built(config: BuiltModel, tokenizer: Any, context: int) -> PreTrainedModel:
    options = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    return LayerwiseForCausalLM(
        LayerwiseConfig(vocab_size=len(tokenizer), context=context, **options, **_special(tokenizer))
    )


def _special(tokenizer: Any) -> dict[str, int | None]:
    return {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}


def _architecture(config: ArchitectureModel, tokenizer: Any, context: int) -> PreTrainedModel:
    architecture = _configuration(config)
    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), **_special(tokenizer)}
    sizes |= {name: context for name in _CONTEXT_NAMES if getattr(architecture, name, None) is not None}
    for name, value in {**sizes, **config.overrides}.items():
        if name in config.overrides and not hasattr(architecture, name):
            known = [key for key in architecture.to_dict() if not key.startswith("_")]
            raise UserError(
                f"model.overrides.{name}: the configuration of {config.name} has no such field.{nearest(name, known)}"
            )
        setattr(architecture, name, value)
    if config.attention is not None:
        architecture._attn_implementation = config.attention
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(architecture, dtype=torch.float32)
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"transformers cannot make a {config.name} of these sizes: {reason}") from error
    if model.config.is_encoder_decoder or LanguageModel(model.eval()).is_encoder:
        raise UserError(f"{config.name} is no decoder: training here predicts the next token.")
    return model.train()


def _configuration(config: ArchitectureModel) -> PretrainedConfig:
    """A fresh configuration: of the architecture of this name, or the one a model of this name has."""
    if config.name in CONFIG_MAPPING_NAMES:
        try:
            fresh: PretrainedConfig = AutoConfig.for_model(config.name)
            # Sizes that follow from others (a head's width) follow from the overridden ones.
            known = {name: value for name, value in config.overrides.items() if hasattr(fresh, name)}
            made: PretrainedConfig = AutoConfig.for_model(config.name, **known)
        except (ValueError, TypeError) as error:
            raise UserError(
                f"model.overrides do not fit {config.name}: {' '.join(str(error).split())[:300]}"
            ) from error
        return made
    if "/" not in config.name and config.name not in CATALOGUE and not Path(config.name).expanduser().exists():
        raise unknown("architecture", config.name, CONFIG_MAPPING_NAMES)
    source = find(config.name)
    with explain_loading(config.name), quiet_transformers():
        read: PretrainedConfig = AutoConfig.from_pretrained(source.location, revision=source.revision)
    return read


def _pretrained(config: PretrainedModel, tokenizer: Any, context: int) -> PreTrainedModel:
    loaded = load_model(
        ModelConfig(
            config.name,
            revision=config.revision,
            device="cpu",
            attention=config.attention,
            trust_remote_code=config.trust_remote_code,
        )
    )
    if loaded.is_encoder or loaded.is_encoder_decoder:
        raise UserError(f"{config.name} is no decoder: training here predicts the next token.")
    if loaded.max_length is not None and context > loaded.max_length:
        raise UserError(f"context {context} is longer than {config.name} reads: at most {loaded.max_length} tokens.")
    model: PreTrainedModel = loaded.module
    if loaded.tokenizer is not None and tokenizer.get_vocab() != loaded.tokenizer.get_vocab():
        raise UserError(
            f"the tokenizer is not the one {config.name} was trained with, whose ids its embeddings are for: leave tokenizer out."
        )
    return model if config.adapter is None else with_adapter(model, config.adapter)


def with_adapter(model: PreTrainedModel, fields: dict[str, Any]) -> PreTrainedModel:
    """The model with a peft adapter, which alone is trained.

    fields: of peft's configuration, ``peft_type`` among them; ``task_type`` is filled in.

    Raises UserError for an unknown method or field, and for methods whose adapter cannot be merged into the weights.
    """
    from peft import get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kinds = {kind.value.lower(): kind for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    name = str(fields["peft_type"]).lower()
    if name not in kinds:
        raise unknown("peft_type", name, kinds)
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[kinds[name]]
    known = {item.name for item in dataclasses.fields(config_class)}
    given = {key: value for key, value in fields.items() if key != "peft_type"}
    if wrong := [key for key in given if key not in known]:
        raise UserError(f"model.adapter.{wrong[0]}: {name} has no such field.{nearest(wrong[0], known)}")
    try:
        adapted: Any = get_peft_model(model, config_class(**{"task_type": "CAUSAL_LM", **given}))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"model.adapter does not fit this model: {' '.join(str(error).split())[:300]}") from error
    if not hasattr(adapted.base_model, "merge_and_unload"):
        raise UserError(
            f"an adapter of {name} cannot be merged into the weights: choose lora, ia3 or another that can."
        )
    return adapted


def finished(model: Any) -> PreTrainedModel:
    """The model as it is kept: an adapter merged into the weights it changes."""
    merged: PreTrainedModel = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    return merged
