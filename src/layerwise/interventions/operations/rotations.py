"""Swaps in learned bases: distributed alignment search and its kin.

All are written base + share ⊙ (source − base), carried into the rotated basis and back, so that what is not swapped, and a
swap with itself, stays exactly as it was.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from layerwise.errors import UserError
from layerwise.interventions.operations.base import Operation, Row, need_source, need_width
from layerwise.interventions.settings import Boundless, LowRankRotation, Mask, Rotation


class Orthonormal(nn.Module):
    """The parametrisation of (…, width, rank) by any matrix of full rank: the Q of its QR decomposition, R's diagonal positive.

    Training steps in it cost a 20th to an 80th of those in torch's own orthogonal parametrisation (matrix exponential, Householder
    products), and it runs under vmap: many rotations are one batch.
    """

    def forward(self, free: Tensor) -> Tensor:
        q, r = torch.linalg.qr(free)
        return q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)[..., None, :]

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


class Basis(nn.Module):
    """``weight`` (width, rank) with orthonormal columns, kept so while it is trained."""

    weight: Tensor

    def __init__(self, width: int, rank: int, seed: int) -> None:
        super().__init__()
        start = torch.randn(width, rank, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(torch.linalg.qr(start).Q.contiguous())  # FSDP shards no other
        register_parametrization(self, "weight", Orthonormal())


class RotatedSwap(Operation):
    """base + ((source − base) R ⊙ share) Rᵀ, R (width, rank) orthonormal columns; the share is 1 where chosen."""

    def __init__(self, settings: Rotation | LowRankRotation, width: int | None) -> None:
        super().__init__(settings, width)
        whole = need_width(settings, width)
        self.rank = settings.rank if isinstance(settings, LowRankRotation) else whole
        if self.rank > whole:
            raise UserError(f"a space of {whole} numbers has no rotation of rank {self.rank}.")
        self.basis = Basis(whole, self.rank, settings.seed)

    @property
    def size(self) -> int:
        return self.rank

    def changed(self, base: Tensor, row: Row) -> Tensor:
        weight = self.basis.weight
        move = (need_source(row) - base) @ weight
        move = move if row.chosen is None else move * row.chosen
        return base + move @ weight.T


class BoundlessSwap(Operation):
    """A rotated swap with the share σ(i / T) · σ((b·d − i) / T) of the i-th of d numbers, boundary b learned.

    The boundary is held in [0.001, 1]. ``set_temperature`` sharpens the edge; ``penalty`` is the boundary.
    """

    temperature: Tensor

    def __init__(self, settings: Boundless, width: int | None) -> None:
        super().__init__(settings, width)
        whole = need_width(settings, width)
        self.basis = Basis(whole, whole, settings.seed)
        self.boundary = nn.Parameter(torch.tensor(settings.boundary))
        self.register_buffer("temperature", torch.tensor(settings.temperature))

    def share(self) -> Tensor:
        """(width,) between 0 and 1."""
        whole = need_width(self.settings, self.width)
        index = torch.arange(whole, device=self.boundary.device, dtype=self.boundary.dtype)
        edge = self.boundary.clamp(1e-3, 1.0) * whole
        return torch.sigmoid(index / self.temperature) * torch.sigmoid((edge - index) / self.temperature)

    def penalty(self) -> Tensor:
        return self.boundary.clamp(1e-3, 1.0)

    def changed(self, base: Tensor, row: Row) -> Tensor:
        weight, share = self.basis.weight, self.share()
        share = share if row.chosen is None else share * row.chosen
        return base + (((need_source(row) - base) @ weight) * share) @ weight.T


class MaskedSwap(Operation):
    """base + σ(mask / T) ⊙ (source − base), in the model's basis or in a learned rotation. ``penalty``: the mean share."""

    temperature: Tensor

    def __init__(self, settings: Mask, width: int | None) -> None:
        super().__init__(settings, width)
        whole = need_width(settings, width)
        self.basis = Basis(whole, whole, settings.seed) if settings.rotated else None
        self.mask = nn.Parameter(torch.full((whole,), settings.start))
        self.register_buffer("temperature", torch.tensor(settings.temperature))

    def share(self) -> Tensor:
        """(width,) between 0 and 1."""
        return torch.sigmoid(self.mask / self.temperature)

    def penalty(self) -> Tensor:
        return self.share().mean()

    def changed(self, base: Tensor, row: Row) -> Tensor:
        share = self.share() if row.chosen is None else self.share() * row.chosen
        move = need_source(row) - base
        if self.basis is None:
            return base + share * move
        weight = self.basis.weight
        return base + ((move @ weight) * share) @ weight.T
