"""Any PyTorch module as a model: its sites are the paths of its submodules."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn

from layerwise.errors import UserError
from layerwise.files import digest
from layerwise.models.fingerprint import state_mark, weights_digest

if TYPE_CHECKING:
    from layerwise.models.sites import SiteMap


class TorchModel:
    """A wrapped ``nn.Module``: an MLP, a recurrent net, a vision, speech or multimodal model. Made by ``wrap``."""

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module, self.name = module, name
        self._weights: tuple[object, str] | None = None

    @cached_property
    def sites(self) -> SiteMap:
        """Raw module paths only (``layers.0.output``)."""
        from layerwise.models.sites import SiteMap

        return SiteMap.raw(self.module)

    @property
    def fingerprint(self) -> str:
        """sha256 (64 hex digits) over the weights and the printed structure of the module."""
        mark = state_mark(self.module)
        if self._weights is None or self._weights[0] != mark:
            self._weights = mark, weights_digest(self.module)
        return digest([type(self.module).__name__, repr(self.module), self._weights[1]])

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the first parameter, the CPU for a module without any."""
        return next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        return next((parameter.dtype for parameter in self.module.parameters()), torch.get_default_dtype())

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.module.parameters())

    def __repr__(self) -> str:
        return (
            f"TorchModel {self.name}: {type(self.module).__name__}, {self.num_parameters:,} parameters on {self.device}"
        )


def wrap(module: nn.Module, name: str) -> TorchModel:
    """Make any PyTorch module a model whose sites are its submodule paths.

    Raises UserError for what is not a module. torch's fused recurrent nets run as one kernel and hide their steps: see
    ``layerwise.models.recurrent.unrolled`` for the same nets in the open.
    """
    if not isinstance(module, nn.Module):
        raise UserError(f"wrap takes a torch.nn.Module, got {type(module).__name__}.")
    return TorchModel(module, name)
