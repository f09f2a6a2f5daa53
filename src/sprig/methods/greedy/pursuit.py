"""`refit`, the default objective: exact block pursuit with full least-squares refit of the consumers.

The error of a set of units is what the best new weights of all consumers on exactly those units (and the base
columns) lose of the consumers' original output, `problem.py` has the formula; summed over the consumers and divided
by the sum of their (metric-weighted) output powers, so 1 is "everything lost". One path gives the
nested curve for all sizes. Ridge values and gains are consistent, hence the curve never rises.
Forward: block orthogonal matching pursuit; backward: structured optimal brain surgeon. See README.md for sources.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sprig.core.errors import InputError
from sprig.core.greedy import Trail, run
from sprig.methods.greedy.elimination import PANEL, Elimination, Start, prepare
from sprig.methods.greedy.problem import (
    RIDGE,
    ConsumerProblem,
    Solution,
    columns_of,
    solve,
    system,
)

__all__ = [
    "RIDGE",
    "ConsumerProblem",
    "RefitObjective",
    "Solution",
    "backward",
    "columns_of",
    "path",
    "solve",
    "value",
]

HANDFULS = 4  # whose updates wait together, so that they are large products
RECHECK = 64  # picks between evaluations from scratch
RECHECK_COLUMNS = 512  # ... while the set is no larger than this


class State:
    """Where a selection stands: one elimination per consumer and what the picks explain."""

    def __init__(self, parts: list[Elimination], explained: float) -> None:
        self.parts, self.explained, self.picks = parts, explained, list[int]()


class RefitObjective:
    """Objective over the units of one group; see `path` for the arguments."""

    diminishing = False  # gains may grow when columns are correlated

    def __init__(
        self,
        problems: Sequence[ConsumerProblem],
        size: int,
        *,
        ridge: float = RIDGE,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        if not problems:
            raise InputError("no consumer: there is nothing to select for")
        self.problems = tuple(problem.settled() for problem in problems)
        self.size, self.ridge, self.dtype = size, ridge, dtype
        self.powers = [power_of(problem) for problem in self.problems]
        self.power = sum(self.powers)

    def starts(self) -> list[Start]:
        """The consumers with their base columns projected out."""
        out = []
        for problem in self.problems:
            columns = problem.units(self.size)
            h, t, _, _ = system(problem, self.ridge)
            out.append(prepare(h, t, columns, dtype=self.dtype))
        return out

    def start(self, together: int = 1) -> State:
        """together: units that will be taken at once."""
        parts, explained = [], 0.0
        for begin in self.starts():
            explained += begin.base
            wait = PANEL if together == 1 else max(PANEL, HANDFULS * together * begin.block)
            parts.append(Elimination(begin, self.size, panel=wait))
        return State(parts, explained)

    def gains(self, state: State, candidates: Tensor) -> Tensor:
        total = torch.zeros(self.size, dtype=torch.float64)
        for part in state.parts:
            total[part.units] += part.gains().to(total)
        return total[candidates] / (self.power or 1.0)

    def add(self, state: State, pick: int) -> State:
        state.explained += sum(part.take(pick) for part in state.parts)
        state.picks.append(pick)
        if len(state.picks) % RECHECK == 0 or len(state.picks) == self.size:
            self._recheck(state)
        return state

    def value(self, state: State) -> float:
        return max(self.power - state.explained, 0.0) / (self.power or 1.0)

    def _recheck(self, state: State) -> None:
        """Replace the running sum by a fresh solution where that is cheap."""
        columns = [problem.units(self.size) for problem in self.problems]
        mask = torch.zeros(self.size + 1, dtype=torch.bool)
        mask[state.picks] = True
        mask[-1] = True  # base: unit -1
        if max(int(mask[c].sum()) for c in columns) <= RECHECK_COLUMNS:
            fresh = value(self.problems, state.picks, size=self.size, ridge=self.ridge)
            state.explained = self.power * (1 - fresh)


def power_of(problem: ConsumerProblem) -> float:
    """Metric-weighted power of the target."""
    moments = problem.targeted
    power = moments.check().power / moments.count
    if not problem.centred:
        power = power + moments.target_mean**2
    return float((power * problem.weights(len(power)).to(power)).sum())


def value(
    problems: Sequence[ConsumerProblem], picks: Sequence[int], *, size: int, ridge: float = RIDGE
) -> float:
    """The relative error of one set of units, solved from scratch."""
    mask = torch.zeros(size + 1, dtype=torch.bool)
    mask[torch.as_tensor(list(picks), dtype=torch.int64)] = True
    mask[-1] = True
    lost = total = 0.0
    for problem in (p.settled() for p in problems):
        power = power_of(problem)
        solution = solve(problem, mask[problem.units(size)], ridge=ridge)
        lost, total = lost + power * solution.ridge_error, total + power
    return lost / (total or 1.0)


def path(
    problems: Sequence[ConsumerProblem],
    size: int,
    *,
    ridge: float = RIDGE,
    steps: int | None = None,
    start: Sequence[int] = (),
    dtype: torch.dtype = torch.float64,
    together: int = 1,
) -> Trail:
    """Units of one group, best first, with the error at every size.

    problems: the group's consumers; size: number of units; ridge: see `problem.py`; steps: picks wanted (all);
    start: picks that are forced first. together: picks made at once from the same gains; 1 is exact, more costs less
    where the matrices are large. dtype float32 halves time and memory, and blurs errors below 1e-5.

    >>> from sprig.core.stats import Moments
    >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> moments = Moments.from_rows(x, x[:, 2:3] * 3 + x[:, :1])
    >>> path([ConsumerProblem(moments, torch.arange(4))], 4, steps=2).picks
    (2, 0)
    """
    objective = RefitObjective(problems, size, ridge=ridge, dtype=dtype)
    if together > 1 and not start:
        return _in_handfuls(objective, size if steps is None else steps, together)
    return run(objective, steps, start=start)


def _in_handfuls(objective: RefitObjective, steps: int, together: int) -> Trail:
    """The `together` largest gains at a time, all taken in one sweep."""
    state = objective.start(together)
    picks, gains, values = list[int](), list[float](), [objective.value(state)]
    left = torch.ones(objective.size, dtype=torch.bool)
    everything = torch.arange(objective.size)
    while len(picks) < steps:
        scores = objective.gains(state, everything).masked_fill(~left, -torch.inf)
        best = scores.sort(descending=True, stable=True).indices[
            : min(together, steps - len(picks))
        ]
        units = best.tolist()
        left[best] = False
        brought = torch.tensor([part.take_together(units) for part in state.parts]).sum(0).tolist()
        for unit, gain in zip(units, brought, strict=True):
            state.explained += gain
            state.picks.append(unit)
            picks.append(unit)
            gains.append(gain / (objective.power or 1.0))
            values.append(objective.value(state))
    return Trail(tuple(picks), tuple(gains), tuple(values))


def backward(
    problems: Sequence[ConsumerProblem],
    size: int,
    *,
    ridge: float = RIDGE,
    dtype: torch.dtype = torch.float64,
) -> Trail:
    """The nested path found by removing the cheapest unit again and again, told in the order of adding.

    Needs an invertible H: with ridge 0 and dependent columns it refuses.
    """
    objective = RefitObjective(problems, size, ridge=ridge, dtype=dtype)
    parts = [Elimination(inverted(begin, ridge), size) for begin in objective.starts()]
    left = torch.ones(size, dtype=torch.bool)
    removed: list[int] = []
    costs: list[float] = []
    for _ in range(size):
        cost = torch.zeros(size, dtype=torch.float64)
        for part in parts:
            cost[part.units] += part.gains().to(cost)
        # Among equals the highest number goes first, so that the lowest stays longest.
        at = size - 1 - int(cost.masked_fill(~left, torch.inf).flip(0).argmin())
        costs.append(sum(part.take(at) for part in parts) / (objective.power or 1.0))
        removed.append(at)
        left[at] = False
    values = [value(objective.problems, range(size), size=size, ridge=ridge)]
    for cost_here in costs:
        values.append(values[-1] + cost_here)
    return Trail(tuple(removed[::-1]), tuple(costs[::-1]), tuple(values[::-1]))


def inverted(begin: Start, ridge: float) -> Start:
    """(P, Q) -> (P^-1, Q P^-1): elimination then removes units instead of adding them."""
    factor, info = torch.linalg.cholesky_ex(begin.p)
    if int(info) or (len(begin.p) and float(factor.diagonal().min()) ** 2 < 1e-12):
        raise InputError(f"the input columns depend on each other; set a ridge above {ridge}")
    q = torch.cholesky_solve(begin.q.mT, factor).mT.contiguous()
    return begin._replace(p=torch.cholesky_inverse(factor), q=q)
