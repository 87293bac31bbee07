"""Optimizers from their configs: torch's own, and two of them as one where weights differ in kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer as TorchOptimizer
from transformers import PreTrainedModel

from layerwise.errors import UserError
from layerwise.training.optimization_config import AdamW, Optimizer

Named = list[tuple[str, nn.Parameter]]


def build_optimizer(config: Optimizer, model: nn.Module, decays: Iterable[str]) -> TorchOptimizer:
    """The optimizer of the weights that are trained.

    ``decays``: names of the parameters that weight decay pulls to 0 (transformers leaves out biases and norms).

    Raises UserError where nothing is trained, or Muon finds no matrix to train.
    """
    trained: Named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    if not trained:
        raise UserError("no weight of this model is trained: all are frozen.")
    decays = set(decays)
    if isinstance(config, AdamW):
        return _adamw(config, trained, decays)
    matrices = muon_weights(model)
    if not matrices:
        raise UserError(
            "optimizer muon trains 2-D weights between embedding and head, and this model has none: use adamw."
        )
    rest = [(name, weight) for name, weight in trained if name not in matrices]
    muon = torch.optim.Muon(
        [weight for name, weight in trained if name in matrices],
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return Together([muon, _adamw(config.others, rest, decays)]) if rest else muon


def muon_weights(model: nn.Module) -> set[str]:
    """Names of the trained 2-D weights that are neither an embedding, nor the head, nor tied to either."""
    ends: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            ends.add(id(module.weight))
        if isinstance(module, PreTrainedModel) and (head := module.get_output_embeddings()) is not None:
            ends |= {id(weight) for weight in head.parameters()}
    return {
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad and weight.ndim == 2 and id(weight) not in ends
    }


def _adamw(config: AdamW, named: Named, decays: set[str]) -> TorchOptimizer:
    groups = [
        {"params": [weight for name, weight in named if name in decays], "weight_decay": config.weight_decay},
        {"params": [weight for name, weight in named if name not in decays], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )


class Together(TorchOptimizer):
    """Several optimizers as one: their groups one after another, so that one schedule moves all learning rates alike."""

    def __init__(self, parts: list[TorchOptimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """The groups are the parts' own: what a schedule sets here, they see."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @property  # type: ignore[override]
    def state(self) -> dict[Tensor, Any]:
        return {weight: state for part in self.parts for weight, state in part.state.items()}

    @state.setter
    def state(self, value: Any) -> None:
        """torch's constructor empties it: the parts keep theirs."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()
