"""Which model is trained: our own from its options, any architecture of transformers from scratch, or a pretrained one.

Imports nothing heavy: ``--help`` reads this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from layerwise.errors import UserError


@dataclass(frozen=True)
class BuiltModel:
    """The transformer made to be changed, from scratch. ``file.py:Name`` stands for a piece of one's own.

    n_layers, n_heads, n_kv_heads, width: key-value heads are shared by query heads (none: as many as heads).
    feed_forward_factor: neurons of the feed-forward for each of the width.
    attention: ``softmax``, or ``lstm`` or ``gru`` in its place; one for all layers, or one for each.
    feed_forward: ``gelu``, ``gelu_tanh``, ``relu``, ``relu_squared``, or gated ``swiglu``, ``geglu``.
    norm: ``layer_norm``, ``rms_norm`` or ``none``.
    block: ``pre_norm`` or ``post_norm``.
    position: ``learned``, ``sinusoidal``, ``rotary``, ``alibi`` or ``none``.
    rotary_base: the base of rotary positions.
    qk_norm: the norm of queries and keys; none for none.
    per_head: queries, keys and values have parameters of their own for each head.
    score_scale: factor of the attention scores, on top of 1/√head_dim.
    score_scale_token: the factor holds only while this token id is in the batch.
    score_softcap, logit_softcap: c · tanh(x / c) on attention scores and on logits.
    sliding_window: how many tokens, itself included, a token sees.
    relu_after: layers whose output passes a ReLU.
    square_feed_forward: the feed-forward's output is squared.
    experts, experts_per_token, balance_loss: a mixture of that many feed-forwards; 0 experts: no mixture.
    recurrent_steps: how many steps of a tapped LSTM or GRU have sites of their own.
    bias: whether linear maps have biases.
    dropout: of embeddings, attention and what is added to the residual stream.
    norm_eps, initializer_range, tie_word_embeddings: as in GPT-2.
    """

    kind: ClassVar[str] = "built"

    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int | None = None
    width: int = 128
    feed_forward_factor: float = 4.0
    attention: str | list[str] = "softmax"
    feed_forward: str = "gelu"
    norm: str = "layer_norm"
    block: str = "pre_norm"
    position: str = "learned"
    rotary_base: float = 10000.0
    qk_norm: str | None = None
    per_head: bool = False
    score_scale: float = 1.0
    score_scale_token: int | None = None
    score_softcap: float | None = None
    logit_softcap: float | None = None
    sliding_window: int | None = None
    relu_after: list[int] = field(default_factory=list)
    square_feed_forward: bool = False
    experts: int = 0
    experts_per_token: int = 2
    balance_loss: float = 0.01
    recurrent_steps: int = 0
    bias: bool = True
    dropout: float = 0.0
    norm_eps: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True


@dataclass(frozen=True)
class ArchitectureModel:
    """Any architecture of transformers, from scratch.

    name: transformers' name of the architecture (``gpt2``, ``llama``, ``mixtral``, ``mamba``, …), or a model whose
        configuration is taken: an alias, a hub id, a folder.
    overrides: fields of that configuration with other values, such as ``{num_hidden_layers: 2, hidden_size: 64}``.
    attention: transformers' attention implementation; none: its default.
    """

    kind: ClassVar[str] = "architecture"
    shorthand: ClassVar[str] = "name"

    name: str
    overrides: dict[str, Any] = field(default_factory=dict)
    attention: str | None = None


@dataclass(frozen=True)
class PretrainedModel:
    """A pretrained model, trained on whole or through an adapter.

    name: an alias, hub id, folder, ``runs:/…`` or ``models:/…``.
    revision: branch, tag or commit of a hub model.
    adapter: fields of a peft configuration, ``peft_type`` among them: ``{peft_type: lora, r: 8, lora_alpha: 16}``; none: every
        weight is trained. The adapter is merged into the weights of the model that is kept.
    attention: transformers' attention implementation; none: its default.
    trust_remote_code: allow code that came with the model to run. Read that code first.
    """

    kind: ClassVar[str] = "pretrained"
    shorthand: ClassVar[str] = "name"

    name: str = "smollm2"
    revision: str | None = None
    adapter: dict[str, Any] | None = None
    attention: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.adapter is not None and "peft_type" not in self.adapter:
            raise UserError("model.adapter needs a peft_type, such as lora, ia3, adalora or vera.")


TrainedModel = BuiltModel | ArchitectureModel | PretrainedModel
