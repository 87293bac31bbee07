"""Contrast-consistent search: what is true, found without labels, from statements beside their negations.

Burns, Ye, Klein & Steinhardt 2022, "Discovering Latent Knowledge in Language Models Without Supervision".
"""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from layerwise.errors import UserError, unknown
from layerwise.probes.threads import threads_for
from layerwise.probes.torch_rows import check_finite, moments

Floats = NDArray[np.float64]


class CCSProbe(ClassifierMixin, BaseEstimator):
    """A direction along which a statement and its negation get opposite and decided answers.

    Each side of the pairs is standardised on its own, so that the wording of the negation itself tells nothing. Then
    ``p(x) = σ(θ·x + b)`` minimises ``(p(x⁺) + p(x⁻) − 1)² + min(p(x⁺), p(x⁻))²`` (consistency and confidence), from ``tries``
    random starts side by side, of which the one with the lowest loss is kept. ``method="tpc"`` takes the top principal
    component of the differences x⁺ − x⁻ instead (CRC-TPC in the paper): no training, no starts.

    The search cannot know which end of its direction is "true". With labels the sign is the one that agrees with more of
    them; they decide nothing else. Without, the sign has no meaning.

    ``X``: (n, 2, width), each pair a statement and its negation, or a pair of (n, width) arrays. ``y``: (n,) 1 or the larger
    of two labels where the statement is true. Fitted, it also reads statements alone, (n, width), as the first of a pair.

    Attributes:
        coef_ (1, width), intercept_ (1,): the direction in the original space of statements; classes_; loss_: the lowest loss;
        losses_ (tries,): that of every start.
    """

    def __init__(
        self,
        tries: int = 10,
        epochs: int = 1000,
        learning_rate: float = 1e-2,
        weight_decay: float = 1e-2,
        method: Literal["ccs", "tpc"] = "ccs",
        random_state: int = 0,
        device: str = "auto",
    ) -> None:
        self.tries, self.epochs, self.learning_rate, self.weight_decay = tries, epochs, learning_rate, weight_decay
        self.method, self.random_state, self.device = method, random_state, device

    def fit(self, X: Any, y: Any = None) -> Self:
        """Find the direction. Raises UserError unless X is contrast pairs and, where given, y two classes."""
        pairs = _pairs(X)
        if pairs is None:
            raise UserError(
                "contrast-consistent search is fitted on pairs of a statement and its negation, (n, 2, width).\n"
                "Use a dataset with contrast pairs, such as cities."
            )
        if self.method not in ("ccs", "tpc"):
            raise unknown("method", str(self.method), ("ccs", "tpc"))
        if len(pairs) < 2:
            raise UserError(f"contrast-consistent search needs at least two pairs, got {len(pairs)}.")
        labels = None if y is None else np.asarray(y)
        if labels is not None and len(labels) != len(pairs):
            raise UserError(f"{len(pairs)} pairs, but {len(labels)} labels.")
        self.classes_ = np.array([0, 1]) if labels is None else np.unique(labels)
        if len(self.classes_) != 2:
            raise UserError(
                f"contrast-consistent search tells two classes apart, the labels have {len(self.classes_)}."
            )
        device = torch.device(
            ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        )
        sides = torch.from_numpy(pairs).to(device).unbind(1)
        scaling = [moments(side) for side in sides]
        first, second = ((side - mean) / scale for side, (mean, scale) in zip(sides, scaling, strict=True))
        with threads_for(self.tries * first.numel(), device):
            direction, bias = (
                self._search(first, second) if self.method == "ccs" else (_top_component(first - second), 0.0)
            )
        # One row per side: w·x + c in the original space of that side's texts.
        self._side_coef = np.stack([direction / _numbers(scale) for _, scale in scaling])
        offsets = [bias - row @ _numbers(mean) for row, (mean, _) in zip(self._side_coef, scaling, strict=True)]
        self._side_intercept = np.array(offsets)
        self.n_features_in_ = pairs.shape[2]
        if labels is not None and np.mean(self.predict(pairs) == labels) < 0.5:
            self._side_coef, self._side_intercept = -self._side_coef, -self._side_intercept
        return self

    def _search(self, first: Tensor, second: Tensor) -> tuple[Floats, float]:
        """(width,) direction and bias of the best start, on standardised sides (n, width)."""
        for name in ("tries", "epochs", "learning_rate"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}.")
        width = first.shape[1]
        generator = torch.Generator().manual_seed(self.random_state)
        start = torch.nn.functional.normalize(torch.randn(self.tries, width, generator=generator), dim=1)
        theta = start.to(first.device).requires_grad_()
        bias = torch.zeros(self.tries, device=first.device, requires_grad=True)
        optimizer = torch.optim.AdamW([theta, bias], lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)
        for _ in range(self.epochs):
            optimizer.zero_grad()
            contrast_loss(first @ theta.T + bias, second @ theta.T + bias).sum().backward()
            optimizer.step()
        with torch.no_grad():
            losses = contrast_loss(first @ theta.T + bias, second @ theta.T + bias)
        if not bool(torch.isfinite(losses).all()):
            raise UserError(f"the loss is not a number any more: lower learning_rate ({self.learning_rate}).")
        best = int(losses.argmin())
        self.losses_, self.loss_ = _numbers(losses), float(losses[best])
        return _numbers(theta[best]), float(bias[best].detach())

    @property
    def coef_(self) -> Floats:
        return self._side_coef[:1]

    @property
    def intercept_(self) -> Floats:
        return self._side_intercept[:1]

    def predict_proba(self, X: Any) -> Floats:
        """(n, 2): of a pair, the mean of p(x⁺) and 1 − p(x⁻); of a statement alone, p(x⁺)."""
        check_is_fitted(self, "n_features_in_")
        pairs = _pairs(X)
        values = np.asarray(X, dtype=np.float32)[:, None] if pairs is None else pairs
        if values.ndim != 3 or values.shape[2] != self.n_features_in_:
            raise UserError(
                f"the probe was fitted on {self.n_features_in_} features a side, got the shape {values.shape}."
            )
        sides = self._side_coef[: values.shape[1]]
        logits = np.einsum("nsw,sw->ns", values.astype(np.float64), sides) + self._side_intercept[: values.shape[1]]
        yes = 1 / (1 + np.exp(-logits.clip(-500, 500)))
        true = yes[:, 0] if pairs is None else (yes[:, 0] + 1 - yes[:, 1]) / 2
        return np.stack([1 - true, true], axis=1)

    def predict(self, X: Any) -> NDArray[Any]:
        """(n,) the larger class where the statement is held to be true."""
        return self.classes_[(self.predict_proba(X)[:, 1] > 0.5).astype(int)]

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What makes up the fitted probe: a description that is plain JSON, and named tensors."""
        check_is_fitted(self, "n_features_in_")
        described = {"params": self.get_params(deep=False), "classes": self.classes_.tolist()}
        tensors = {"coef": torch.from_numpy(self._side_coef), "intercept": torch.from_numpy(self._side_intercept)}
        return described, tensors

    @classmethod
    def from_state(cls, described: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The fitted probe again. Raises UserError where parts of it are missing."""
        try:
            probe = cls(**described["params"])
            probe.classes_ = np.asarray(described["classes"])
            probe._side_coef, probe._side_intercept = tensors["coef"].numpy(), tensors["intercept"].numpy()
            probe.n_features_in_ = probe._side_coef.shape[1]
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(f"the saved {cls.__name__} is damaged: {error}") from error
        return probe


def contrast_loss(first: Tensor, second: Tensor) -> Tensor:
    """Consistency and confidence of (n, tries) logits of both sides, averaged over pairs: (tries,)."""
    yes, no = torch.sigmoid(first), torch.sigmoid(second)
    return ((yes + no - 1) ** 2 + torch.minimum(yes, no) ** 2).mean(0)


def _top_component(differences: Tensor) -> Floats:
    """(width,) the first principal component of (n, width)."""
    centred = differences - differences.mean(0)
    return _numbers(torch.linalg.svd(centred, full_matrices=False).Vh[0])


def _pairs(X: Any) -> NDArray[np.float32] | None:
    """(n, 2, width), or None where X is not pairs. Raises UserError for NaN and infinity."""
    if isinstance(X, tuple) and len(X) == 2:
        sides = [np.asarray(side, dtype=np.float32) for side in X]
        if sides[0].shape != sides[1].shape:
            raise UserError(f"both sides of the pairs need one shape, got {sides[0].shape} and {sides[1].shape}.")
        values = np.stack(sides, axis=1)
    else:
        values = np.asarray(X, dtype=np.float32)
    check_finite(values)
    return values if values.ndim == 3 and values.shape[1] == 2 else None


def _numbers(tensor: Tensor) -> Floats:
    return tensor.detach().double().cpu().numpy()
