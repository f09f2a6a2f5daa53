"""IncReg, incremental regularisation (Wang et al. 2018): every unit has its own L2 factor, which grows for the
unimportant and falls back for the important; a unit whose factor reaches the ceiling is removed.

    value = sum_u f_u / 2 |w_u|^2,   push = f_u w
    rank of u: by the running mean, over all steps, of its rank by L1 size in its group (0 = smallest)
    K = units of the group still to remove,  a = ln(2 / q) / K,  N = -ln(q) / a   (the centre of symmetry)
    increment(r) = A exp(-a r)                             r < N
                 = 2 q A - A exp(-a (2 N - r))             r >= N;     it is 0 at r = K, and negative beyond

f_u → "factors", A → step, q → curve (0.25). Starts from a trained net, beside ordinary weight decay. The steps number
about 7 ceiling / step where 80% leaves; heavy ball is stable while lr ceiling < 2 (1 + momentum).
A departure: where a group has reached its target, the factors of what stays return to zero at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sprig.methods.penalties.kinds import OnUnits, risen
from sprig.methods.penalties.listwise import State, check, precision, quartiles


def increment(rank: Tensor, target: int, *, step: float, curve: float) -> Tensor:
    """What the factor of a unit of this rank gains when `target` units are still to leave.

    >>> [round(float(increment(torch.tensor(r), 8, step=1.0, curve=0.25)), 4) for r in (0.0, 16 / 3, 8.0)]
    [1.0, 0.25, 0.0]
    """
    rank = rank.double()
    alpha = math.log(2 / curve) / target
    centre = -math.log(curve) / alpha
    early = step * (-alpha * rank).exp()
    late = 2 * curve * step - step * (-alpha * (2 * centre - rank)).clamp_max(700.0).exp()
    return torch.where(rank < centre, early, late)


@dataclass(frozen=True)
class IncReg(OnUnits):
    """Removes units one by one while it trains.

    >>> IncReg(keep=0.5).targets(10)
    5
    """

    keep: float = 0.2  # share of every group's units that stays
    step: float = 2.5e-4  # largest increment of a factor
    ceiling: float = 0.05  # a unit whose factor comes here is removed
    curve: float = 0.25  # increment at the centre, in shares of the largest
    every: int = 1  # steps between two updates
    remedy: ClassVar[str] = "raise its step"
    rest: ClassVar[str] = "units that it had not removed by then stay unless the cut takes them"

    def __post_init__(self) -> None:
        check(
            keep=(self.keep, 0 < self.keep <= 1, "in (0, 1]"),
            step=(self.step, self.step >= 0, "at least 0"),
            ceiling=(self.ceiling, self.ceiling > 0, "more than 0"),
            curve=(self.curve, 0 < self.curve < 1, "in (0, 1)"),
            every=(self.every, self.every >= 1, "at least 1"),
        )

    @property
    def pushes(self) -> bool:
        return True

    @property
    def proximal(self) -> bool:
        return True  # removed units are held at zero

    def targets(self, size: int) -> int:
        """Units to remove from a group of this size; at least one stays."""
        return min(math.ceil((1 - self.keep) * size - 1e-9), size - 1)

    def init(self, weights: Sequence[Tensor]) -> State:
        zeros = weights[0].new_zeros(self.units.total, dtype=precision(weights))
        return {
            "factors": zeros,
            "ranks": torch.zeros_like(zeros, dtype=torch.float64),
            "gone": torch.zeros_like(zeros, dtype=torch.bool),
            "updates": 0,
            "calls": 0,
        }

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        factors = self.units.spread(state["factors"], weights, other=0.0)
        return [w * f for w, f in zip(weights, factors)]

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        if not bool(state["gone"].any()):
            return list(weights)
        stay = (~state["gone"]).to(precision(weights))
        return [w * f for w, f in zip(weights, self.units.spread(stay, weights, other=1.0))]

    @torch.no_grad()
    def advance(self, weights: Sequence[Tensor], state: State, *, lr: float) -> State:
        state["calls"] += 1
        if (state["calls"] - 1) % self.every:
            return state
        state["updates"] += 1
        scores = self.units.sums(weights, torch.abs).double()
        scores[state["gone"]] = -1.0  # the lowest ranks, for good
        for group in self.units.group.unique().tolist():
            self._group(torch.nonzero(self.units.group == group)[:, 0], scores, state)
        return state

    def _group(self, mine: Tensor, scores: Tensor, state: State) -> None:
        """Ranks and factors of one group."""
        now = scores[mine].argsort(stable=True).argsort().double()
        count = state["updates"]
        state["ranks"][mine] = ((count - 1) * state["ranks"][mine] + now) / count
        alive = mine[~state["gone"][mine]]
        left = self.targets(len(mine)) - (len(mine) - len(alive))
        if left <= 0:
            state["factors"][alive] = 0.0
            return
        rank = state["ranks"][alive].argsort(stable=True).argsort()
        gain = increment(rank, left, step=self.step, curve=self.curve).clamp_min(-self.ceiling)
        moved = (state["factors"][alive] + gain).clamp_min(0.0)
        state["factors"][alive] = moved.to(state["factors"].dtype)
        state["gone"][alive] = state["factors"][alive] >= self.ceiling

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        return (state["factors"] * self.units.sums(weights, torch.square)).sum() / 2

    def scores(self, weights: Sequence[Tensor], state: State) -> Tensor:
        """L1 size; what was removed is worth nothing."""
        return self.units.sums(weights, torch.abs) * ~state["gone"]

    def finished(self, state: State) -> bool:
        """Whether every group has lost what it was to lose."""
        for group in self.units.group.unique().tolist():
            mine = self.units.group == group
            if int(state["gone"][mine].sum()) < self.targets(int(mine.sum())):
                return False
        return True

    def watched(self, weights: Sequence[Tensor], state: State) -> dict[str, float]:
        """For the log: factors, and how many units are removed."""
        removed = int(state["gone"].sum())
        return {**quartiles("factor", [state["factors"][~state["gone"]]]), "removed": removed}

    def reach(
        self, weights: Sequence[Tensor], state: State, *, steps: float, lr: float, boost: float
    ) -> float:
        """All where a factor comes to its ceiling, else what it takes off on its way; 0 if all stays."""
        if not any(self.targets(n) for n in self.units.group.bincount().tolist() if n):
            return 0.0
        return risen(self, steps=steps, force=lr * boost)
