"""What the verdicts are computed with, against scipy and brute force."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import nnls

from sprig.core.errors import DivergenceError, InputError
from sprig.studies.statistics import (
    Mean,
    above,
    below,
    crossing,
    hull_distance,
    mean,
    median,
    slope,
    spaced,
)


@pytest.mark.parametrize("count", [2, 3, 5, 31])
def test_the_interval_is_students(count: int, generator: torch.Generator) -> None:
    values = torch.randn(count, generator=generator, dtype=torch.float64).tolist()
    found = mean(values)
    low, high = stats.t.interval(0.95, count - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=2e-3, abs=1e-4)
    assert found.value == pytest.approx(np.mean(values))


def test_beyond_the_table_the_interval_is_the_normal_one() -> None:
    values = [float(i % 7) for i in range(40)]
    found = mean(values)
    assert found.high - found.value == pytest.approx(1.96 * stats.sem(values))


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert mean([2.0]) == Mean(2.0, -float("inf"), float("inf"))
    assert str(mean([2.0])) == "2"
    with pytest.raises(InputError, match="at least one value"):
        mean([])


def test_a_line_within_the_interval_decides_nothing() -> None:
    wide = Mean(1.0, 0.0, 2.0)
    assert (below(wide, 3.0), below(wide, 1.5), below(wide, -1.0)) == (True, None, False)
    assert (above(wide, 3.0), above(wide, 1.5), above(wide, -1.0)) == (False, None, True)


def test_median_and_spacing() -> None:
    assert (median([3.0, 1.0, 2.0]), median([4.0, 1.0, 2.0, 3.0])) == (2.0, 2.5)
    assert spaced(1, 4, 9) == [1, 2, 3, 4]


def test_slope_is_that_of_numpy_and_refuses_what_has_no_logarithm() -> None:
    xs, ys = [3, 7, 20, 55], [2.0, 0.7, 0.11, 0.02]
    assert slope(xs, ys) == pytest.approx(np.polyfit(np.log(xs), np.log(ys), 1)[0])
    assert slope([1, 2, 3], [1.0, 0.0, 1.0]) is None
    assert slope([1, 2], [1.0, 0.5]) is None


def test_crossing_needs_to_last() -> None:
    assert crossing([1, 2, 3, 4], [0.5, 2, 0.5, 0.5], [1, 1, 1, 1]) == 3
    assert crossing([1, 2], [0.5, 0.5], [1, 1]) == 1
    assert crossing([1, 2], [0.5, 1.0], [1, 1]) is None


@pytest.mark.parametrize(
    ("corners", "size", "away"), [(6, 3, 1.0), (40, 4, 0.0), (80, 10, 0.5), (60, 30, 0.2)]
)
def test_the_distance_of_a_hull_is_that_of_least_squares(
    corners: int, size: int, away: float, generator: torch.Generator
) -> None:
    """Against non-negative least squares with a heavy row for the sum."""
    points = torch.randn(corners, size, generator=generator, dtype=torch.float64) + away
    distance, weights = hull_distance(points)
    heavy = 1e4
    system = np.vstack([points.numpy().T, heavy * np.ones((1, corners))])
    found, _ = nnls(system, np.append(np.zeros(size), heavy))
    reference = float(((points.numpy().T @ (found / found.sum())) ** 2).sum())
    assert distance == pytest.approx(reference, rel=1e-6, abs=1e-9)
    assert float(weights.sum()) == pytest.approx(1.0)
    assert float(weights.min()) >= 0
    assert float((weights @ points).square().sum()) == pytest.approx(distance, abs=1e-12)


def test_corners_that_coincide_and_corners_that_are_not_finite() -> None:
    twice = torch.tensor([[1.0, 0.5], [1.0, 0.5], [1.0, -0.5], [1.0, -0.5], [2.0, 0.0]])
    assert hull_distance(twice)[0] == pytest.approx(1.0)
    assert hull_distance(torch.zeros(3, 2))[0] == 0.0
    with pytest.raises(DivergenceError, match="not finite"):
        hull_distance(torch.tensor([[1.0, float("nan")]]))
