from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import procrustes as scipy_procrustes
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group, spearmanr
from sklearn.cross_decomposition import CCA
from sklearn.metrics.pairwise import rbf_kernel as sklearn_rbf
from sklearn.neighbors import NearestNeighbors

from layerwise.measures.similarity import (
    MinibatchCKA,
    cka,
    linear_kernel,
    median_distance,
    mutual_neighbours,
    neighbours_form,
    procrustes,
    procrustes_form,
    rbf_kernel,
    rsa,
    rsa_form,
    squared_distances,
    svcca,
    svcca_form,
    unbiased_centred,
)

FORMS = {
    "svcca": (svcca_form, svcca),
    "procrustes": (procrustes_form, procrustes),
    "rsa": (rsa_form, rsa),
    "mutual_knn": (neighbours_form, mutual_neighbours),
}


@pytest.fixture(scope="module")
def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    """(200, 12) and (200, 9), the second partly a function of the first; with a large common offset as residuals have it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 12)) * np.geomspace(5, 0.2, 12)
    y = np.tanh(x @ rng.normal(size=(12, 9)) / 4) + 0.5 * rng.normal(size=(200, 9))
    return torch.from_numpy(x + 40), torch.from_numpy(y)


def rotated(x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return x @ torch.from_numpy(ortho_group.rvs(x.shape[1], random_state=seed))


def measure(name: str, x: torch.Tensor, y: torch.Tensor) -> float:
    form, compare = FORMS[name]
    return compare(form(x), form(y))


def rbf_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    return cka(x, y, lambda v: rbf_kernel(v, median_distance(v)), lambda v: rbf_kernel(v, median_distance(v)))


@pytest.mark.parametrize("compare", [cka, rbf_cka])
def test_cka_is_one_under_rotation_scale_and_shift(compare, vectors) -> None:
    x, y = vectors
    assert compare(x, x) == pytest.approx(1, abs=1e-12)
    assert compare(x, 3.5 * rotated(x) - 7) == pytest.approx(1, abs=1e-6)
    assert compare(rotated(x), y) == pytest.approx(compare(x, y), abs=1e-6)
    assert compare(x, y) == pytest.approx(compare(y, x))
    assert compare(x, y) < 0.95


def hsic(gram_x: torch.Tensor, gram_y: torch.Tensor) -> float:
    """The unbiased estimate that CKA is made of (Song et al. 2012)."""
    n = len(gram_x)
    return float((unbiased_centred(gram_x) * unbiased_centred(gram_y)).sum() / (n * (n - 3)))


def test_hsic_is_the_direct_unbiased_sum() -> None:
    """Song et al. 2012, equation 4, written out."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 2))
    k, one = x @ x.T, np.ones(12)
    gram = y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(gram, 0)
    n = 12
    direct = (
        np.trace(k @ gram)
        + one @ k @ one * (one @ gram @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * one @ k @ gram @ one
    )
    found = hsic(linear_kernel(torch.from_numpy(x)), linear_kernel(torch.from_numpy(y)))
    assert found == pytest.approx(direct / (n * (n - 3)))


def test_unbiased_means_that_unrelated_vectors_are_at_zero() -> None:
    """The usual, biased estimate is about .5 here: 60 items of 60 numbers each."""
    generator = torch.Generator().manual_seed(0)
    drawn = [cka(*torch.randn(2, 60, 60, dtype=torch.float64, generator=generator)) for _ in range(50)]
    assert abs(np.mean(drawn)) < 0.02


def test_minibatches_are_right_on_average(vectors) -> None:
    """Over random deals of 200 items to minibatches of 20, the mean HSIC is that of all items at once, within three standard errors."""
    x, y = vectors
    whole = hsic(linear_kernel(x), linear_kernel(y))
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(150):
        parts = torch.randperm(200, generator=generator).split(20)
        drawn.append(np.mean([hsic(linear_kernel(x[part]), linear_kernel(y[part])) for part in parts]))
    assert abs(np.mean(drawn) - whole) < 3 * np.std(drawn) / 150**0.5
    assert np.std(drawn) / 150**0.5 < 0.02 * whole  # so that being near means something


@pytest.mark.parametrize("size", [32, 200])
def test_minibatches_add_up_to_the_whole(size) -> None:
    """1,600 items dealt to minibatches at random: CKA of every pair as all at once gives it, within its sampling error."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1600, 8, dtype=torch.float64, generator=generator) * torch.linspace(2, 0.3, 8)
    layers_a = [x, torch.tanh(x)]
    layers_b = [x @ torch.randn(8, 5, dtype=torch.float64, generator=generator), x[:, :3] ** 2, x[:, :2]]
    whole = np.array([[cka(a, b) for b in layers_b] for a in layers_a])
    meter = MinibatchCKA(2, 3)
    for part in torch.randperm(1600, generator=generator).split(size):
        meter.add([linear_kernel(a[part]) for a in layers_a], [linear_kernel(b[part]) for b in layers_b])
    np.testing.assert_allclose(meter.value(), whole, atol=0.03)


def test_one_minibatch_of_everything_is_the_whole_and_a_constant_layer_has_none(vectors) -> None:
    x, y = vectors
    meter = MinibatchCKA(2, 1)
    meter.add([linear_kernel(x), torch.ones(200, 200, dtype=torch.float64)], [linear_kernel(y)])
    assert meter.value()[0, 0] == pytest.approx(cka(x, y))
    assert np.isnan(meter.value()[1, 0])


def test_kernels_are_those_of_scikit_learn(vectors) -> None:
    x, _ = vectors
    np.testing.assert_allclose(squared_distances(x)[0], ((x - x[0]) ** 2).sum(1), atol=1e-9)
    np.testing.assert_allclose(rbf_kernel(x, 3.0), sklearn_rbf(x, gamma=1 / 18), atol=1e-12)
    assert median_distance(x) == pytest.approx(np.median(pdist(x.numpy())), rel=1e-3)


@pytest.mark.parametrize("name", FORMS)
def test_measures_of_a_sample_are_one_for_the_same_and_less_for_others(name, vectors) -> None:
    x, y = vectors
    assert measure(name, x, x) == pytest.approx(1, abs=1e-6)
    assert measure(name, x, 2.5 * x) == pytest.approx(1, abs=1e-6)
    assert measure(name, x, y) < 0.95
    assert measure(name, x, y) == pytest.approx(measure(name, y, x), abs=1e-9)


@pytest.mark.parametrize("name", ["svcca", "procrustes", "mutual_knn"])
def test_a_rotation_changes_nothing(name, vectors) -> None:
    x, y = vectors
    assert measure(name, x, rotated(x)) == pytest.approx(1, abs=1e-6)
    assert measure(name, rotated(x), y) == pytest.approx(measure(name, x, y), abs=1e-6)


def test_procrustes_is_that_of_scipy(vectors) -> None:
    """SciPy's disparity is 1 less the square of ours."""
    x, y = vectors[0].numpy(), vectors[1].numpy()
    y = np.hstack([y, np.zeros((200, 3))])
    assert 1 - measure("procrustes", *vectors) ** 2 == pytest.approx(scipy_procrustes(x, y)[2], abs=1e-9)


def test_svcca_with_all_variance_is_cca(vectors) -> None:
    x, y = vectors
    theirs = CCA(n_components=9, max_iter=5000, tol=1e-10).fit(x.numpy(), y.numpy())
    pairs = zip(*(part.T for part in theirs.transform(x.numpy(), y.numpy())), strict=True)
    correlations = [np.corrcoef(one, other)[0, 1] for one, other in pairs]
    assert svcca(svcca_form(x, 1.0), svcca_form(y, 1.0)) == pytest.approx(np.mean(correlations), abs=1e-3)
    assert svcca_form(x, 0.5).shape[1] < svcca_form(x, 0.99).shape[1] <= 12


def test_rsa_is_spearman_of_correlation_distances(vectors) -> None:
    x, y = vectors
    theirs = spearmanr(pdist(x.numpy(), "correlation"), pdist(y.numpy(), "correlation")).statistic
    assert measure("rsa", x, y) == pytest.approx(theirs, abs=1e-6)


def test_neighbours_are_those_of_scikit_learn(vectors) -> None:
    x, y = vectors

    def theirs(v: torch.Tensor) -> np.ndarray:
        return NearestNeighbors(n_neighbors=11, metric="cosine").fit(v.numpy()).kneighbors(v.numpy())[1][:, 1:]

    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(theirs(x), theirs(y), strict=True)])
    assert measure("mutual_knn", x, y) == pytest.approx(shared)
