"""The configuration of the transformer made to be changed: its sizes, its five pieces and their options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from layerwise.errors import UserError, unknown
from layerwise.models.transformer import own_code

PIECES: dict[str, tuple[str, ...]] = {
    "attention": ("softmax", "lstm", "gru"),
    "feed_forward": ("gelu", "gelu_tanh", "relu", "relu_squared", "swiglu", "geglu"),
    "norm": ("layer_norm", "rms_norm", "none"),
    "position": ("learned", "sinusoidal", "rotary", "alibi", "none"),
    "block": ("pre_norm", "post_norm"),
}
RECURRENT = ("lstm", "gru")
RECURRENT_MASK = "linear_attention"  # what transformers calls the mask of layers that carry a state


class LayerwiseConfig(PretrainedConfig):
    """Sizes, pieces and options; every combination that would not do what it says is refused by name.

    vocab_size, context: how many tokens there are, and how many a text has at most.
    n_layers, n_heads, n_kv_heads, width: key-value heads are shared by query heads (none: as many as heads).
    feed_forward_factor: neurons of the feed-forward for each of the width; gated ones have that many gates too.
    attention: ``softmax``, or ``lstm`` or ``gru`` in its place; one for all layers or a list with one for each.
    feed_forward: the activation ``gelu``, ``gelu_tanh`` (GPT-2's), ``relu``, ``relu_squared``, or gated ``swiglu``, ``geglu``.
    norm, block: ``layer_norm``, ``rms_norm``, ``none``; ``pre_norm`` or ``post_norm``.
    position: ``learned``, ``sinusoidal``, ``rotary`` (with ``rotary_base``), ``alibi``, ``none``.
    Each of these five may be ``file.py:Name``, a function or class of a person's own.

    qk_norm: the norm of queries and keys, before rotary; none for none.
    per_head: queries, keys and values have parameters of their own for each head.
    score_scale: factor of the attention scores, on top of 1/√head_dim.
    score_scale_token: the factor holds only while this token id is somewhere in the batch.
    score_softcap, logit_softcap: c · tanh(x / c) on attention scores and on logits (Gemma 2).
    sliding_window: how many tokens, itself included, a token sees.
    relu_after: layers whose output passes a ReLU. square_feed_forward: the feed-forward's output is squared.
    experts, experts_per_token, balance_loss: a mixture of that many feed-forwards, routed as in Mixtral, with the weight of
        the Switch Transformer's balance loss; 0 experts: no mixture.
    recurrent_steps: how many steps of a tapped LSTM or GRU, from the first, have sites of their own.
    tie_word_embeddings, bias, dropout, norm_eps, initializer_range: as in GPT-2.
    code: sha256 of the files of one's own that are saved with the model; filled in, never typed.
    """

    model_type = "layerwise"
    attribute_map = {  # noqa: RUF012 (transformers' own way)
        "max_position_embeddings": "context",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "num_key_value_heads": "n_kv_heads",
        "hidden_size": "width",
        "num_local_experts": "experts",
        "num_experts_per_tok": "experts_per_token",
    }

    vocab_size: int = 256
    context: int = 256
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int | None = None
    width: int = 128
    feed_forward_factor: float | int = 4

    attention: str | list[str] | tuple[str, ...] = "softmax"
    feed_forward: str = "gelu"
    norm: str = "layer_norm"
    position: str = "learned"
    block: str = "pre_norm"

    rotary_base: float | int = 10000.0
    qk_norm: str | None = None
    per_head: bool = False
    score_scale: float | int = 1.0
    score_scale_token: int | None = None
    score_softcap: float | int | None = None
    logit_softcap: float | int | None = None
    sliding_window: int | None = None
    relu_after: list[int] | tuple[int, ...] = ()
    square_feed_forward: bool = False
    experts: int = 0
    experts_per_token: int = 2
    balance_loss: float | int = 0.01
    recurrent_steps: int = 0

    bias: bool = True
    dropout: float | int = 0.0
    norm_eps: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    code: dict[str, str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.n_kv_heads is None:
            self.n_kv_heads = self.n_heads
        if not isinstance(self.attention, str):
            self.attention = list(self.attention)
        self.relu_after = sorted(set(self.relu_after))
        self._sources: dict[str, bytes | None] = {}  # code that may run: a file's source, None for a module
        if self.code is None:
            self._take_sources()
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Raises UserError for sizes that do not fit, unknown pieces, and options that nothing would read."""
        _check_sizes(self)
        for piece, known in PIECES.items():
            for name in self.names_of(piece):
                if name not in known and not own_code.names_code(name):
                    raise unknown(piece, name, [*known, "file.py:Name"])
        if self.qk_norm not in (None, "layer_norm", "rms_norm"):
            raise unknown("qk_norm", str(self.qk_norm), ["layer_norm", "rms_norm"])
        _check_combinations(self)

    def names_of(self, piece: str) -> list[str]:
        """The names given for a piece: of attention one for each layer, of the others one."""
        named = getattr(self, piece)
        if piece != "attention":
            return [named]
        return [named] * self.n_layers if isinstance(named, str) else list(named)

    @property
    def neurons(self) -> int:
        """The width between the two maps of a feed-forward."""
        return int(self.feed_forward_factor * self.width)

    @property
    def head_dim(self) -> int:
        return self.width // self.n_heads

    @property
    def layer_types(self) -> list[str]:
        """What each layer keeps in transformers' caches, and which mask it gets. ``hybrid`` is a state beside keys."""
        plain = "full_attention" if self.sliding_window is None else "sliding_attention"
        return ["hybrid" if name in RECURRENT else plain for name in self.names_of("attention")]

    @property
    def uncached(self) -> str:
        """Why keys and values of earlier tokens cannot be kept; '' where they can."""
        return "score_scale_token depends on the whole batch" if self.score_scale_token is not None else ""

    # Code of a person's own

    def _take_sources(self) -> None:
        """Reads the files this config names, and leaves of each path the file's name, as it is in a saved folder."""
        named: dict[str, str] = {}
        for piece in PIECES:
            given = getattr(self, piece)
            short = [self._take(name, named) for name in ([given] if isinstance(given, str) else given)]
            setattr(self, piece, short[0] if isinstance(given, str) else short)
        sources = {name: source for name, source in self._sources.items() if source is not None}
        self.code = {name: own_code.digest(source) for name, source in sources.items()} or None

    def _take(self, name: str, named: dict[str, str]) -> str:
        if not own_code.names_code(name):
            return name
        home, found = own_code.split(name)
        if not home.endswith(".py"):
            self._sources[home] = None
            return name
        file = Path(home).expanduser().name
        if named.setdefault(file, home) != home:
            raise UserError(
                f"two files are called {file}: {named[file]} and {home}.\nRename one, or put both into one."
            )
        self._sources[file] = own_code.read(home)
        return f"{file}:{found}"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; but what was read from somewhere runs no code before ``allow_code``."""
        result = super().from_dict({**config_dict, "code": config_dict.get("code") or {}}, **kwargs)
        config: LayerwiseConfig = result[0] if isinstance(result, tuple) else result
        config._sources, config.code = {}, config.code or None
        config.check()  # what kwargs changed
        return result

    def allow_code(self, folder: Path | None, allowed: bool, name: str = "this model") -> None:
        """Lets the code that came with a model run, if the person ``allowed`` it; without any, nothing happens.

        Raises UserError for code that was not allowed, is missing from ``folder``, or is not what was saved.
        """
        homes = {
            own_code.split(path)[0] for piece in PIECES for path in self.names_of(piece) if own_code.names_code(path)
        }
        if homes and not allowed:
            raise UserError(
                f"{name} comes with Python code of its own ({', '.join(sorted(homes))}), which does not run unless you say so.\n"
                "Read that code, then set model.trust_remote_code to true."
            )
        for home in homes:
            source = own_code.read(str((folder or Path()) / Path(home).name)) if home.endswith(".py") else None
            if source is not None and own_code.digest(source) != (self.code or {}).get(home):
                raise UserError(f"{home} in {folder} is not the file that {name} was saved with: its digest differs.")
            self._sources[home] = source

    def find_code(self, name: str) -> Any:
        """The function or class of a person's own. Raises UserError where its code was not allowed to run."""
        home = own_code.split(name)[0]
        if home not in self._sources:
            raise UserError(
                f"{name} is code that came with a model, which does not run unless you say so.\n"
                "Read that code, then load the model with trust_remote_code (in Python: config.allow_code(folder, True))."
            )
        return own_code.find(name, self._sources[home])

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Writes config.json, and beside it the files of one's own."""
        super().save_pretrained(save_directory, **kwargs)
        for name, source in self._sources.items():
            if source is not None:
                (Path(save_directory) / name).write_bytes(source)

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().to_dict().items() if name != "_sources"}


def _check_sizes(config: LayerwiseConfig) -> None:
    for name in ("vocab_size", "context", "n_layers", "n_heads", "n_kv_heads", "width"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(config, name)}.")
    if config.width % config.n_heads or config.n_heads % (config.n_kv_heads or 1):
        raise UserError(
            f"width {config.width}, n_heads {config.n_heads} and n_kv_heads {config.n_kv_heads} do not divide: "
            "heads share the width evenly, and key-value heads the heads."
        )
    if config.neurons < 1:
        raise UserError(f"feed_forward_factor must leave at least one neuron, got {config.feed_forward_factor}.")
    if not 0 <= config.dropout < 1:
        raise UserError(f"dropout must be at least 0 and less than 1, got {config.dropout}.")
    if len(config.names_of("attention")) != config.n_layers:
        raise UserError(
            f"attention lists {len(config.names_of('attention'))} layers, but n_layers is {config.n_layers}."
        )
    for name in ("sliding_window", "score_softcap", "logit_softcap"):
        if (value := getattr(config, name)) is not None and value <= 0:
            raise UserError(f"{name} must be more than 0, got {value}.")
    wrong = [layer for layer in config.relu_after if not 0 <= layer < config.n_layers]
    if wrong:
        raise UserError(f"relu_after names layer {wrong[0]}: layers are 0 to {config.n_layers - 1}.")
    if config.score_scale_token is not None and not 0 <= config.score_scale_token < config.vocab_size:
        raise UserError(
            f"score_scale_token must be a token id, 0 to {config.vocab_size - 1} here, got {config.score_scale_token}."
        )
    if config.experts and not 1 <= config.experts_per_token <= config.experts:
        raise UserError(f"experts_per_token must be 1 to {config.experts} (experts), got {config.experts_per_token}.")


def _check_combinations(config: LayerwiseConfig) -> None:
    """Options that the chosen pieces would not read, or that cannot go together."""
    attention, feed_forward = config.names_of("attention"), config.feed_forward
    if config.position == "rotary" and config.head_dim % 2:
        raise UserError(
            f"rotary positions turn pairs of numbers, but a head has {config.head_dim}: choose an even width/n_heads."
        )
    if config.score_scale_token is not None and config.score_scale == 1:
        raise UserError("score_scale_token says when score_scale holds, which is 1: give score_scale too.")
    if config.recurrent_steps and not set(attention) & set(RECURRENT):
        raise UserError("recurrent_steps is for attention lstm or gru, and no layer has it.")
    if config.relu_after and own_code.names_code(config.block):
        raise UserError(
            f"relu_after is an option of the blocks {' and '.join(PIECES['block'])}: write it into {config.block}."
        )
    own = [name for name in attention if own_code.names_code(name)]
    if own and config.score_softcap is not None:
        raise UserError(f"score_softcap is an option of softmax attention: write it into {own[0]}.")
    if own_code.names_code(feed_forward) and config.experts:
        raise UserError(
            f"a mixture is made of feed-forwards of our own names, and {feed_forward} is not one: leave experts out."
        )
    if all(name in RECURRENT for name in attention):
        given = {
            "n_kv_heads": config.n_kv_heads != config.n_heads,
            "position": config.position in ("rotary", "alibi"),
            **{
                name: bool(getattr(config, name)) for name in ("qk_norm", "per_head", "score_softcap", "sliding_window")
            },
            "score_scale": config.score_scale != 1,
        }
        unread = _names(name for name, wrong in given.items() if wrong)
        if unread:
            raise UserError(
                f"{unread}: an option of softmax attention, and every layer is {' or '.join(sorted(set(attention)))}."
            )


def _names(names: Any) -> str:
    listed: Sequence[str] = list(names)
    return ", ".join(listed)
