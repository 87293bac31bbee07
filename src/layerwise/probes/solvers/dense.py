"""Dense algebra of the solvers: products, Cholesky factors, shifted systems; LAPACK on the CPU, torch on a GPU.

NumPy's BLAS serves CPU tensors (shared memory, no copy): for the tall and thin products here it is about twice as fast as
torch's, and it multiplies a matrix by its own transpose in half the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from scipy.linalg import blas, lapack
from torch import Tensor

from layerwise.errors import UserError

FEW_SHIFTS = 4  # below this many, one Cholesky factor a shift is cheaper than a tridiagonal reduction
GPU_ELEMENTS = 2**28  # elements of the factors made at once on a GPU


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product (…, m, k) × (…, k, n) → (…, m, n)."""
    if a.is_cuda:
        return a @ b
    return torch.from_numpy(np.matmul(a.numpy(), b.numpy()))


def gram(rows: Tensor) -> Tensor:
    """Gram matrix of the columns, (…, n, d) → (…, d, d)."""
    if rows.is_cuda:
        return rows.mT @ rows
    flat = rows.reshape(math.prod(rows.shape[:-2]), *rows.shape[-2:])
    result = torch.empty(len(flat), rows.shape[-1], rows.shape[-1], dtype=rows.dtype)
    for matrix, into in zip(flat.numpy(), result.numpy(), strict=True):
        np.matmul(matrix.T, matrix, out=into)  # one matrix at a time: BLAS sees that it is its own transpose
    return result.reshape(*rows.shape[:-2], rows.shape[-1], rows.shape[-1])


def half_gram(rows: Tensor, into: Tensor | None = None) -> Tensor:
    """The upper half of ``gram``, 0 below the diagonal: in half the time, and all that ``Cholesky`` and ``eigh`` look at.

    Args:
        rows: (batch, n, d). into: (batch, d, d), memory to use, with 0 below the diagonal.
    """
    if rows.is_cuda:
        found = (rows.mT @ rows).triu()
        return found if into is None else into.copy_(found)
    if into is None:
        into = rows.new_zeros(len(rows), rows.shape[-1], rows.shape[-1])
    if rows.shape[-2] == 0:
        return into.zero_()
    multiply = blas.dsyrk if rows.dtype == torch.float64 else blas.ssyrk
    for matrix, half in zip(rows.numpy(), into.numpy(), strict=True):
        multiply(1.0, matrix.T, c=half.T, lower=1, overwrite_c=1)  # in Fortran order: in place
    return into


def subtract_outer(half: Tensor, vector: Tensor) -> Tensor:
    """``M − v vᵀ`` in place, (batch, d, d), of which the upper half is kept, and (batch, d)."""
    if half.is_cuda:
        return half.sub_((vector[:, :, None] * vector[:, None]).triu())
    for one, along in zip(half.numpy(), vector.numpy(), strict=True):
        blas.dsyr(-1.0, along, a=one.T, lower=1, overwrite_a=1)  # in Fortran order: in place
    return half


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (…, d), ascending, none below 0, and eigenvectors (…, d, d) of positive semi-definite matrices' upper halves."""
    if matrix.is_cuda:
        values, vectors = torch.linalg.eigh(matrix, UPLO="U")
    else:
        values, vectors = (torch.from_numpy(part) for part in np.linalg.eigh(matrix.numpy(), UPLO="U"))
    return values.clamp_min(0), vectors


@dataclass(frozen=True)
class Cholesky:
    """Cholesky factors of positive definite matrices (batch, d, d); ``solve`` multiplies by their inverses."""

    factors: Tensor

    @classmethod
    def of(cls, matrices: Tensor) -> Cholesky:
        """Factor the matrices by their upper halves; their memory is reused. Single precision is enough for a preconditioner.

        Raises:
            NotPositiveDefinite: where rounding has left one of them without a factor.
        """
        if matrices.is_cuda:
            factors, info = torch.linalg.cholesky_ex(matrices, upper=True)
            if bool(info.any()):
                raise NotPositiveDefinite
            return cls(factors)
        factorise = lapack.dpotrf if matrices.dtype == torch.float64 else lapack.spotrf
        for matrix in matrices.numpy():
            # The transposed view is in Fortran order, so that LAPACK works in place: its lower half is our upper one.
            _, failed = factorise(matrix.T, lower=1, clean=0, overwrite_a=1)
            if failed:
                raise NotPositiveDefinite
        return cls(matrices)

    def solve(self, right: Tensor) -> Tensor:
        """(batch, d, columns) → (batch, d, columns) in the precision and memory order of ``right``; one factor serves a whole batch."""
        if self.factors.is_cuda:
            return torch.cholesky_solve(right.to(self.factors.dtype), self.factors, upper=True).to(right.dtype)
        single = self.factors.dtype == torch.float32
        backsolve = lapack.spotrs if single else lapack.dpotrs
        solved = torch.empty_like(right)
        for index, (columns, into) in enumerate(zip(right.numpy(), solved.numpy(), strict=True)):
            factor = self.factors[index if len(self.factors) > 1 else 0].numpy().T
            into[:] = backsolve(factor, columns.astype(np.float32) if single else columns, lower=1)[0]
        return solved

    def take(self, keep: Tensor) -> Cholesky:
        """The factors of some of the batch; a factor that serves all stays."""
        return self if len(self.factors) == 1 else Cholesky(self.factors[keep])


class NotPositiveDefinite(ArithmeticError):
    """A matrix that should have a Cholesky factor has none in the precision at hand."""


def shifted_solves(matrix: Tensor, right: Tensor, shifts: Tensor, metric: Tensor | None = None) -> Tensor:
    """Solve ``(M + s·D) W = B`` for every shift s > 0, with D the identity or a diagonal matrix.

    Args:
        matrix: (batch, d, d) positive semi-definite, float64, its upper half; it may be overwritten.
        right: (batch, d, columns).
        shifts: (shifts,), all above 0.
        metric: (batch, d) the diagonal of D, above 0.

    Returns:
        (batch, shifts, d, columns).

    Raises:
        UserError: where a shift is too small beside the matrix to make it invertible in double precision.
    """
    try:
        if not matrix.is_cuda and len(shifts) > FEW_SHIFTS and matrix.shape[-1] > FEW_SHIFTS:
            if metric is None:
                return torch.stack([_tridiagonal_solves(*pair, shifts) for pair in zip(matrix, right, strict=True)])
            root = metric.sqrt()
            matrix.div_(root[:, :, None]).div_(root[:, None])
            return shifted_solves(matrix, right / root[:, :, None], shifts) / root[:, None, :, None]
        solved, left = [], len(shifts)
        step = max(GPU_ELEMENTS // matrix.numel(), 1) if matrix.is_cuda else 1
        for some in shifts.split(step):
            left -= len(some)
            shifted = matrix[:, None] if left == 0 and len(some) == 1 else matrix[:, None].repeat(1, len(some), 1, 1)
            weighted = some[:, None] if metric is None else some[:, None] * metric[:, None]
            shifted.diagonal(dim1=2, dim2=3).add_(weighted)
            repeated = right[:, None].expand(-1, len(some), -1, -1)
            factor = Cholesky.of(shifted.flatten(0, 1))
            solved.append(factor.solve(repeated.flatten(0, 1)).reshape(repeated.shape))
        return torch.cat(solved, dim=1)
    except NotPositiveDefinite:
        raise UserError(
            f"a ridge penalty of {float(shifts.min()):g} is too small for these features, which depend on one another.\n"
            "Use a larger penalty."
        ) from None


def _tridiagonal_solves(matrix: Tensor, right: Tensor, shifts: Tensor) -> Tensor:
    """One reduction ``M = Q T Qᵀ`` serves every shift, since ``T + s·I`` stays tridiagonal. (d, d), (d, c) → (shifts, d, c)."""
    size, columns = right.shape
    workspace = int(lapack.dsytrd_lwork(size, lower=1)[0])
    reduced, diagonal, beside, scales, _ = lapack.dsytrd(matrix.numpy().T, lower=1, lwork=workspace)
    reflectors = np.asfortranarray(reduced[1:, :-1])

    def turn(vectors: np.ndarray, transposed: str) -> None:
        """Multiply by Q or Qᵀ in place: Q leaves the first row alone."""
        room = 64 * max(vectors.shape[1], 64)
        vectors[1:] = lapack.dormqr("L", transposed, reflectors, scales, vectors[1:], lwork=room)[0]

    turned = np.array(right.numpy(), order="F")
    turn(turned, "T")
    solved = np.empty((size, len(shifts) * columns), order="F")
    for index, shift in enumerate(shifts.tolist()):
        _, _, solution, failed = lapack.dptsv(diagonal + shift, beside, turned)
        if failed:
            raise NotPositiveDefinite
        solved[:, index * columns : (index + 1) * columns] = solution
    turn(solved, "N")
    return torch.from_numpy(np.ascontiguousarray(solved.reshape(size, len(shifts), columns).transpose(1, 0, 2)))


def leading_axes(matrix: Tensor, count: int) -> Tensor:
    """The ``count`` leading eigenvectors of positive semi-definite matrices, (batch, d, d) → (batch, count, d), largest first.

    Their sign is such that the entry of largest size is positive.
    """
    size = matrix.shape[-1]
    if matrix.is_cuda:
        vectors = torch.linalg.eigh(matrix)[1][..., size - count :]
    else:
        chosen = (size - count, size - 1)
        vectors = torch.stack(
            [torch.from_numpy(scipy.linalg.eigh(one, subset_by_index=chosen)[1]) for one in matrix.numpy()]
        )
    axes = vectors.flip(-1).mT
    largest = axes.gather(2, axes.abs().argmax(2, keepdim=True))
    return axes * largest.sign()
