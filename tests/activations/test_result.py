"""Activations as a person handles them: their own arrays, files, wrong names; and several layers as one."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from layerwise.activations.layers import combine
from layerwise.activations.result import Activations
from layerwise.errors import UserError

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
Y = X[:, :3] * 2


def test_arrays_of_ones_own() -> None:
    mine = Activations.from_arrays({"layer 3": X, ("resid_post.5", "mean"): Y.astype(np.float64)})
    assert len(mine) == 6
    assert mine.keys == [("layer 3", "given"), ("resid_post.5", "mean")]
    assert mine.report is None
    np.testing.assert_array_equal(mine.matrix("layer 3"), X)
    np.testing.assert_array_equal(mine.matrix("resid_post.5", "mean"), Y)


def test_what_is_handed_out_and_taken_in_is_a_copy() -> None:
    given = X.copy()
    mine = Activations.from_arrays({"a": given})
    given[:] = 0
    mine.matrix("a")[:] = 1
    np.testing.assert_array_equal(mine.matrix("a"), X)


def test_saved_and_read_again(tmp_path) -> None:
    mine = Activations.from_arrays({("resid_post.0", "mean"): X, ("resid_post.0", "last"): Y})
    again = Activations.from_file(mine.save(tmp_path / "mine.safetensors"))
    assert set(again.keys) == set(mine.keys)
    np.testing.assert_array_equal(again.matrix("resid_post.0", "last"), Y)


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors"])
def test_files_of_arrays(tmp_path, kind) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "npy":
        np.save(path, X)
    elif kind == "npz":
        np.savez(path, a=X)
    else:
        save_file({"a": X.astype(np.float16)}, path)
    got = Activations.from_file(path).matrix("a")
    np.testing.assert_array_equal(got, X.astype(np.float16) if kind == "safetensors" else X)


def test_nothing_pickled_is_read(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(UserError, match=r"cannot read .*a\.npy as activations"):
        Activations.from_file(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "no arrays were given"),
        ({"a": X[0]}, "shape (texts, width), got float32 of shape (4,)"),
        ({"a": X[:0]}, "got float32 of shape (0, 4)"),
        ({"a": X.astype(str)}, "must be numbers"),
        ({"a": X, "b": Y[:5]}, "'b' have 5 rows, the ones before 6"),
        ({"a": np.where(np.arange(6)[:, None] == 3, np.nan, X)}, "NaN or infinity, first in row 3"),
    ],
)
def test_arrays_that_do_not_fit_are_explained(arrays, message) -> None:
    with pytest.raises(UserError) as error:
        Activations.from_arrays(arrays)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"1,2", "come as .npy, .npz or .safetensors"),
        ("a.npy", b"junk", "cannot read"),
        ("a.safetensors", b"junk", "cannot read"),
        ("a.npz", b"junk", "cannot read"),
        ("missing.npy", None, "there is no file"),
    ],
)
def test_files_that_cannot_be_read_are_explained(tmp_path, name, content, message) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        Activations.from_file(tmp_path / name)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda a: a.matrix("resid_post.1"), "no activations of 'resid_post.1' were collected. Did you mean 'resid_post.0'?"),
        (lambda a: a.matrix("resid_post.0"), "under several poolers, name one of them: mean, last"),
        (lambda a: a.matrix("resid_post.0", "max"), "not collected under the pooler 'max'. It was under: mean, last."),
        (lambda a: a.matrix("resid_post.0", "men"), "unknown pooler 'men'. Did you mean 'mean'?"),
        (lambda a: a.tokens("resid_post.0", "mean"), "not token by token: use matrix('resid_post.0', 'mean')"),
    ],
)  # fmt: skip
def test_a_key_that_is_not_there_is_explained(ask, message) -> None:
    mine = Activations.from_arrays({("resid_post.0", "mean"): X, ("resid_post.0", "last"): X})
    with pytest.raises(UserError) as error:
        ask(mine)
    assert message in str(error.value)


@pytest.mark.parametrize(("how", "reference"), [("mean", np.mean), ("max", np.max), ("min", np.min)])
def test_layers_are_combined_element_by_element(how, reference) -> None:
    layers = [X, X**2, -X]
    np.testing.assert_array_equal(combine(layers, how), reference(np.stack(layers), axis=0))


def test_layers_side_by_side_may_differ_in_width() -> None:
    np.testing.assert_array_equal(combine([Y, X], "concat"), np.hstack([Y, X]))


@pytest.mark.parametrize(
    ("combination", "message"),
    [
        (lambda: combine([X], "median"), "unknown way to combine layers 'median'"),
        (lambda: combine([], "mean"), "no layers to combine"),
        (lambda: combine([], "concat"), "no layers to combine"),
        (lambda: combine([X, Y], "max"), "layers of widths [3, 4] cannot be combined by max; concat takes any widths."),
    ],
)
def test_layers_that_do_not_fit_are_explained(combination, message) -> None:
    with pytest.raises(UserError) as error:
        combination()
    assert message in str(error.value)
