"""The few statistics that the studies share: means with intervals, slopes, rates, and a hull's nearest point."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sprig.core.errors import DivergenceError, InputError

TINY = 1e-300  # what a loss of zero counts as, where its logarithm is taken

# 97.5% quantiles of Student's t for 1..30 degrees of freedom; the normal one beyond (at most 4% too narrow)
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with its 95% interval; the interval of a single value is unbounded."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not math.isfinite(self.low):
            return f"{self.value:.3g}"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def mean(values: Sequence[float]) -> Mean:
    """Mean and Student's 95% interval of independent values.

    >>> str(mean([1.0, 2.0, 3.0]))
    '2 [-0.484, 4.48]'
    """
    if not values:
        raise InputError("a mean needs at least one value")
    middle = math.fsum(values) / len(values)
    if len(values) == 1:
        return Mean(middle, -math.inf, math.inf)
    variance = math.fsum((v - middle) ** 2 for v in values) / (len(values) - 1)
    quantile = _T[len(values) - 2] if len(values) - 2 < len(_T) else 1.96
    half = quantile * math.sqrt(variance / len(values))
    return Mean(middle, middle - half, middle + half)


def below(value: Mean, line: float) -> bool | None:
    """Whether a mean is below a line: None where its interval holds the line.

    >>> below(Mean(1.0, 0.5, 1.5), 2.0), below(Mean(1.0, 0.5, 1.5), 1.2), below(Mean(1.0, 0.5, 1.5), 0.4)
    (True, None, False)
    """
    if value.high < line:
        return True
    return False if value.low > line else None


def above(value: Mean, line: float) -> bool | None:
    """Whether a mean is above a line: None where its interval holds the line."""
    found = below(value, line)
    return None if found is None else not found


def geometric(values: Sequence[float]) -> float:
    """The geometric mean of values that are not negative; zero counts as the smallest number.

    >>> round(geometric([1.0, 100.0]), 9), geometric([0.0]) < 1e-290
    (10.0, True)
    """
    return math.exp(mean([math.log(max(v, TINY)) for v in values]).value)


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones."""
    ranked = sorted(values)
    half = len(ranked) // 2
    return ranked[half] if len(ranked) % 2 else (ranked[half - 1] + ranked[half]) / 2


def slope(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """The slope of the line through (ln x, ln y) by least squares; None below three points or where y is not positive.

    >>> slope([1, 10, 100], [5.0, 0.05, 0.0005])
    -2.0
    """
    if len(xs) < 3 or min(ys) <= 0 or min(xs) <= 0:
        return None
    x = torch.tensor(list(xs), dtype=torch.float64).log()
    y = torch.tensor(list(ys), dtype=torch.float64).log()
    x = x - x.mean()
    return round(float(x @ y / (x @ x)), 12)


def spaced(first: int, last: int, count: int) -> list[int]:
    """Whole numbers from first to last, evenly spaced on a logarithmic axis, each once.

    >>> spaced(1, 100, 5)
    [1, 3, 10, 32, 100]
    """
    steps = torch.linspace(math.log(first), math.log(last), count, dtype=torch.float64).exp()
    return sorted({round(float(s)) for s in steps})


def crossing(xs: Sequence[float], ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The least x from which on `ours` is below `theirs` at every x; None where that is never so.

    >>> crossing([10, 20, 40], [3.0, 2.0, 1.0], [2.0, 2.5, 2.0]), crossing([1, 2], [1, 3], [2, 2])
    (20, None)
    """
    found = None
    for x, a, b in reversed(list(zip(xs, ours, theirs))):
        if not a < b:
            break
        found = x
    return found


def hull_distance(points: Tensor, *, tolerance: float = 1e-12) -> tuple[float, Tensor]:
    """Squared distance of the origin from the convex hull of `points` (n, d), and the weights of the nearest point.

    Wolfe's algorithm (1976) for the point of least norm: a set of corners and their affine minimiser, corners that
    would get a negative weight leave. It ends after finitely many steps; the distance is then right to `tolerance`
    times the largest squared norm.

    >>> distance, weights = hull_distance(torch.tensor([[1.0, 1.0], [1.0, -1.0], [3.0, 0.0]]))
    >>> distance, [round(w, 6) for w in weights.tolist()]
    (1.0, [0.5, 0.5, 0.0])
    """
    points = points.double()
    powers = points.square().sum(1)
    if not bool(powers.isfinite().all()):
        raise DivergenceError("a corner of the hull is not finite")
    slack = tolerance * float(powers.max())
    corners = [int(powers.argmin())]
    weights = torch.ones(1, dtype=torch.float64)
    nearest = points[corners[0]]
    for _ in range(100 * len(points)):
        products = points @ nearest
        coming = int(products.argmin())
        if float(nearest @ nearest - products[coming]) <= slack or coming in corners:
            break
        corners, weights = [*corners, coming], torch.cat([weights, weights.new_zeros(1)])
        while True:
            best = _affine(points[corners])
            if float(best.min()) > 1e-14:
                weights = best
                break
            shrinking = best < weights
            steps = torch.where(shrinking, weights / (weights - best).clamp_min(1e-300), torch.inf)
            step = min(1.0, float(steps.min()))
            moved = (1 - step) * weights + step * best
            keep = moved > 1e-14
            keep[int(steps.argmin())] = False  # one leaves at least, whatever rounding says
            corners = [c for c, stays in zip(corners, keep.tolist()) if stays]
            weights = moved[keep] / moved[keep].sum()
        nearest = weights @ points[corners]
    full = torch.zeros(len(points), dtype=torch.float64)
    full[corners] = weights
    return float(nearest @ nearest), full


def _affine(corners: Tensor) -> Tensor:
    """Weights with sum 1, of any sign, of the point of least norm in the affine hull."""
    scale = float(corners.square().sum(1).max()) or 1.0
    # with 1 added everywhere the affine condition needs no multiplier: the solution only wants scaling
    found, wrong = torch.linalg.solve_ex(
        corners @ corners.mT / scale + 1.0, torch.ones(len(corners), 1, dtype=torch.float64)
    )
    if int(wrong) or not bool(found.isfinite().all()) or float(found.sum().abs()) < 1e-12:
        # corners that depend on each other up to rounding: the solution of least length
        system = corners @ corners.mT / scale + 1.0
        right = torch.ones(len(corners), 1, dtype=torch.float64)
        found = torch.linalg.lstsq(system, right, driver="gelsd", rcond=1e-13).solution
    return found[:, 0] / found.sum()
