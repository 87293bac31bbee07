"""The PCA probe: leading principal components found without labels, which only place the line or the threshold on them."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.utils import Tags

from layerwise.probes.inputs import Floats
from layerwise.probes.linear import Labels, LinearClassifier, LinearRegressor
from layerwise.probes.solvers.discriminants import lda_fits
from layerwise.probes.solvers.linear_fits import LinearFits, Masks
from layerwise.probes.solvers.principal import principal_axes
from layerwise.probes.solvers.training_rows import TrainingRows


class _Principal:
    """What PCA probes for classes and for targets share."""

    def __init__(self, components: int = 1, standardize: bool = True, device: str = "auto") -> None:
        self.components, self.standardize, self.device = components, standardize, device

    def _planes(self, rows: TrainingRows, Y: Labels) -> LinearFits:
        """Planes found on each training set's components (n, components), and turned back into the features' space."""
        axes, centre = principal_axes(rows, rows.masks, self.components, self.standardize)
        coef, intercept = [], []
        for site, values in enumerate(rows.X):
            for which, mask in enumerate(rows.masks):
                projected = (values - centre[site, which]) @ axes[site, which].mT
                weights, offset = self._small(projected.cpu().numpy(), Y, mask)  # (vectors, planes, components)
                turned = torch.as_tensor(weights, device=axes.device) @ axes[site, which]
                coef.append(turned)
                intercept.append(torch.as_tensor(offset, device=axes.device) - turned @ centre[site, which])
        shape = (len(rows.X), len(rows.masks))
        return LinearFits(torch.stack(coef).unflatten(0, shape), torch.stack(intercept).unflatten(0, shape))

    def _small(self, projected: Floats, Y: Labels, mask: Masks) -> tuple[Floats, Floats]:
        raise NotImplementedError


class PCAClassifierProbe(_Principal, LinearClassifier):
    """Linear discriminant analysis on the leading principal components.

    Args:
        components: how many.
        standardize: give features variance 1 before; without it they are centred only.

    Attributes: classes_, coef_, intercept_, n_features_in_.
    """

    def _small(self, projected: Floats, Y: Labels, mask: Masks) -> tuple[Floats, Floats]:
        coef, intercept = lda_fits(projected, Y, mask[None], shrinkage=None).numpy()
        return coef[0, 0], intercept[0, 0]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # components found without labels need not tell classes apart
        return tags


class PCARegressorProbe(_Principal, LinearRegressor):
    """Least squares on the leading principal components; arguments as for classes. Attributes: coef_, intercept_."""

    def _small(self, projected: Floats, Y: Labels, mask: Masks) -> tuple[Floats, Floats]:
        seen, targets = projected[mask], Y[mask]
        mean = targets.mean(0)
        weights = np.linalg.lstsq(seen, targets - mean, rcond=None)[0].T  # components are centred in the set
        return weights[:, None], mean[:, None]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # components found without labels need not predict targets
        return tags
