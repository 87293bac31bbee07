"""Distributed alignment search finds what is there: hierarchical equality (Geiger et al. 2023), judged on shapes never seen."""

from __future__ import annotations

from typing import Any

import pytest

from layerwise.interventions.alignment.align import Alignment
from layerwise.interventions.alignment.bundled import find_task
from layerwise.interventions.alignment.config import Training
from layerwise.interventions.alignment.hypotheses import Hypothesis
from layerwise.interventions.alignment.known import Drawn, draw_known
from layerwise.models.module import TorchModel

VARIABLE = ("first_equal",)


@pytest.fixture(scope="module")
def network() -> TorchModel:
    task = find_task("hierarchical_equality")
    assert task.learn is not None
    return task.learn(task, 0)


@pytest.fixture(scope="module")
def drawn(network: TorchModel) -> tuple[Drawn, Drawn]:
    task = find_task("hierarchical_equality")
    return draw_known(network, task, VARIABLE, 12_800, 0), draw_known(network, task, VARIABLE, 4000, 0, held_out=True)


def searched(network: TorchModel, drawn: tuple[Drawn, Drawn], method: Any, size: int, penalty: float = 0.0) -> Any:
    training = Training(epochs=12, batch_size=128, learning_rate=1e-2, penalty=penalty)
    alignment = Alignment(network, find_task("hierarchical_equality"), method, size, training)
    pairs = (drawn[0].pairs, drawn[1].pairs)
    return next(alignment.search([Hypothesis(VARIABLE, (("1.output", "all"),))], *pairs))[1]


@pytest.mark.slow
def test_the_network_learns_and_a_rotation_is_found_where_a_random_one_is_near_chance(
    network: TorchModel, drawn: tuple[Drawn, Drawn]
) -> None:
    assert drawn[1].accuracy >= 0.99
    one = searched(network, drawn, "low_rank", 24)
    assert one.accuracy >= 0.97
    assert one.control.mean() < 0.65
    assert 0.4 < one.whole.mean() < 0.6


@pytest.mark.slow
def test_boundless_search_finds_a_boundary(network: TorchModel, drawn: tuple[Drawn, Drawn]) -> None:
    """It keeps the accuracy with part of the rotation: the penalty pulls the boundary in, the task holds it out."""
    one = searched(network, drawn, "boundless", 1, penalty=0.4)
    assert one.accuracy >= 0.96
    assert 0.1 < one.shares[0].sum() / 64 < 0.6
    sharp = one.shares[0][(one.shares[0] > 0.05) & (one.shares[0] < 0.95)]
    assert len(sharp) < 6
