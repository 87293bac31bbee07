"""Optimizers and schedules: which weights each trains, and that the learning rate goes as it says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from layerwise.errors import UserError
from layerwise.training.config import TrainingConfig
from layerwise.training.model_config import BuiltModel
from layerwise.training.optimization_config import (
    AdamW,
    Constant,
    Cosine,
    Cyclic,
    Linear,
    Muon,
    Plateau,
    WarmupStableDecay,
)
from layerwise.training.optimizers import Together, build_optimizer, muon_weights
from layerwise.training.prepared import PreparedData
from layerwise.training.schedules import build_schedule

from .conftest import small_model


def rates(schedule: Any, steps: int = 20) -> list[float]:
    """The learning rate of each step, of an optimizer whose own is 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    made = build_schedule(schedule, optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return found


def test_schedules_go_as_they_say() -> None:
    assert rates(Constant(warmup_steps=4))[:6] == [0, 0.25, 0.5, 0.75, 1, 1]
    linear = rates(Linear(warmup_steps=4, floor=0.2))
    assert linear[4] == 1
    assert linear[12] == pytest.approx(1 - 0.8 * 8 / 16)
    cosine = rates(Cosine(floor=0.1))
    assert cosine[5] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    stable = rates(WarmupStableDecay(warmup_steps=2, decay_steps=5, floor=0.5, shape="linear"))
    assert stable[2:15] == [1] * 13
    assert stable[15:] == pytest.approx([1, 0.9, 0.8, 0.7, 0.6])
    cyclic = rates(Cyclic(cycle_steps=4, floor=0.2))
    assert cyclic[:5] == pytest.approx([0.2, 0.6, 1.0, 0.6, 0.2])


def test_a_cyclic_schedule_is_torch_s() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CyclicLR(optimizer, base_lr=0.1, max_lr=1.0, step_size_up=5, cycle_momentum=False)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert rates(Cyclic(cycle_steps=10, floor=0.1)) == pytest.approx(expected)


def test_schedules_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"schedule.warmup_steps: 21 of only 20 steps"):
        rates(Cosine(warmup_steps=21))
    with pytest.raises(UserError, match="and decay_steps together: 25 of only 20"):
        rates(WarmupStableDecay(warmup_steps=15, decay_steps=10))
    for make, message in (
        (lambda: Cosine(floor=2), "schedule.floor is a share"),
        (lambda: Cosine(warmup_steps=-1), "schedule.warmup_steps must be at least 0"),
        (lambda: Cyclic(cycle_steps=1), "schedule.cycle_steps must be at least 2"),
        (lambda: Plateau(factor=1.5), "schedule.factor must lie between 0 and 1"),
        (lambda: AdamW(learning_rate=0), "optimizer.learning_rate must be more than 0, got 0"),
        (lambda: AdamW(beta2=1), "optimizer.beta2 must be at least 0 and less than 1"),
        (lambda: Muon(momentum=1), "optimizer.momentum"),
        (lambda: TrainingConfig(steps=0), "training.steps must be more than 0"),
    ):
        with pytest.raises(UserError, match=message):
            make()


@pytest.mark.parametrize(
    "options",
    [
        BuiltModel(n_layers=1, n_heads=2, width=8, position="learned"),
        BuiltModel(n_layers=1, n_heads=2, width=8, tie_word_embeddings=False),
        BuiltModel(n_layers=1, n_heads=2, width=8, experts=2, experts_per_token=1),
    ],
    ids=["tied", "untied", "experts"],
)
def test_muon_takes_matrices_between_embedding_and_head(copying: PreparedData, options: BuiltModel) -> None:
    model = small_model(copying, options)
    muon = muon_weights(model)
    for name, weight in model.named_parameters():
        inside = weight.ndim == 2 and not any(part in name for part in ("embedding", "positions", "lm_head"))
        assert (name in muon) == inside, name
    assert any("attention" in name for name in muon)
    made = build_optimizer(Muon(), model, [])
    assert isinstance(made, Together)
    grouped = [id(weight) for group in made.param_groups for weight in group["params"]]
    assert sorted(grouped) == sorted(id(weight) for weight in model.parameters())


def test_two_optimizers_as_one_do_what_each_does_alone() -> None:
    torch.manual_seed(0)
    start = [torch.randn(6, 4), torch.randn(4)]
    one = [nn.Parameter(value.clone()) for value in start]
    other = [nn.Parameter(value.clone()) for value in start]

    def parts(weights: list[nn.Parameter]) -> list[torch.optim.Optimizer]:
        return [
            torch.optim.Muon([weights[0]], lr=0.1, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW([weights[1]], lr=0.2),
        ]

    together, apart = Together(parts(one)), parts(other)
    schedule = torch.optim.lr_scheduler.LambdaLR(together, lambda step: 1 / (1 + step))
    for step in range(6):
        for mine, theirs in zip(one, other, strict=True):
            mine.grad = torch.randn_like(mine)
            theirs.grad = mine.grad.clone()
        for part, rate in zip(apart, (0.1, 0.2), strict=True):
            part.param_groups[0]["lr"] = rate / (1 + step)
            part.step()
        together.step()
        schedule.step()
        if step == 2:  # as at a checkpoint
            again = Together(parts(one))
            again.load_state_dict(together.state_dict())
            together = again
            kept = schedule.state_dict()
            schedule = torch.optim.lr_scheduler.LambdaLR(together, lambda step: 1 / (1 + step))
            schedule.load_state_dict(kept)
            for group, rate in zip(together.param_groups, (0.1, 0.2), strict=True):
                group["lr"] = rate / (2 + step)
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_biases_and_norms_do_not_decay(copying: PreparedData) -> None:
    model = small_model(copying)
    decays = [name for name, weight in model.named_parameters() if weight.ndim == 2]
    made = build_optimizer(AdamW(weight_decay=0.3), model, decays)
    assert [group["weight_decay"] for group in made.param_groups] == [0.3, 0.0]
    assert all(weight.ndim == 2 for weight in made.param_groups[0]["params"])
    assert made.defaults["fused"]


def test_what_cannot_be_trained_is_refused(copying: PreparedData) -> None:
    model = small_model(copying)
    for name, weight in model.named_parameters():
        weight.requires_grad_("norm" in name)
    with pytest.raises(UserError, match="optimizer muon trains 2-D weights"):
        build_optimizer(Muon(), model, [])
    model.requires_grad_(False)
    with pytest.raises(UserError, match="all are frozen"):
        build_optimizer(AdamW(), model, [])
