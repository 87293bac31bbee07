"""How alike two vectors, or two representations of the same items, are.

Every measure of representations is 1 where they are the same. ``x (n, d)`` and ``y (n, e)`` are two models' vectors of the same n
items; their widths may differ. All are unchanged by rotation and by one scale for all of x; what else, each says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import stats
from torch import Tensor

Kernel = Callable[[Tensor], Tensor]  # (n, d) → (n, n)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of the angle between the last axes of ``a`` and ``b`` (broadcast); NaN where either vector is zero."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    dot = (a * b).sum(-1)
    return np.clip(np.divide(dot, norms, out=np.full(np.shape(dot), np.nan), where=norms > 0), -1, 1)


# -- centred kernel alignment


def linear_kernel(x: Tensor) -> Tensor:
    """Inner products of all pairs, ``(n, n)``."""
    return x @ x.T


def rbf_kernel(x: Tensor, bandwidth: float) -> Tensor:
    """``exp(−‖x − x'‖² / 2 bandwidth²)`` of all pairs, ``(n, n)``."""
    return torch.exp(-squared_distances(x) / (2 * bandwidth**2))


def squared_distances(x: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs, ``(n, n)``."""
    # About their mean: beside a large common offset the differences would drown in rounding.
    x = x - x.mean(0)
    squares = (x * x).sum(-1)
    return (squares[:, None] + squares - 2 * (x @ x.T)).clamp(min=0)


def median_distance(x: Tensor) -> float:
    """Median Euclidean distance of two different items: the usual bandwidth of an RBF kernel, up to a factor."""
    distances = squared_distances(x)
    upper = torch.triu_indices(len(x), len(x), offset=1)
    return float(distances[upper[0], upper[1]].median().sqrt())


def unbiased_centred(gram: Tensor) -> Tensor:
    """The U-centred Gram matrix ``(n, n)``, whose products are unbiased: ⟨K̃, L̃⟩ / n(n − 3) = HSIC (Székely & Rizzo 2014, Song et al. 2012).

    Needs n > 3.
    """
    n = len(gram)
    gram = gram.clone()
    gram.fill_diagonal_(0)
    rows = gram.sum(0) / (n - 2)
    centred = (gram - rows[:, None] - rows[None, :] + rows.sum() / (n - 1)).fill_diagonal_(0)
    # Items that are all alike leave rounding errors, not zeros.
    rounding = 16 * n * torch.finfo(gram.dtype).eps
    return centred if centred.abs().max() > rounding * gram.abs().max() else torch.zeros_like(centred)


def cka(x: Tensor, y: Tensor, kernel_x: Kernel = linear_kernel, kernel_y: Kernel = linear_kernel) -> float:
    """Centred kernel alignment with unbiased HSIC, of all items at once (Kornblith et al. 2019; Nguyen et al. 2021).

    1 at most; near 0, and of either sign, for independent representations. NaN where a representation is constant. Needs n > 3.
    """
    meter = MinibatchCKA(1, 1)
    meter.add([kernel_x(x)], [kernel_y(y)])
    return float(meter.value()[0, 0])


@dataclass
class MinibatchCKA:
    """CKA of all layers of one model with all of another, added up over minibatches (Nguyen et al. 2021).

    The mean over minibatches of unbiased HSIC estimates that of all items whatever the minibatch size, if items are dealt to minibatches
    at random. What is held does not grow with the items: layers_a · layers_b numbers.
    """

    layers_a: int
    layers_b: int
    between: Tensor = field(init=False)
    within_a: Tensor = field(init=False)
    within_b: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.between = torch.zeros(self.layers_a, self.layers_b, dtype=torch.float64)
        self.within_a = torch.zeros(self.layers_a, dtype=torch.float64)
        self.within_b = torch.zeros(self.layers_b, dtype=torch.float64)

    def add(self, grams_a: list[Tensor], grams_b: list[Tensor]) -> None:
        """One minibatch: of every layer of each model the Gram matrix ``(n, n)``, n > 3."""
        n = len(grams_a[0])
        a, b = (
            torch.stack([unbiased_centred(gram).flatten().double() for gram in grams]) for grams in (grams_a, grams_b)
        )
        scale = 1 / (n * (n - 3))
        # The items of a minibatch count as often as there are: a last, smaller one must not count as a whole one.
        self.between += (a @ b.T).cpu() * (scale * n)
        self.within_a += (a * a).sum(1).cpu() * (scale * n)
        self.within_b += (b * b).sum(1).cpu() * (scale * n)

    def value(self) -> np.ndarray:
        """``(layers_a, layers_b)``; NaN where a layer is constant."""
        product = self.within_a[:, None] * self.within_b[None, :]
        return torch.where(product > 0, self.between / product.sqrt(), torch.nan).numpy()


# -- measures of one sample of items, each in two steps so that a layer is prepared once for all its pairs


def procrustes_form(x: Tensor) -> Tensor:
    """``x`` centred, of Frobenius norm 1."""
    centred = x - x.mean(0)
    return centred / centred.norm()


def procrustes(x: Tensor, y: Tensor) -> float:
    """Orthogonal Procrustes similarity: 1 less half the squared distance after the best rotation (Ding et al. 2021).

    Of two prepared by ``procrustes_form``; it is the nuclear norm of ``xᵀ y``. Widths may differ (the narrower is filled with zeros).
    """
    return float(torch.linalg.svdvals(x.T @ y).sum().clamp(max=1))


def svcca_form(x: Tensor, variance: float = 0.99) -> Tensor:
    """``(n, k)`` orthonormal directions of items that hold ``variance`` of x's variance."""
    left, sizes, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    shares = (sizes**2).cumsum(0) / (sizes**2).sum()
    # Not one direction for the sake of rounding.
    kept = int((shares < variance - 1e-12).sum()) + 1
    return left[:, :kept]


def svcca(x: Tensor, y: Tensor) -> float:
    """Mean canonical correlation of two prepared by ``svcca_form`` (Raghu et al. 2017), over the smaller number of directions.

    It needs many more items than directions: with as few, anything correlates with anything.
    """
    return float(torch.linalg.svdvals(x.T @ y).clamp(max=1).mean())


def rsa_form(x: Tensor) -> Tensor:
    """``(n (n − 1) / 2,)`` ranks of the distances 1 − correlation of all pairs of items, centred, of norm 1."""
    rows = x - x.mean(1, keepdim=True)
    rows = rows / rows.norm(dim=1, keepdim=True)
    upper = torch.triu_indices(len(x), len(x), offset=1)
    distances = (1 - rows @ rows.T)[upper[0], upper[1]]
    ranks = torch.from_numpy(stats.rankdata(distances.numpy()))
    ranks = ranks - ranks.mean()
    return (ranks / ranks.norm()).float()


def rsa(x: Tensor, y: Tensor) -> float:
    """Representational similarity: Spearman's correlation of two sets of distances (Kriegeskorte et al. 2008), from ``rsa_form``.

    Not unchanged by a rotation that moves the mean over a vector's numbers, which the correlation of two items takes away.
    """
    return float((x.double() @ y.double()).clamp(-1, 1))


def neighbours_form(x: Tensor, k: int = 10) -> Tensor:
    """``(n, k)`` the k nearest other items of each, by cosine."""
    rows = x / x.norm(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    near = rows @ rows.T
    near.fill_diagonal_(-torch.inf)
    return near.topk(min(k, len(x) - 1), dim=1).indices


def mutual_neighbours(x: Tensor, y: Tensor) -> float:
    """Share of the k nearest neighbours of an item that two representations agree on, mean over items (Huh et al. 2024), from
    ``neighbours_form``. About k / n for unrelated ones."""
    return float((x[:, :, None] == y[:, None, :]).any(2).double().mean())
