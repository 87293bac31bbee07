"""Along directions: add, subtract, scale, project out, erase, clamp."""

from __future__ import annotations

import torch
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.operations.base import Operation, Row, need_source
from layerwise.interventions.settings import Add, Clamp, Erase, ProjectOut, Scale, Subtract


class Moved(Operation):
    """base ± strength · vector, or ± strength · source (activation addition, Turner et al. 2023)."""

    vector: Tensor | None

    def __init__(self, settings: Add | Subtract, width: int | None, vector: Tensor | None = None) -> None:
        """vector: (width,), or None for the source's rows."""
        super().__init__(settings, width)
        self.strength = settings.strength if isinstance(settings, Add) else -settings.strength
        self.normalize = settings.normalize
        self.register_buffer("vector", vector)

    def constant(self) -> Tensor | None:
        return None if self.vector is None else self._move(self.vector)

    def new(self, base: Tensor, row: Row) -> Tensor:
        return base + self._move(self.vector if self.vector is not None else need_source(row))

    def _move(self, vector: Tensor) -> Tensor:
        return self.strength * (torch.nn.functional.normalize(vector, dim=-1) if self.normalize else vector)


class _Along(Operation):
    """Acts on the part of the value in the span of ``vector``, (width,) or several directions as rows (k, width)."""

    basis: Tensor | None

    def _keep_basis(self, vector: Tensor | None) -> None:
        """Buffer ``basis`` (k, width): orthonormal rows of the same span."""
        if vector is not None:
            rows = vector.reshape(-1, vector.shape[-1]).double()
            if rows.norm(dim=-1).min() == 0:
                raise UserError("a direction of length 0 points nowhere.")
            _, values, directions = torch.linalg.svd(rows, full_matrices=False)
            kept = directions[values > values[0] * max(rows.shape) * torch.finfo(torch.float32).eps]
            vector = kept.to(vector.dtype)
        self.register_buffer("basis", vector)

    def part(self, base: Tensor) -> Tensor:
        """(rows, width): the part of the rows in the span."""
        assert self.basis is not None
        return (base @ self.basis.T) @ self.basis


class Scaled(_Along):
    """factor · base, or the factor on its part along directions only."""

    def __init__(self, settings: Scale, width: int | None, vector: Tensor | None = None) -> None:
        super().__init__(settings, width)
        self.factor = settings.factor
        self._keep_basis(vector)

    def new(self, base: Tensor, row: Row) -> Tensor:
        return base * self.factor if self.basis is None else base + (self.factor - 1) * self.part(base)


class ProjectedOut(_Along):
    """base without its part in the span: (I − BᵀB) base."""

    def __init__(self, settings: ProjectOut, width: int | None, vector: Tensor) -> None:
        super().__init__(settings, width)
        self._keep_basis(vector)

    def new(self, base: Tensor, row: Row) -> Tensor:
        return base - self.part(base)


class Erased(Operation):
    """base − left · right · (base − mean), left and right of any rank."""

    vector: Tensor

    def __init__(self, settings: Erase, width: int | None, vector: Tensor) -> None:
        """vector: (2 · rank + 1, width), the rows of leftᵀ, those of right, and the mean."""
        super().__init__(settings, width)
        if vector.dim() != 2 or len(vector) < 3 or len(vector) % 2 == 0:
            raise UserError(
                f"erase takes an odd number of rows: leftᵀ, as many of right, and the mean; got {tuple(vector.shape)}."
            )
        self.register_buffer("vector", vector)

    def new(self, base: Tensor, row: Row) -> Tensor:
        left, right = self.vector[:-1].chunk(2)
        return base - ((base - self.vector[-1]) @ right.T) @ left


class Clamped(Operation):
    """base with its component along a unit direction u held in [low, high]: base + (clamp(base·u) − base·u) u."""

    vector: Tensor

    def __init__(self, settings: Clamp, width: int | None, vector: Tensor) -> None:
        """vector: (width,), of any length above 0; its sign says which way the component counts."""
        super().__init__(settings, width)
        if vector.dim() != 1 or not vector.norm() > 0:
            raise UserError(f"clamp takes one direction of a length above 0, got the shape {tuple(vector.shape)}.")
        self.low, self.high = settings.low, settings.high
        self.register_buffer("vector", vector / vector.norm())

    def new(self, base: Tensor, row: Row) -> Tensor:
        component = base @ self.vector
        return base + (component.clamp(self.low, self.high) - component)[:, None] * self.vector
