"""Hypotheses: which variables a model holds where. Each is a plan that exchanges them in a learned basis."""

from __future__ import annotations

from dataclasses import dataclass, replace

from layerwise.errors import UserError
from layerwise.interventions.alignment.config import Method
from layerwise.interventions.plan import Plan, Step
from layerwise.interventions.settings import Boundless, Interchange, LowRankRotation, Mask, OperationSettings, Rotation


@dataclass(frozen=True)
class Hypothesis:
    """Variables that a model is supposed to hold at some places at once, each a site and positions there.

    joined: the tokens of a place are one long vector.
    """

    variables: tuple[str, ...]
    places: tuple[tuple[str, str], ...]
    joined: bool = False

    def __str__(self) -> str:
        places = " + ".join(f"{site} {positions}" for site, positions in self.places)
        return f"{', '.join(self.variables)} at {places}"

    @property
    def parts(self) -> list[Hypothesis]:
        """Each place alone."""
        return [replace(self, places=(place,)) for place in self.places]


def plan_of(
    hypothesis: Hypothesis,
    method: Method | None,
    size: int,
    seed: int,
    *,
    temperature: float = 10.0,
) -> Plan:
    """The plan: one operation a place, of which every variable has its own part. ``method`` None: all of the value is exchanged."""
    steps = []
    for number, (site, positions) in enumerate(hypothesis.places):
        operation = _operation(method, size * len(hypothesis.variables), seed + number, temperature)
        whole = method not in ("low_rank", "rotation", "interchange")
        if whole and len(hypothesis.variables) > 1:
            raise UserError(f"{hypothesis}: variables that share a basis need a rotation with a part for each.")
        for part, variable in enumerate(hypothesis.variables):
            alone = whole or (method == "low_rank" and len(hypothesis.variables) == 1)
            dims = "" if alone else f"{part * size}-{(part + 1) * size - 1}"
            steps.append(
                Step(
                    operation, (site,), positions, source=variable, dims=dims, joined=hypothesis.joined,
                    weights=f"basis_{number}", name=f"place{number}_variable{part}",
                )
            )  # fmt: skip
    return Plan(tuple(steps))


def _operation(method: Method | None, rank: int, seed: int, temperature: float) -> OperationSettings:
    match method:
        case None | "interchange":
            return Interchange()
        case "low_rank":
            return LowRankRotation(rank=rank, seed=seed)
        case "rotation":
            return Rotation(seed=seed)
        case "boundless":
            return Boundless(temperature=temperature, seed=seed)
        case "mask":
            return Mask(temperature=temperature, seed=seed)
        case "rotated_mask":
            return Mask(rotated=True, temperature=temperature, seed=seed)
