"""Small set functions, each beside a second way to compute it that shares no code with the first."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from sprig.greedy import Coverage, FacilityLocation, LeastSquares, LogLikelihood, SetFunction

KINDS = ("r2", "r2 wide", "logistic", "coverage", "facility", "table")


class Case(NamedTuple):
    objective: Any
    f: Callable[[tuple[int, ...]], float]  # the second way
    exact: float  # how far the two may be apart

    def value(self, items: Iterable[int]) -> float:
        return self.f(tuple(sorted(items)))

    def naive(self, k: int, among: Sequence[int] | None = None) -> list[int]:
        """Greedy as one would write it down; the lowest number among those within rounding of the best."""
        items = sorted(range(self.objective.size) if among is None else among)
        picks: list[int] = []
        for _ in range(min(k, len(items))):
            left = [i for i in items if i not in picks]
            worth = [self.value([*picks, i]) for i in left]
            picks.append(next(i for i, w in zip(left, worth) if w >= max(worth) - 1e-7))
        return picks

    def optimum(self, k: int) -> float:
        return max(self.value(s) for s in combinations(range(self.objective.size), k))


def r_squared(x: np.ndarray, y: np.ndarray, items: Sequence[int]) -> float:
    design = np.c_[np.ones(len(x)), x[:, sorted(items)]]
    left = y - design @ np.linalg.lstsq(design, y, rcond=1e-9)[0]
    return 1 - (left**2).sum() / ((y - y.mean(0)) ** 2).sum()


def logistic(x: np.ndarray, y: np.ndarray, items: Sequence[int], ridge: float) -> float:
    z, sign = np.c_[x[:, sorted(items)], np.ones(len(x))], 2 * y - 1

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        m = sign * (z @ w)
        pull = -sign / (1 + np.exp(m)) / len(y)
        inner = np.r_[w[:-1], 0.0]
        return np.logaddexp(0, -m).mean() + ridge / 2 * (inner**2).sum(), z.T @ pull + ridge * inner

    best = minimize(loss, np.zeros(z.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-9})
    share = y.mean()
    return -best.fun - share * np.log(share) - (1 - share) * np.log(1 - share)


def make(kind: str, seed: int = 0, size: int = 7) -> Case:
    rng = np.random.default_rng(seed)
    if kind.startswith("r2"):
        n = 5 if kind == "r2 wide" else 30
        x = rng.normal(size=(n, size)) @ (np.eye(size) + 0.5 * rng.normal(size=(size, size)))
        x[:, size - 2] = x[:, 0] - 2 * x[:, 1]  # one column too many
        x[:, size - 1] = 3.0  # says nothing
        y = x @ rng.normal(size=size) + rng.normal(size=n)
        objective = LeastSquares(torch.from_numpy(x), torch.from_numpy(y))
        return Case(objective, cache(lambda s: r_squared(x, y, s)), 1e-9)
    if kind == "logistic":
        x = rng.normal(size=(40, size)) @ (np.eye(size) + 0.4 * rng.normal(size=(size, size)))
        y = (x @ rng.normal(size=size) + rng.normal(size=40) > 0).astype(float)
        objective = LogLikelihood(torch.from_numpy(x), torch.from_numpy(y), ridge=0.01)
        return Case(objective, cache(lambda s: logistic(x, y, s, 0.01)), 1e-8)
    if kind == "coverage":
        holds = rng.random((size, 9)) < 0.3
        weights = rng.integers(1, 4, 9)
        names = [set(np.flatnonzero(row)) for row in holds]
        objective = Coverage(torch.from_numpy(holds), torch.from_numpy(weights))
        return Case(
            objective, lambda s: float(sum(weights[list(set().union(*(names[i] for i in s)))])), 0.0
        )
    if kind == "facility":
        near = rng.integers(0, 6, (8, size)).astype(float)
        objective = FacilityLocation(torch.from_numpy(near))
        return Case(
            objective, lambda s: sum(max([row[i] for i in s], default=0.0) for row in near), 0.0
        )
    table = {  # a monotone function without further structure
        frozenset(s): float(len(s)) for m in range(size + 1) for s in combinations(range(size), m)
    }
    for s in sorted(table, key=lambda s: (len(s), sorted(s))):
        table[s] = max([table[s - {i}] for i in s], default=2.0) + rng.random() * bool(s)
    return Case(
        SetFunction(size, lambda s: table[frozenset(s)]), lambda s: table[frozenset(s)] - 2.0, 1e-12
    )


@pytest.fixture(params=KINDS)
def case(request: Any) -> Case:
    return make(request.param)


@pytest.fixture(name="make")
def _make() -> Callable[..., Case]:
    return make
