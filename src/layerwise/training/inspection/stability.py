"""Whether a model loads as what it was: twice the same, the same each time it runs, and as good as it was said to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from layerwise.models.batch import Batch, Ids, make_batch
from layerwise.models.fingerprint import weights_digest
from layerwise.models.model import LanguageModel
from layerwise.models.quiet import quiet_transformers

TOLERANCE = 1e-4  # of a loss that another machine, or other batches, computed
ROWS, TOKENS = 4, 16


@dataclass(frozen=True)
class Check:
    """One thing that must hold, whether it does, and what was found."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True)
class Stability:
    """All checks of a model."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def table(self) -> pd.DataFrame:
        """A row a check: check, passed, found."""
        return pd.DataFrame(
            [(check.name, check.passed, check.found) for check in self.checks], columns=["check", "passed", "found"]
        )

    def __str__(self) -> str:
        return "\n".join(
            f"  {'ok' if check.passed else 'NOT SO':<7} {check.name}: {check.found}" for check in self.checks
        )


def check_stability(
    load: Callable[[], LanguageModel],
    loss: Callable[[LanguageModel], float] | None = None,
    logged: float | None = None,
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Stability:
    """Load a model twice and see that nothing has changed.

    Args:
        load: loads it, anew each time. loss: its loss on the data it was validated on. logged: what that loss was when it was kept.
        tolerance: by which the two may differ.

    The checks: both loads have the same parameters and buffers, bit for bit; give the same logits; give them again when asked
    again; are in evaluation mode before and after; running changes no weight; the loss is the one that was logged.
    """
    first, second = load(), load()
    batch = _some_tokens(first, seed)
    evaluating = not any(module.training for module in first.module.modules())
    digests = weights_digest(first.module), weights_digest(second.module)
    logits = [_logits(model, batch) for model in (first, first, second)]
    checks = [
        Check("two loads have equal weights", digests[0] == digests[1], f"{digests[0][:12]} and {digests[1][:12]}"),
        _equal("two loads give equal logits", logits[0], logits[2]),
        _equal("the same input gives equal logits again", logits[0], logits[1]),
    ]
    if loss is not None:
        value = loss(first)
        again = loss(second)
        checks.append(Check("two loads have the same loss", value == again, f"{value:.6f} and {again:.6f}"))
        if logged is not None:
            near = abs(value - logged) <= tolerance
            checks.append(Check("the loss is the one that was logged", near, f"{value:.6f}, logged {logged:.6f}"))
    still = not any(module.training for module in first.module.modules())
    modes = f"{'evaluation' if evaluating else 'training'} mode before, {'evaluation' if still else 'training'} after"
    checks.append(Check("in evaluation mode, before and after", evaluating and still, modes))
    after = weights_digest(first.module)
    checks.append(Check("running it changes no weight", after == digests[0], f"{digests[0][:12]} and {after[:12]}"))
    return Stability(tuple(checks))


def _some_tokens(model: LanguageModel, seed: int) -> Batch:
    """Random tokens, as many as the model reads but few."""
    rng = np.random.default_rng(seed)
    length = min(TOKENS, model.max_length or TOKENS)
    ids = rng.integers(0, model.vocabulary_size, (ROWS, length))
    return make_batch(model, Ids(list(ids)), range(ROWS))


@torch.no_grad()
def _logits(model: LanguageModel, batch: Batch) -> torch.Tensor:
    with quiet_transformers():
        output: torch.Tensor = model.module(**batch.inputs)[0]
    return output


def _equal(name: str, one: torch.Tensor, other: torch.Tensor) -> Check:
    apart = float((one.float() - other.float()).abs().max())
    return Check(name, bool(torch.equal(one, other)), f"at most {apart:.2g} apart")
