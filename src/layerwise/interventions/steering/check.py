"""The causal check: a direction that is said to matter, beside random ones of its length, added in doses and projected out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerwise.interventions.side_by_side import marked, read_prompts
from layerwise.interventions.steering.doses import AgainstRandom, Doses, against_random, give_doses, project_out
from layerwise.interventions.sweeps.asked import AskedPairs
from layerwise.interventions.sweeps.ledger import Ledgers, Share

OWN = "own"


@dataclass(frozen=True, eq=False)
class Checked:
    """What one direction and its controls do to n prompts.

    kinds: of each direction, ``own`` first, then the name of its control. doses: when added. removed: (directions, n), how far the metric
    moves when a direction is projected out. groups: (n,) prompts that belong together. labels: (n,) 0 or 1, of prompts about labelled texts.
    """

    kinds: np.ndarray
    doses: Doses
    removed: np.ndarray
    groups: np.ndarray | None
    labels: np.ndarray | None = None

    @property
    def controls(self) -> list[str]:
        """The kinds of random direction, as they were given."""
        return list(dict.fromkeys(self.kinds[1:].tolist()))

    def added_against(self, control: str, seed: int = 0) -> AgainstRandom:
        """The slopes of the metric over strength, against those of one kind of random direction."""
        return against_random(self.doses.slopes()[self._with(control)], self.groups, seed=seed)

    def removed_against(self, control: str, seed: int = 0) -> AgainstRandom:
        """The effect of projecting out, against that of one kind of random direction."""
        return against_random(self.removed[self._with(control)], self.groups, seed=seed)

    @property
    def gap(self) -> float | None:
        """How far apart the metric is after texts of the two classes, as it is; None without labels, or with texts of one class alone."""
        if self.labels is None or len(np.unique(self.labels)) < 2:
            return None
        return float(self.doses.clean[self.labels == 1].mean() - self.doses.clean[self.labels == 0].mean())

    def closed_against(self, control: str, seed: int = 0) -> AgainstRandom | None:
        """How far that gap closes when the direction is projected out, against one kind of random direction; None where there is no gap.

        Projecting out carries both classes to one place, so that the metric of all texts together need not move where each one's does.
        """
        if self.gap is None:
            return None
        return against_random(self.removed[self._with(control)], self.groups, self.labels, seed=seed)

    def _with(self, control: str) -> np.ndarray:
        return (self.kinds == OWN) | (self.kinds == control)

    def table(self) -> pd.DataFrame:
        """A row for each direction and strength, mean effect over prompts; strength NaN where it was projected out."""
        rows = []
        for number, kind in enumerate(self.kinds):
            effects = self.doses.effects[number].mean(1)
            rows += [
                (number, kind, strength, effect) for strength, effect in zip(self.doses.strengths, effects, strict=True)
            ]
            rows.append((number, kind, np.nan, self.removed[number].mean()))
        return pd.DataFrame(rows, columns=["direction", "kind", "strength", "effect"])

    def texts(self) -> pd.DataFrame:
        """A row for each prompt: the metric as it is, under every dose of the own direction, and with it projected out."""
        frame = pd.DataFrame({"prompt": np.arange(len(self.doses.clean)), "clean": self.doses.clean})
        if self.labels is not None:
            frame.insert(1, "label", self.labels)
        for strength, values in zip(self.doses.strengths, self.doses.values[0], strict=True):
            frame[f"strength_{strength:g}"] = values
        frame["removed"] = self.doses.clean + self.removed[0]
        return frame


def check_direction(
    asked: AskedPairs,
    site: str,
    direction: Tensor,
    controls: Mapping[str, Tensor],
    strengths: Sequence[float],
    metric: str,
    *,
    positions: str = "all",
    mean: Tensor | None = None,
    labels: np.ndarray | None = None,
    token_budget: int | None = None,
    ledgers: Ledgers | None = None,
    done: Callable[[int], None] = lambda runs: None,
) -> Checked:
    """Add ``direction`` (width,) and every control (r, width) at a site, in every dose, to the clean prompts; then project each out.

    Args:
        positions: the tokens of each prompt that are acted on.
        mean: (width,), what the component becomes when a direction is projected out; 0 without it.
        labels: (n,) 0 or 1, of prompts about labelled texts.
        ledgers: where values go, and what is known of them already.
        done: is told how many runs, one for each prompt and change, each forward has finished.
    """
    vectors = torch.cat([direction[None], *(control.to(direction) for control in controls.values())]).float()
    kinds = [OWN, *(name for name, control in controls.items() for _ in range(len(control)))]
    ledgers = ledgers or Ledgers()
    added = ledgers.open("added", len(strengths) * len(vectors), len(asked))
    out = ledgers.open("removed", len(vectors), len(asked))
    parts, removed, order = [], [], []
    for rows in asked.chunks(token_budget):
        rerun = read_prompts(asked, metric, rows, token_budget)
        where = marked(asked, positions, rows, rerun.kept.batch)

        def finished(copies: int, rows: np.ndarray = rows) -> None:
            done(copies * len(rows))

        known = Share(added, rows, len(added.values))
        parts.append(give_doses(rerun, {site: vectors}, strengths, where=where, known=known, done=finished))
        means = None if mean is None else {site: mean}
        known = Share(out, rows, len(vectors))
        removed.append(project_out(rerun, {site: vectors}, means=means, where=where, known=known, done=finished))
        order.append(rows)
    rows = np.concatenate(order)
    back = np.argsort(rows)
    doses = Doses.joined(parts).ordered(rows)
    return Checked(np.array(kinds), doses, np.concatenate(removed, 1)[:, back], asked.pairs.groups, labels)
