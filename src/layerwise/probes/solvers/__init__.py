"""Fast solvers of the linear probes: arrays in, arrays out, many sites, training sets, penalties and label vectors at once.

Every solver takes features ``X`` of shape (n, d) or (sites, n, d) and ``training``, a (sets, n) boolean array saying which
rows each fit may see; it returns ``LinearFits``, hyperplanes in the features' own space. Standardisation is that of each
training set alone, as in ``make_pipeline(StandardScaler(), …)``, so that no held-out row has any influence.
"""

from layerwise.probes.solvers.discriminants import lda_fits, mass_mean_fits, nearest_centroid_fits
from layerwise.probes.solvers.linear_fits import LinearFits, out_of_fold, training_sets
from layerwise.probes.solvers.logistic import logistic_fits, logistic_path
from layerwise.probes.solvers.ridge import ridge_fits, ridge_leave_one_out, ridge_path

__all__ = [
    "LinearFits",
    "lda_fits",
    "logistic_fits",
    "logistic_path",
    "mass_mean_fits",
    "nearest_centroid_fits",
    "out_of_fold",
    "ridge_fits",
    "ridge_leave_one_out",
    "ridge_path",
    "training_sets",
]
