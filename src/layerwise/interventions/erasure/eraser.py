"""Erasers: affine maps fitted to activations and labels, after which the labels cannot be read off linearly.

All leave the mean of the activations where it is, and differ in what they take out and along which directions:

leace            what covaries with the labels and nothing else, with the least change there can be (Belrose et al. 2023)
inlp             one direction after another that a linear classifier finds, until none is found (Ravfogel et al. 2020)
mean_projection  the span of the differences of the class means, orthogonally (Haghighatkhah et al. 2022)
random           as many random directions as classes less one, orthogonally: the control
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch import Tensor

from layerwise.errors import UserError, unknown

SMALLEST_CORRELATION = (
    1e-2  # canonical correlations below it are noise, and taking them out would cost more than it erases
)


@dataclass(frozen=True, eq=False)
class Eraser:
    """``x ↦ x − left · right · (x − mean)``; ``right · left`` is the identity, so erasing twice is erasing once.

    left: (width, rank), the directions along which x moves. right: (rank, width), what is read to know how far. mean: (width,).
    All are float64.
    """

    left: Tensor
    right: Tensor
    mean: Tensor

    @property
    def rank(self) -> int:
        """How many directions are erased."""
        return self.left.shape[1]

    def __call__(self, values: Tensor) -> Tensor:
        """Activations (…, width) without the concept, in their own dtype."""
        left, right, mean = (part.to(values) for part in (self.left, self.right, self.mean))
        return values - ((values - mean) @ right.T) @ left.T

    def matrix(self) -> Tensor:
        """(width, width) P of ``x ↦ P (x − mean) + mean``."""
        return torch.eye(len(self.mean), dtype=self.left.dtype) - self.left @ self.right


def leace(values: Tensor, labels: Tensor, *, shrink: bool = True) -> Eraser:
    """Least-squares concept erasure in closed form (Belrose et al. 2023, theorem 4.3).

    ``P = I − W⁺ (W Σ)(W Σ)⁺ W``, W the whitening matrix Σxx^(−1/2) and Σ the cross-covariance of values and labels: afterwards no
    linear function of the values covaries with the labels, and of all affine maps of which that holds this one moves the values least in
    every norm.

    Args:
        values: (n, width). labels: (n,) class ids or targets, or (n, k) targets.
        shrink: shrink the covariance as Ledoit & Wolf (2004) do; with fewer texts than several times the width it is poorly known. What
            is erased is erased exactly either way, and the change is then least in the shrunken covariance's measure.
    """
    x, z, mean = _centred(values, labels)
    covariance = torch.from_numpy(ledoit_wolf(x.numpy(), assume_centered=True)[0]) if shrink else x.T @ x / len(x)
    variances, axes = torch.linalg.eigh(covariance)
    there = variances > variances[-1] * len(variances) * torch.finfo(variances.dtype).eps
    variances, axes = variances[there], axes[:, there]
    # Labels scaled to variance 1 make singular values correlations.
    cross = axes.T @ (x.T @ z) / len(x) / variances.sqrt()[:, None]
    directions, strengths, _ = torch.linalg.svd(cross, full_matrices=False)
    directions = directions[:, strengths > max(SMALLEST_CORRELATION * float(strengths.max()), 1e-12)]
    left = axes @ (variances.sqrt()[:, None] * directions)
    right = (directions / variances.sqrt()[:, None]).T @ axes.T
    return Eraser(left, right, mean)


def mean_projection(values: Tensor, labels: Tensor) -> Eraser:
    """The span of the cross-covariance taken out orthogonally: of classes, that of the differences of their means.

    labels: as for :func:`leace`; no linear function of the values covaries with them afterwards.
    """
    x, z, mean = _centred(values, labels)
    directions, lengths, _ = torch.linalg.svd(x.T @ z, full_matrices=False)
    return _orthogonal(directions[:, lengths > lengths.max() * 1e-9], mean)


def inlp(values: Tensor, labels: Tensor, *, rounds: int = 20, seed: int = 0) -> Eraser:
    """Iterative null-space projection: a logistic classifier's directions are taken out, again and again (Ravfogel et al. 2020).

    It ends after ``rounds`` classifiers, or with the first that is no better than the largest class, by a standard error, on a fifth of
    the texts that it did not see.

    labels: (n,) class ids. Raises UserError for anything else.
    """
    if labels.dim() != 1 or labels.is_floating_point():
        raise UserError("inlp erases classes: give class ids, or use leace for targets.")
    x, _, mean = _centred(values, labels)
    x = x / x.square().mean().sqrt()  # one penalty serves activations of any size
    seen, held = train_test_split(np.arange(len(x)), test_size=0.2, random_state=seed, stratify=labels.numpy())
    y, found = labels.numpy(), torch.zeros(x.shape[1], 0, dtype=x.dtype)
    chance = np.bincount(y[held]).max() / len(held)
    for _ in range(rounds):
        left = (x - (x @ found) @ found.T).numpy()
        classifier = LogisticRegression(C=0.1, tol=1e-3, max_iter=200, random_state=seed).fit(left[seen], y[seen])
        score = classifier.score(left[held], y[held])
        if found.shape[1] and score <= chance + np.sqrt(chance * (1 - chance) / len(held)):
            break
        new = torch.from_numpy(classifier.coef_).T
        new = new - found @ (found.T @ new)
        directions, lengths, _ = torch.linalg.svd(new, full_matrices=False)
        found = torch.cat([found, directions[:, lengths > lengths.max() * 1e-6]], 1)
    return _orthogonal(found, mean)


def random_projection(values: Tensor, rank: int, *, seed: int = 0) -> Eraser:
    """``rank`` random directions taken out orthogonally: what erasing so many directions does by itself."""
    draw = torch.randn(values.shape[1], rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return _orthogonal(draw, values.double().mean(0))


def fit_eraser(method: str, values: Tensor, labels: Tensor, *, rounds: int = 20, seed: int = 0) -> Eraser:
    """An eraser by the method's name: leace, inlp, mean_projection, or random (of as many directions as mean_projection's)."""
    methods: dict[str, Callable[[], Eraser]] = {
        "leace": lambda: leace(values, labels),
        "inlp": lambda: inlp(values, labels, rounds=rounds, seed=seed),
        "mean_projection": lambda: mean_projection(values, labels),
        "random": lambda: random_projection(values, mean_projection(values, labels).rank, seed=seed),
    }
    if method not in methods:
        raise unknown("eraser", method, methods)
    return methods[method]()


def _centred(values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values (n, width) and labels (n, k) about their means, float64, each label of variance 1; and the values' mean."""
    if values.dim() != 2 or len(values) != len(labels) or len(values) < 2:
        raise UserError(f"an eraser is fitted to (texts, width) and as many labels, got {tuple(values.shape)}.")
    x = values.detach().double().cpu()
    classes = labels.dim() == 1 and not labels.is_floating_point()
    z = torch.nn.functional.one_hot(labels).double() if classes else labels.double().reshape(len(labels), -1)
    z = z - z.mean(0)
    spread = z.square().mean(0).sqrt()
    if not bool((spread > 0).any()):
        raise UserError("all labels are the same, so there is nothing to erase.")
    mean = x.mean(0)
    return x - mean, z[:, spread > 0] / spread[spread > 0], mean


def _orthogonal(directions: Tensor, mean: Tensor) -> Eraser:
    """The span of directions (width, rank) taken out orthogonally."""
    basis, _ = torch.linalg.qr(directions)
    return Eraser(basis, basis.T, mean)
