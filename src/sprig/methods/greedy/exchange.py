"""Swap search on a set of units: drop the cheapest, add the best, keep the change if the error falls.

All is read off one tableau per consumer, H and T *swept* on the columns I of each unit in the set. With D = A_II^-1:
A_II -> -D, A_cI -> +-A_cI D, A_cc -> A_cc - A_cI D A_Ic (+ in, - out), targets likewise. Units inside then show
-H_SS^-1 and their weights, units outside the Schur complement and the residual moment, so the exact cost of
dropping and the exact gain of adding are the same expression tr(|A_II|^-1 T_I^T T_I).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sprig.core.errors import InputError
from sprig.methods.greedy.elimination import Start
from sprig.methods.greedy.problem import DEFICIENT, RIDGE, ConsumerProblem, half_inverse
from sprig.methods.greedy.pursuit import RefitObjective

REFRESH = 64  # sweeps between tableaus from scratch


TRIES = 3  # units that `refit` tries to drop before it gives an exchange up


@dataclass(frozen=True)
class Exchange:
    """Where a swap search ended."""

    picks: tuple[int, ...]  # the kept ones in their old order, then the new ones
    before: float  # relative error
    after: float
    moves: tuple[tuple[int, int], ...]  # (dropped, added)


def swap(
    problems: Sequence[ConsumerProblem],
    picks: Sequence[int],
    *,
    size: int,
    ridge: float = RIDGE,
    rounds: int | None = None,
    tries: int = 1,
) -> Exchange:
    """Improve a set of units of a given size; the error never rises.

    rounds: most swaps kept (None: until none helps). tries: how many of the cheapest units are tried for dropping
    before giving up. Each costs two sweeps, O(D^2 block). With ridge 0, dependent columns are refused.
    """
    objective = RefitObjective(problems, size, ridge=ridge)
    kept = [int(i) for i in picks]
    if len(set(kept)) < len(kept) or not all(0 <= i < size for i in kept):
        raise InputError(f"picks must be distinct units in 0..{size - 1}, found {tuple(kept)}")
    starts = objective.starts()
    base = sum(start.base for start in starts)
    boards = [Tableau(start, size) for start in starts]
    explained = base + sum(board.begin(kept) for board in boards)
    before, scale = explained, objective.power or 1.0
    moves: list[tuple[int, int]] = []
    sweeps = 0
    while rounds is None or len(moves) < rounds:
        inside = torch.zeros(size, dtype=torch.bool)
        inside[kept] = True
        cost = _scores(boards, size).masked_fill(~inside, torch.inf)
        for out in cost.argsort(stable=True)[: min(tries, len(kept))].tolist():
            _sweep(boards, out)
            gain = _scores(boards, size).masked_fill(inside, -torch.inf)
            new = int(gain.argmax())
            sweeps += 1
            if float(gain[new]) > float(cost[out]) + 1e-10 * scale:
                break
            _sweep(boards, out)
        else:
            break
        _sweep(boards, new)
        kept = [*(i for i in kept if i != out), new]
        explained += float(gain[new]) - float(cost[out])
        moves.append((out, new))
        if sweeps >= REFRESH:
            explained = base + sum(board.begin(kept) for board in boards)
            sweeps = 0
    after = base + sum(board.begin(kept) for board in boards) if moves else explained
    errors = [max(objective.power - e, 0.0) / scale for e in (before, after)]
    return Exchange(tuple(kept), errors[0], errors[1], tuple(moves))


def _scores(boards: list["Tableau"], size: int) -> Tensor:
    total = torch.zeros(size, dtype=torch.float64)
    for board in boards:
        total[board.start.units] += board.scores()
    return total


def _sweep(boards: list["Tableau"], unit: int) -> None:
    for board in boards:
        board.sweep(unit)


class Tableau:
    """The swept system of one consumer, in place."""

    def __init__(self, start: Start, size: int) -> None:
        self.start, self.block = start, start.block
        self.slot = torch.full((size,), -1)
        self.slot[start.units] = torch.arange(len(start.units))

    def begin(self, picks: Sequence[int]) -> float:
        """Sweep on all picks at once; what they explain."""
        k, p, q = self.block, self.start.p, self.start.q
        slots = self.slot[torch.as_tensor(picks, dtype=torch.int64)]
        slots = slots[slots >= 0]
        self.inside = torch.zeros(len(self.start.units), dtype=torch.bool)
        self.inside[slots] = True
        columns = (slots[:, None] * k + torch.arange(k)).flatten()
        factor, info = torch.linalg.cholesky_ex(p[columns][:, columns])
        if int(info) or (len(factor) and float(factor.diagonal().min()) ** 2 < DEFICIENT):
            raise InputError("the picked columns depend on each other; set a ridge above 0")
        v = torch.linalg.solve_triangular(factor, p[columns], upper=False)
        b = torch.linalg.solve_triangular(factor, q[:, columns].mT, upper=False)
        self.a, self.t = p - v.mT @ v, q - b.mT @ v
        rows = torch.linalg.solve_triangular(factor.mT, v, upper=True)
        self.a[columns] = rows
        self.a[:, columns] = rows.mT
        self.a[columns[:, None], columns] = -torch.cholesky_inverse(factor)
        self.t[:, columns] = torch.linalg.solve_triangular(factor.mT, b, upper=True).mT
        return float(b.square().sum())

    def scores(self) -> Tensor:
        """(U,) cost of dropping each unit inside, gain of adding each outside."""
        u, k = len(self.inside), self.block
        blocks = self.a.view(u, k, u, k).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        blocks = torch.where(self.inside[:, None, None], -blocks, blocks)
        t = self.t.view(len(self.t), u, k).permute(1, 2, 0)
        if k == 1:
            d = blocks.flatten()
            score = self.t.square().sum(0) / d.clamp_min(DEFICIENT)
            return torch.where(self.inside | (d > DEFICIENT), score, 0)
        f = half_inverse(blocks)
        return (f.mT @ (t @ t.mT) @ f).diagonal(dim1=1, dim2=2).sum(1)

    def sweep(self, unit: int) -> None:
        """Bring a unit in, or take it out."""
        slot = int(self.slot[unit])
        if slot < 0:
            return
        k = self.block
        mine = slice(slot * k, slot * k + k)
        sign = -1.0 if self.inside[slot] else 1.0
        # Directions of a block that bring nothing new are left where they are, in and out alike.
        f = half_inverse(sign * self.a[mine, mine])
        d = sign * (f @ f.mT)
        row, left = self.a[mine].clone(), self.t[:, mine].clone()
        right = d @ row
        self.a.addmm_(row.mT, right, alpha=-1)
        self.t.addmm_(left, right, alpha=-1)
        self.a[mine] = sign * right
        self.a[:, mine] = sign * right.mT
        self.a[mine, mine] = -d
        self.t[:, mine] = sign * (left @ d)
        self.inside[slot] = ~self.inside[slot]
