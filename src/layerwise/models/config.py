"""Which language model, and how it is loaded: one frozen dataclass, no heavy import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from layerwise.errors import UserError, unknown

DTYPES = ("float32", "float16", "bfloat16", "float64", "auto")
QUANTIZATIONS = ("4bit", "8bit")
_SECRET_NAMES = {"token", "use_auth_token", "auth_token", "api_key", "hf_token"}
_OWN_FIELD = {
    "revision": "revision",
    "dtype": "dtype",
    "torch_dtype": "dtype",
    "device_map": "device_map",
    "attn_implementation": "attention",
    "quantization_config": "quantization",
    "load_in_4bit": "quantization",
    "load_in_8bit": "quantization",
    "trust_remote_code": "trust_remote_code",
}
_REFUSED = {"weights_only", "use_safetensors", "state_dict", "gguf_file"}


@dataclass(frozen=True)
class ModelConfig:
    """A language model by name, and how to load it.

    name: a catalogue alias (``smollm2``), a hub id (``EleutherAI/pythia-70m``), a file of one on the hub
        (``owner/name/file.gguf``), a local folder, a ``.gguf`` file, a wheel holding one, ``runs:/…`` or ``models:/…``.
    revision: branch, tag or commit of a hub model.
    tokenizer: the tokenizer's name where it is not the model's own: the same kinds of name.
    dtype: the weights' type in memory; ``auto`` keeps the one they are stored in.
    device: ``auto`` (CUDA, else Apple's MPS, else CPU) or torch's name of one.
    device_map: Accelerate's placement (``auto``, ``balanced``, … or module → device) in place of ``device``.
    attention: transformers' attention implementation (``eager``, ``sdpa``, ``flash_attention_2``, …); none: its default.
    quantization: ``4bit`` or ``8bit`` with bitsandbytes (8 bits compute in float16: give that dtype too).
    chat_template: true wraps each text as a user's message in the tokenizer's own template, ready for the answer;
        text or a ``.jinja`` file is a template of one's own.
    system_prompt: the system message before it.
    random_init: random weights in place of the trained ones: same architecture, same tokenizer.
    random_seed: seed of those weights.
    trust_remote_code: allow code that came with the model to run. Read that code first.
    model_kwargs: further arguments of transformers' ``from_pretrained``, and fields of the model's own configuration.
    tokenizer_kwargs: further arguments of the tokenizer's ``from_pretrained``, such as add_prefix_space.

    Access tokens come from the environment (``HF_TOKEN``) alone, so that none reaches a file or a tracking server.
    """

    shorthand: ClassVar[str] = "name"

    name: str = "smollm2"
    revision: str | None = None
    tokenizer: str | None = None
    dtype: Literal["float32", "float16", "bfloat16", "float64", "auto"] = "float32"
    device: str = "auto"
    device_map: str | dict[str, int | str] | None = None
    attention: str | None = None
    quantization: Literal["4bit", "8bit"] | None = None
    chat_template: bool | str = False
    system_prompt: str | None = None
    random_init: bool = False
    random_seed: int = 0
    trust_remote_code: bool = False
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    tokenizer_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise UserError("model.name is empty: name a model, for instance 'smollm2'.")
        if self.dtype not in DTYPES:
            raise unknown("model.dtype", str(self.dtype), DTYPES)
        if self.quantization is not None and self.quantization not in QUANTIZATIONS:
            raise unknown("model.quantization", str(self.quantization), QUANTIZATIONS)
        if self.device_map is not None and self.device != "auto":
            raise UserError(f"model.device={self.device!r} and model.device_map are both given: keep one of them.")
        if self.quantization and self.random_init:
            raise UserError(
                "model.quantization and model.random_init do not go together: random weights are not quantized."
            )
        if self.system_prompt is not None and not self.chat_template:
            raise UserError("model.system_prompt needs a chat: set model.chat_template to true (or to a template).")
        _check_kwargs("model.model_kwargs", self.model_kwargs)
        _check_kwargs("model.tokenizer_kwargs", self.tokenizer_kwargs)


def _check_kwargs(what: str, kwargs: Mapping[str, Any]) -> None:
    for name, value in kwargs.items():
        if name.lower() in _SECRET_NAMES or (isinstance(value, str) and value.startswith("hf_") and len(value) > 20):
            raise UserError(
                f"{what}.{name} would put an access token into a config.\n"
                "Tokens come from the environment alone: set HF_TOKEN, or log in once with `hf auth login`."
            )
        if name in _OWN_FIELD:
            raise UserError(f"{what}.{name}: use the field model.{_OWN_FIELD[name]}.")
        if name in _REFUSED:
            raise UserError(
                f"{what}.{name} is not accepted: weights load as safetensors or with weights_only, by name."
            )
