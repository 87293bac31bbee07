"""Doses and checks that were stopped go on where they were, and give what they give in one go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from layerwise.interventions.steering.check import check_direction
from layerwise.interventions.steering.doses import random_directions
from layerwise.interventions.steering.sweep import dose_places
from layerwise.interventions.sweeps.ledger import Ledgers

STRENGTHS = (-2.0, 1.0, 3.0)
DIRECTION = torch.randn(16, generator=torch.Generator().manual_seed(3))


def doses(asked: Any, **how: Any) -> np.ndarray:
    places = {
        "one": {"resid_post.0": DIRECTION[None]},
        "many": {"resid_pre.1": random_directions(DIRECTION, 3), "resid_post.1": random_directions(DIRECTION, 3, 1)},
    }
    neutral = ["a cat sleeps", "the city of rome is in italy", "she runs"]
    found = dose_places(asked, neutral, places, STRENGTHS, "logit_difference", token_budget=16, **how)
    return np.concatenate([np.append(one.doses.values.ravel(), one.perplexity.ravel()) for one in found.values()])


def check(asked: Any, **how: Any) -> np.ndarray:
    controls = {"sphere": random_directions(DIRECTION, 4)}
    found = check_direction(
        asked, "resid_post.0", DIRECTION, controls, STRENGTHS, "log_probability", token_budget=16, **how
    )
    return np.append(found.doses.values.ravel(), found.removed.ravel())


@pytest.mark.parametrize("work", [doses, check])
def test_work_that_was_stopped_goes_on_where_it_was(asked, work: Callable[..., np.ndarray]) -> None:
    whole = work(asked)
    for after in (1, 5):
        calls = []

        def stop(runs: int, after: int = after, calls: list[int] = calls) -> None:
            calls.append(runs)
            if len(calls) == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), Ledgers("dosed") as ledgers:
            work(asked, ledgers=ledgers, done=stop)
        paths = [ledger.path for ledger in ledgers.opened if ledger.path is not None]
        assert sum(int(np.isfinite(np.load(path)).sum()) for path in paths) == sum(calls)
        again: list[int] = []
        with Ledgers("dosed") as ledgers:
            np.testing.assert_array_equal(work(asked, ledgers=ledgers, done=again.append), whole)
        assert sum(again) == sum(ledger.values.size for ledger in ledgers.opened)  # what was known is told of too
        assert not any(path.exists() for path in paths)


def test_what_is_known_does_not_run_again(asked) -> None:
    before = Ledgers("known")
    doses(asked, ledgers=before)
    for ledger in before.opened:
        ledger.values[:] = 3.0  # what no run would give
        ledger.save()
    with Ledgers("known") as ledgers:
        again = doses(asked, ledgers=ledgers)
    np.testing.assert_allclose(np.unique(again.round(4)), [3.0, np.exp(3.0).round(4)])
