"""Many L2-penalised logistic and softmax regressions over the same rows, minimised side by side.

Limited-memory BFGS whose starting Hessian is a Cholesky factor of the true one, in single precision: one of the average fit
for all, then, where many steps are still to come, each fit's own. Gradients, steps and line searches are in double
precision, so that single precision costs steps and never accuracy. The logits along a direction are linear, which makes the
line search free of matrix products. (Nocedal & Wright 2006, chapters 7.2 and 8.3.)
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from functools import cached_property

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from layerwise.probes.solvers.dense import Cholesky, NotPositiveDefinite, half_gram, product

MEMORY = 4  # pairs of steps and gradient changes remembered
LOOK = 3  # steps from which the number of those to come is guessed
WORTH_ONE, WORTH = 5, 14  # more to come than this are worth a new factor for all fits, and one for each
LONGEST = 300  # steps of one penalty
LOOKS, STRAIGHT = (
    30,
    0.2,
)  # looks at the loss along one line, and the relative change of the step that is not worth another
DECREMENT = (
    1e-10  # a fit has arrived when one more step would lower its loss, a sum over rows, by less than half of this
)
SEPARATE_CLASSES = 20  # up to as many classes have a factor each; more share one
JITTER = 1e-6  # relative, on the diagonal of what is factored
GPU_ELEMENTS = 2**28


@dataclass
class Fits:
    """The state of the fits: fit j of site s has weights[s, j], one row a class (one row for two classes).

    weights: (sites, fits, columns, p). logits: (sites, fits, columns, n).
    """

    weights: Tensor
    logits: Tensor

    @classmethod
    def at_zero(cls, X: Tensor, fits: int, columns: int) -> Fits:
        sites, n, p = X.shape
        return cls(X.new_zeros(sites, fits, columns, p), X.new_zeros(sites, fits, columns, n))


def minimise(
    X: Tensor,
    targets: Tensor,
    rows: Tensor,
    penalty: Tensor,
    start: Fits,
    own: bool,
    known: Cholesky | None = None,
) -> tuple[Fits, bool]:
    """Minimise, for each site and fit, ``Σ rows·loss(targets, X w) + ½ Σ penalty·w²``.

    Args:
        X: (sites, n, p) float64, the column of ones for the intercept included.
        targets: (fits, columns, n): 0 or 1, one-hot for three classes or more.
        rows: (fits, n) weight of each row: 0 where a fit may not see it.
        penalty: (sites, fits, p), 0 for the intercept.
        start: where to start, usually the fits of a stronger penalty.
        own: begin with a factor for each fit, as the penalty before ended.
        known: (sites) factors of the average fit's Hessian at ``start``, where there are any; one serves all classes.

    Returns:
        The fits, and whether they came to need factors of their own.
    """
    result = Fits(start.weights.clone(), start.logits.clone())
    run = _Run(X, targets, rows, penalty, start.weights.clone(), start.logits.clone())
    single, renewed, steps = not own, False, 0
    worst: list[float] = []  # decrements since the factors were made
    run.measure()
    if known is None:
        run.factorise(single)
    else:
        run.take(known)
    while True:
        worth = WORTH if renewed or known is not None or not single else WORTH_ONE
        if len(worst) > LOOK and steps_left(worst) > worth:
            single, renewed, worst = single and not renewed, True, []
            run.factorise(single)
        direction = run.direction()
        decrement = (run.gradient * direction).sum((2, 3))  # (sites, fits)
        worst.append(float(decrement.max()))
        moving = (decrement > DECREMENT).any(0)
        if steps == LONGEST:
            warnings.warn("logistic regression stopped before it converged", ConvergenceWarning, stacklevel=3)
            moving.zero_()
        if not bool(moving.all()):
            arrived = run.numbers[~moving]
            result.weights[:, arrived] = run.weights[:, ~moving]
            result.logits[:, arrived] = run.logits[:, ~moving]
            if not bool(moving.any()):
                return result, not single
            direction = direction[:, moving]
            run.keep(moving)
        run.step(direction)
        steps += 1


def steps_left(decrements: list[float]) -> float:
    """How many more steps it takes to arrive, if decrements go on shrinking as they did."""
    if not decrements[0] > decrements[-1] > 0:
        return math.inf
    rate = math.log(decrements[0] / decrements[-1]) / (len(decrements) - 1)
    return math.log(decrements[-1] / DECREMENT) / rate


@dataclass
class _Run:
    """The fits that still move, with their data."""

    X: Tensor
    targets: Tensor
    rows: Tensor
    penalty: Tensor
    weights: Tensor
    logits: Tensor
    history: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.numbers = torch.arange(len(self.rows), device=self.X.device)
        self.columns = self.targets.shape[1]

    @cached_property
    def X_single(self) -> Tensor:
        return self.X.float()

    def measure(self) -> None:
        """Probabilities and gradient at the present weights."""
        self.probabilities = self._probabilities(self.logits)
        residual = self.rows[:, None] * (self.probabilities - self.targets)
        slope = product(residual.flatten(1, 2), self.X).reshape(self.weights.shape)
        self.gradient = slope.add_(self.penalty[:, :, None] * self.weights)

    def _probabilities(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits) if self.columns == 1 else torch.softmax(logits, dim=2)

    def factorise(self, single: bool) -> None:
        """Factor the Hessian's block of each class: of the average fit, or each fit's own; of the average class if they are many."""
        p = self.probabilities
        # For K classes the Hessian on weights that sum to 0 over classes is near to blocks of p (1 − p) K / (K − 1).
        share = 1.0 if self.columns == 1 else self.columns / (self.columns - 1)
        curvature = self.rows[:, None] * p * (1 - p) * share
        penalty = self.penalty[:, :, None].expand(-1, -1, self.columns, -1)
        if single:
            curvature, penalty = curvature.mean(1, keepdim=True), penalty.mean(1, keepdim=True)
        if self.columns > SEPARATE_CLASSES:
            curvature, penalty = curvature.mean(2, keepdim=True), penalty[:, :, :1]
        try:
            factor = self._factor(self.X_single, curvature, penalty)
        except NotPositiveDefinite:
            factor = self._factor(self.X, curvature, penalty)
        self.factor, self.single, self.grid = factor, single, penalty.shape[1:3]
        self.history.clear()  # it was learnt beside another factor

    def take(self, known: Cholesky) -> None:
        """Begin with a factor that is there already, one for all fits of a site."""
        self.factor, self.single, self.grid = known, True, torch.Size((1, 1))

    def _factor(self, X: Tensor, curvature: Tensor, penalty: Tensor) -> Cholesky:
        """curvature (sites, fits, classes, n), penalty (sites, fits, classes, p) → factors, (sites · fits · classes) of them."""
        sites, n, p = X.shape
        roots, diagonal = curvature.sqrt().to(X.dtype).flatten(1, 2), penalty.to(X.dtype).flatten(1, 2)
        hessians = X.new_zeros(sites, roots.shape[1], p, p)
        step = max(GPU_ELEMENTS // (n * p * sites), 1) if X.is_cuda else 1
        for start in range(0, roots.shape[1], step):
            part = slice(start, start + step)
            if X.is_cuda:
                weighted = X[:, None] * roots[:, part, :, None]
                hessians[:, part] = half_gram(weighted.flatten(0, 1)).unflatten(0, weighted.shape[:2])
            else:
                for site in range(sites):
                    seen = roots[site, start].nonzero()[:, 0]
                    half_gram(X[site, None, seen] * roots[site, start, seen, None], into=hessians[site, None, start])
        view = hessians.diagonal(dim1=2, dim2=3)
        view.add_(diagonal).mul_(1 + JITTER)
        return Cholesky.of(hessians.flatten(0, 1))

    def direction(self) -> Tensor:
        """The BFGS direction (uphill), (sites, fits, columns, p), by the two-loop recursion around the factor."""
        vector, taken = self.gradient, []
        for step, change, inverse in reversed(self.history):
            taken.append(inverse * (step * vector).sum((2, 3), keepdim=True))
            vector = vector - taken[-1] * change
        vector = self._precondition(vector)
        for (step, change, inverse), along in zip(self.history, reversed(taken), strict=True):
            vector = vector + (along - inverse * (change * vector).sum((2, 3), keepdim=True)) * step
        return vector

    def _precondition(self, vector: Tensor) -> Tensor:
        """The factors' inverses times (sites, fits, columns, p); a factor serves one fit or all, one class or all."""
        sites, fits, columns, p = vector.shape
        by_fit, by_class = self.grid
        apart = vector.reshape(sites, by_fit, fits // by_fit, by_class, columns // by_class, p).transpose(2, 3)
        solved = self.factor.solve(apart.reshape(sites * by_fit * by_class, -1, p).mT).mT
        solved = solved.reshape(apart.shape).transpose(2, 3).reshape(vector.shape)
        return solved if columns == 1 else solved - solved.mean(2, keepdim=True)

    def step(self, direction: Tensor) -> None:
        """Move downhill as far as is best on the line, and measure again."""
        slope = product(direction.flatten(1, 2), self.X.mT).reshape(self.logits.shape)
        penalised = self.penalty[:, :, None] * direction
        length = self._line_search(slope, (penalised * self.weights).sum((2, 3)), (penalised * direction).sum((2, 3)))
        length = length[:, :, None, None]
        moved = -length * direction
        before = self.gradient
        self.weights = self.weights + moved
        self.logits = self.logits - length * slope
        self.measure()
        change = self.gradient - before
        curvature = (moved * change).sum((2, 3), keepdim=True)
        self.history.append((moved, change, torch.where(curvature > 0, 1 / curvature, 0.0)))
        del self.history[:-MEMORY]

    def _line_search(self, slope: Tensor, tilt: Tensor, bend: Tensor) -> Tensor:
        """(sites, fits) step lengths by Newton's method on the line; penalty · weights · direction and direction² given.

        The loss along the line is convex: where it still falls the best length is longer, where it rises shorter. Newton's
        length is taken between these bounds only, since rows that are classed with certainty make it as long as one likes.
        """
        length, shortest, longest = torch.ones_like(tilt), torch.zeros_like(tilt), torch.full_like(tilt, torch.inf)
        for _ in range(LOOKS):
            p = self._probabilities(self.logits - length[:, :, None, None] * slope)
            pull = ((p - self.targets) * slope).sum(2)
            spread = (
                (p * (1 - p) * slope**2).sum(2)
                if self.columns == 1
                else (p * slope**2).sum(2) - (p * slope).sum(2) ** 2
            )
            down = (self.rows * pull).sum(2) + tilt - length * bend
            correction = (down / ((self.rows * spread).sum(2) + bend)).nan_to_num_(0.0)
            if bool((correction.abs() < STRAIGHT * length).all()):
                return length + correction
            shortest, longest = torch.where(down > 0, length, shortest), torch.where(down > 0, longest, length)
            length, before = length + correction, length
            between = torch.minimum((shortest + longest) / 2, 4 * before)
            length = torch.where((length > shortest) & (length < longest) & (length < 8 * before), length, between)
        return length

    def keep(self, moving: Tensor) -> None:
        """Go on with some of the fits."""
        if not self.single:
            self.grid = torch.Size((int(moving.sum()), self.grid[1]))
            self.factor = self.factor.take(moving.repeat_interleave(self.grid[1]).repeat(len(self.X)))
        self.numbers, self.targets, self.rows = self.numbers[moving], self.targets[moving], self.rows[moving]
        for name in ("penalty", "weights", "logits", "probabilities", "gradient"):
            setattr(self, name, getattr(self, name)[:, moving])
        self.history = [
            (step[:, moving], change[:, moving], inverse[:, moving]) for step, change, inverse in self.history
        ]
