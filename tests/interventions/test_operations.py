"""The contract of operations, run over every kind; and what each of them computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.operations.base import Operation, Row
from layerwise.interventions.operations.build import build
from layerwise.interventions.settings import (
    KINDS,
    PCA,
    SAE,
    Add,
    Boundless,
    Clamp,
    Collect,
    Constant,
    Custom,
    Erase,
    Interchange,
    LoRA,
    LowRankRotation,
    Mask,
    Mean,
    Noise,
    ProjectOut,
    ReFT,
    Resample,
    Rotation,
    Scale,
    Skip,
    Subtract,
    Zero,
)

WIDTH, ROWS = 6, 5
SWAPS = (
    "interchange",
    "resample",
    "pca",
    "rotation",
    "low_rank_rotation",
    "boundless",
    "mask",
    "rotated_mask",
    "sae",
    "topk",
)
LEARNED = ("rotation", "low_rank_rotation", "boundless", "mask", "rotated_mask", "lora", "reft", "own_module")


def double(base: Tensor) -> Tensor:
    base *= 2  # its own copy
    return base


class Shift(torch.nn.Module):
    """An operation of a person's own, with a parameter."""

    def __init__(self, width: int, start: float = 0.0) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.full((width,), start))

    def forward(self, base: Tensor, source: Tensor, *, input: Tensor) -> Tensor:
        return base + self.shift * source + 0 * input


def autoencoder_file(folder: Path) -> str:
    generator = torch.Generator().manual_seed(3)
    weights = {"W_enc": (WIDTH, 9), "W_dec": (9, WIDTH), "b_enc": (9,), "b_dec": (WIDTH,)}
    file = folder / "sae.safetensors"
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in weights.items()}
    save_file({**tensors, "threshold": torch.full((9,), 0.5)}, file)
    return str(file)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of every kind, and what is given with them."""
    sae = autoencoder_file(tmp_path_factory.mktemp("sae"))
    vector = torch.arange(1.0, WIDTH + 1)
    return {
        "zero": (Zero(), None), "mean": (Mean(vector="given"), vector), "fitted_mean": (Mean(), None), "resample": (Resample(), None),
        "constant": (Constant(value=2.5), None), "noise": (Noise(scale=0.3), None), "uniform": (Noise(distribution="uniform"), None),
        "add": (Add(strength=3.0, vector="given"), vector), "add_source": (Add(), None), "subtract": (Subtract(strength=2.0), None),
        "scale": (Scale(factor=0.5), None), "scale_along": (Scale(factor=3.0, vector="given"), vector.numpy()),
        "project_out": (ProjectOut(), torch.stack([vector, vector * 2, torch.ones(WIDTH)])), "clamp": (Clamp(low=-1, high=1), vector),
        "erase": (Erase(), torch.stack([vector / vector.dot(vector), vector, torch.ones(WIDTH)])),
        "interchange": (Interchange(), None), "skip": (Skip(), None), "collect": (Collect(), None), "pca": (PCA(components=WIDTH), None),
        "rotation": (Rotation(), None), "low_rank_rotation": (LowRankRotation(rank=2), None), "boundless": (Boundless(temperature=1.0), None),
        "mask": (Mask(), None), "rotated_mask": (Mask(rotated=True, start=1.0), None), "sae": (SAE(file=sae), None),
        "jumprelu": (SAE(file=sae, activation="jumprelu", keep_error=False, center=True), None),
        "topk": (SAE(file=sae, activation="topk", k=3), None), "set_latents": (SAE(file=sae, value=2.0), None),
        "lora": (LoRA(rank=2), None), "reft": (ReFT(rank=2), None), "own": (Custom(), double),
        "own_module": (Custom(path=f"{__file__}:Shift", params={"start": 0.5}, source=True, input=True), None),
    }  # fmt: skip


CASES = [
    "zero", "mean", "fitted_mean", "resample", "constant", "noise", "uniform", "add", "add_source", "subtract", "scale", "scale_along",
    "project_out", "clamp", "erase", "interchange", "skip", "collect", "pca", "rotation", "low_rank_rotation", "boundless", "mask",
    "rotated_mask", "sae", "jumprelu", "topk", "set_latents", "lora", "reft", "own", "own_module",
]  # fmt: skip


def fresh(made: dict[str, Any], case: str) -> Operation:
    settings, given = made[case]
    operation = build(settings, WIDTH, inputs=WIDTH, given=given)
    if operation.fits:
        operation.fit(torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(5)))
    return operation


def rows(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


def beside(source: Tensor, chosen: Tensor | None = None) -> Row:
    return Row(torch.arange(ROWS), torch.arange(ROWS) % 2, source, rows(9), chosen)


def test_every_kind_is_under_the_contract(made: dict[str, Any]) -> None:
    assert {settings.kind for settings, _ in made.values()} == set(KINDS)
    assert set(made) == set(CASES)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_shape_and_number_format_stay_and_the_base_is_not_changed(
    made: dict[str, Any], case: str, dtype: torch.dtype
) -> None:
    base, operation = rows(1, dtype), fresh(made, case)
    before = base.clone()
    new = operation(base, beside(rows(2, dtype)))
    assert new.shape == base.shape
    assert new.dtype == dtype
    assert torch.equal(base, before)
    assert new.isfinite().all()


@pytest.mark.parametrize("case", CASES)
def test_it_changes_what_it_should_and_nothing_that_is_not_chosen(made: dict[str, Any], case: str) -> None:
    operation, base = fresh(made, case), rows(1)
    if case == "lora":  # both adaptors leave the model as it is until they are trained
        torch.nn.init.normal_(operation.B, generator=torch.Generator().manual_seed(0))
    if case == "reft":
        torch.nn.init.ones_(operation.learned.bias)
    changed = operation(base, beside(rows(2)))
    assert torch.equal(changed, base) == (case == "collect")
    if operation.size is not None and case != "jumprelu":  # without the error nothing of an autoencoder is as it was
        none = torch.zeros(ROWS, operation.size, dtype=torch.bool)
        assert torch.equal(operation(base, beside(rows(2), none)), base)
        everything = operation(base, beside(rows(2), ~none))
        torch.testing.assert_close(everything, changed)


@pytest.mark.parametrize("case", CASES)
def test_the_same_call_gives_the_same(made: dict[str, Any], case: str) -> None:
    operation = fresh(made, case)
    assert torch.equal(operation(rows(1), beside(rows(2))), operation(rows(1), beside(rows(2))))


@pytest.mark.parametrize("case", SWAPS)
def test_a_swap_with_itself_changes_nothing(made: dict[str, Any], case: str) -> None:
    base = rows(1)
    assert torch.equal(fresh(made, case)(base, beside(base)), base)


@pytest.mark.parametrize("case", CASES)
def test_gradients_reach_what_is_trained_the_base_and_the_source(made: dict[str, Any], case: str) -> None:
    operation = fresh(made, case)
    base, source = rows(1).requires_grad_(), rows(2).requires_grad_()
    new = operation(base, beside(source))
    if case not in ("zero", "mean", "fitted_mean", "constant", "skip"):
        new.pow(2).sum().backward()
    trained = {name for name, parameter in operation.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in operation.named_parameters()}
    assert bool(trained) == (case in LEARNED)
    if case in SWAPS:
        assert source.grad is not None


@pytest.mark.parametrize("case", [case for case in CASES if case != "own"])
def test_what_is_saved_restores_the_operation(made: dict[str, Any], case: str) -> None:
    operation = fresh(made, case)
    for parameter in operation.parameters():
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)) * 0.1)
    settings, given = made[case]
    again = build(settings, WIDTH, inputs=WIDTH, given=given)
    again.restore(operation.state_dict())
    assert torch.equal(again(rows(1), beside(rows(2))), operation(rows(1), beside(rows(2))))
    with pytest.raises(UserError, match="do not belong"):
        again.restore({"other": torch.zeros(2)})


def test_full_rotations_are_the_interchange(made: dict[str, Any]) -> None:
    base, source = rows(1), rows(2)
    whole = LowRankRotation(rank=WIDTH)
    for operation in (
        fresh(made, "rotation"),
        build(whole, WIDTH),
        fresh(made, "pca"),
        build(Mask(start=100.0), WIDTH),
    ):
        torch.testing.assert_close(operation(base, beside(source)), source)
    standard = build(PCA(components=WIDTH, standardize=True), WIDTH)
    standard.fit(torch.randn(40, WIDTH) * torch.arange(1, WIDTH + 1))
    torch.testing.assert_close(standard(base, beside(source)), source)


def test_principal_components_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA as Reference

    data = np.random.default_rng(0).normal(size=(50, WIDTH)) * np.arange(1, WIDTH + 1)
    operation = build(PCA(components=2), WIDTH)
    operation.fit(torch.tensor(data))
    reference = Reference(2).fit(data)
    base, source = rows(1), rows(2)
    latents = reference.transform(base.numpy())
    swapped = (
        base.numpy()
        - reference.inverse_transform(latents)
        + reference.inverse_transform(reference.transform(source.numpy()))
    )
    np.testing.assert_allclose(operation(base, beside(source)).numpy(), swapped, atol=1e-5)
    with pytest.raises(UserError, match="3 principal components need more than 2 rows"):
        build(PCA(components=3), WIDTH).fit(torch.zeros(2, WIDTH))
    with pytest.raises(UserError, match=r"not known yet"):
        build(PCA(components=2), WIDTH)(base, beside(source))


def test_directions(made: dict[str, Any]) -> None:
    base, vector = rows(1), torch.arange(1.0, WIDTH + 1)
    unit = vector / vector.norm()
    torch.testing.assert_close(fresh(made, "add")(base, beside(base)), base + 3 * vector)
    torch.testing.assert_close(
        build(Add(vector="given", normalize=True), WIDTH, given=vector)(base, beside(base)), base + unit
    )
    torch.testing.assert_close(fresh(made, "subtract")(base, beside(rows(2))), base - 2 * rows(2))
    gone = fresh(made, "project_out")(base, beside(base))
    for direction in (vector, torch.ones(WIDTH)):
        torch.testing.assert_close(gone @ direction, torch.zeros(ROWS), atol=1e-5, rtol=0)
    other = torch.linalg.svd(torch.stack([vector, torch.ones(WIDTH)])).Vh[2:]
    torch.testing.assert_close(gone @ other.T, base @ other.T)
    held = fresh(made, "clamp")(base * 5, beside(base))
    torch.testing.assert_close(held @ unit, (base * 5 @ unit).clamp(-1, 1))
    torch.testing.assert_close(
        build(Clamp(low=2, high=2), WIDTH, given=vector)(base, beside(base)) @ unit, torch.full((ROWS,), 2.0)
    )
    along = fresh(made, "scale_along")(base, beside(base))
    torch.testing.assert_close(along, base + 2 * (base @ unit)[:, None] * unit)


def test_noise_is_of_its_scale_and_a_matter_of_seed_text_and_column_alone() -> None:
    for distribution in ("normal", "uniform"):
        operation = build(Noise(scale=0.3, seed=1, distribution=distribution), 4000)
        zeros = torch.zeros(3, 4000)
        noise = operation(zeros, Row(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])))
        assert abs(noise.std() - 0.3) < 0.01
        assert not torch.equal(noise[0], noise[1])
        assert not torch.equal(noise[0], noise[2])
        alone = operation(zeros[:1], Row(torch.tensor([1]), torch.tensor([0])))
        assert torch.equal(alone[0], noise[2])
        other = build(Noise(scale=0.3, seed=2, distribution=distribution), 4000)
        assert not torch.equal(other(zeros[:1], Row(torch.tensor([1]), torch.tensor([0]))), alone)


def test_resample_gives_each_example_another_ones() -> None:
    donors = build(Resample(seed=3), WIDTH).donors(7)
    assert sorted(donors.tolist()) == list(range(7))
    assert (donors != torch.arange(7)).all()
    with pytest.raises(UserError, match="at least two examples"):
        build(Resample(), WIDTH).donors(1)


def test_boundaries_and_masks_sharpen_and_are_small_when_asked(made: dict[str, Any]) -> None:
    """The share of number i of d: σ(i / T) · σ((b·d − i) / T) (Wu et al. 2023, as pyvene has it)."""
    operation = build(Boundless(boundary=0.5, temperature=0.01), WIDTH)
    torch.testing.assert_close(operation.share(), torch.tensor([0.5, 1, 1, 0.5, 0, 0]))
    assert float(operation.penalty().detach()) == 0.5
    with torch.no_grad():
        operation.boundary.fill_(7.0)
    assert float(operation.penalty().detach()) == 1.0
    assert float(build(Mask(start=-50.0), WIDTH).penalty().detach()) < 1e-6
    with torch.no_grad():
        index = torch.arange(WIDTH)
        soft = build(Boundless(temperature=50.0), WIDTH).share()
        torch.testing.assert_close(soft, torch.sigmoid(index / 50) * torch.sigmoid((3 - index) / 50))


def test_latents(made: dict[str, Any], tmp_path: Path) -> None:
    base, source = rows(1), rows(2)
    sae = fresh(made, "jumprelu")
    before = (base - sae.b_dec) @ sae.W_enc + sae.b_enc
    latents = sae.encode(base)
    assert torch.equal(latents, torch.where(before > 0.5, before, 0))
    torch.testing.assert_close(sae(base, beside(source)), sae.decode(sae.encode(source)))
    topk = fresh(made, "topk")
    assert ((topk.encode(base) > 0).sum(1) <= 3).all()
    setting = fresh(made, "set_latents")
    one = torch.zeros(ROWS, 9, dtype=torch.bool)
    one[:, 4] = True
    torch.testing.assert_close(
        setting(base, beside(source, one)), base + (2 - setting.encode(base)[:, 4:5]) * setting.W_dec[4]
    )
    file = made["sae"][0].file
    for bad, message in (
        (dict(width=7), "is for a width of 6, and the site has 7"),  # noqa: C408
        (dict(width=6, settings=SAE(file=file, activation="topk", k=10)), "cannot keep 10 of 9"),  # noqa: C408
        (dict(width=6, settings=SAE(file="none.safetensors")), "no file"),  # noqa: C408
        (dict(width=6, settings=SAE(file="weights.pt")), "files only, got"),  # noqa: C408
    ):
        with pytest.raises(UserError, match=message):
            build(bad.get("settings", SAE(file=file)), bad["width"])
    save_file({"W_enc": torch.zeros(2, 3)}, tmp_path / "part.safetensors")
    with pytest.raises(UserError, match=r"no tensor 'W_dec'"):
        build(SAE(file=str(tmp_path / "part.safetensors")), 2)


def test_adaptors_begin_as_nothing_and_compute_their_formula(made: dict[str, Any]) -> None:
    base = rows(1)
    lora, reft = fresh(made, "lora"), fresh(made, "reft")
    assert torch.equal(lora(base, beside(base)), base)
    torch.testing.assert_close(reft(base, beside(base)), base)
    with torch.no_grad():
        lora.B.add_(1.0)
        reft.learned.weight.add_(1.0)
    torch.testing.assert_close(lora(base, beside(base)), base + 4.0 * (rows(9) @ lora.A.T) @ lora.B.T)
    directions = reft.basis.weight
    torch.testing.assert_close(directions.T @ directions, torch.eye(2), atol=1e-5, rtol=0)
    expected = base + (reft.learned(base) - base @ directions) @ directions.T
    torch.testing.assert_close(reft(base, beside(base)), expected)


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        (Add(vector="given"), None, "needs a vector"),
        (ProjectOut(), torch.zeros(WIDTH), "length 0 points nowhere"),
        (Clamp(), torch.ones(2, WIDTH), "takes one vector"),
        (Add(vector="given"), torch.ones(4), "has 4 numbers, and its site has 6"),
        (Add(vector="missing.safetensors"), None, "no file missing.safetensors"),
        (LowRankRotation(rank=7), None, "no rotation of rank 7"),
        (ReFT(rank=7), None, "no directions of rank 7"),
        (PCA(components=7), None, "at most 6 principal components"),
        (Custom(), None, "needs a path, or a function given"),
        (Custom(path="layerwise.nothing"), None, r"no function or class 'nothing'"),
        (Custom(path="nowhere.py:f"), None, "no Python file"),
        (Custom(path="nomodule.f"), None, "cannot import 'nomodule'"),
    ],
)
def test_what_does_not_fit_is_said(settings: Any, given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(settings, WIDTH, given=given)


def test_own_functions() -> None:
    base = rows(1)
    assert torch.equal(build(Custom(), WIDTH, given=lambda base: None)(base, beside(base)), base)
    with pytest.raises(UserError, match=r"must give rows of the shape \(5, 6\) or None, but gave \(5, 1\)"):
        build(Custom(), WIDTH, given=lambda base: base[:, :1])(base, beside(base))
    with pytest.raises(UserError, match=r"would run the code os\.getcwd"):
        build(Custom(path="os.getcwd"), WIDTH, trust_code=False)
    with pytest.raises(UserError, match="cannot make"):
        build(Custom(path=f"{__file__}:Shift", params={"no": 1}), WIDTH)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Noise(scale=-1), "scale of noise must be 0 or more"),
        (lambda: Clamp(low=2, high=1), "low at most high"),
        (lambda: LowRankRotation(rank=0), "rank must be above 0"),
        (lambda: Boundless(boundary=1.5), "boundary is a share"),
        (lambda: SAE(), "sae needs a file"),
    ],
)
def test_settings_that_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
