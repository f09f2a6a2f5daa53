"""How good a set of units can be at best, and how close to submodular the objective is.

All bounds speak of the value of `pursuit` (same ridge): no set of n units, with any refit, has a smaller one.
 - rank: n units add at most n x block columns, so the fitted output has at most that rank, and loses at least the
   tail of the eigenvalues of T H^-1 T^T (Eckart-Young on the rows, extended by the ridge's rows);
 - data: f(S) + (sum of the n largest gains behind S) / gamma, gamma the submodularity ratio behind S (Das and Kempe);
 - removal: leaving out m units costs at least what leaving out any one of them costs, hence at least the
   m-th smallest single cost; and at least sum of costs / mu, mu the largest eigenvalue of the
   block-normalised H^-1, because cost(R) = |W_R B^-T|^2 in the metric of (B^-1 H^-1_RR B^-T)^-1.
Base columns are projected out before either. Consumers: a sum of lower bounds is one.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sprig.core.errors import InputError
from sprig.greedy.ratios import Ratio, weakest_ratio
from sprig.methods.greedy.elimination import Elimination, Start
from sprig.methods.greedy.problem import RIDGE, ConsumerProblem, any_half_inverse, half_inverse
from sprig.methods.greedy.pursuit import RefitObjective, inverted, value


def floor(
    problems: Sequence[ConsumerProblem], size: int, *, ridge: float = RIDGE, removal: bool = True
) -> tuple[float, ...]:
    """For n = 0..size: a lower bound on the relative error of any n units; non-increasing.

    removal: include the removal bounds, about twice the time; without them the bound is that of the rank alone.
    """
    objective = RefitObjective(problems, size, ridge=ridge)
    rank = torch.zeros(size + 1, dtype=torch.float64)
    cost, softened = (torch.zeros(size, dtype=torch.float64) for _ in range(2))
    full = 0.0
    for start, power in zip(objective.starts(), objective.powers, strict=True):
        tail = _rank_tail(start, power, size)
        rank += tail
        full += float(tail[-1])
        if removal and len(start.p):
            try:
                back = inverted(start, ridge)
            except (
                InputError
            ):  # dependent columns: some removal is free, the rank bound stands alone
                continue
            mine = torch.zeros(size, dtype=torch.float64)
            mine[start.units] = Elimination(back, size).gains()
            cost += mine
            softened += mine / _largest(_normalised(back))
    cost, softened = cost.sort().values, softened.sort().values
    removed = torch.cat(
        [torch.zeros(1, dtype=torch.float64), torch.maximum(cost, softened.cumsum(0))]
    )
    # Rounding must never lift a bound above the truth.
    bound = torch.maximum(rank, full + removed.flip(0)) - 1e-12 * objective.power
    bound = bound.clamp_min(0).cummin(0).values / (objective.power or 1.0)
    return tuple(bound.tolist())


def _rank_tail(start: Start, power: float, size: int) -> Tensor:
    """(size + 1,) what any n units leave unexplained at least, by rank."""
    factor, info = torch.linalg.cholesky_ex(start.p)
    if len(start.p) and not int(info) and float(factor.diagonal().min()) ** 2 > 1e-12:
        x = torch.linalg.solve_triangular(factor, start.q.mT, upper=False)
    else:
        x = half_inverse(start.p).mT @ start.q.mT
    values = torch.linalg.eigvalsh(x.mT @ x).clamp_min(0).flip(0)
    explained = torch.cat([values.new_zeros(1), values.cumsum(0)])
    ranks = (torch.arange(size + 1) * start.block).clamp_max(len(values))
    return (power - start.base - explained[ranks]).clamp_min(0)


def _normalised(back: Start) -> Tensor:
    """P^-1 with identity diagonal blocks."""
    u, k = len(back.units), back.block
    blocks = back.p.view(u, k, u, k).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    f = half_inverse(blocks, cutoff=0.0)
    half = (f.mT @ back.p.view(u, k, u * k)).view(u * k, u * k)
    return (f.mT @ half.mT.reshape(u, k, u * k)).view(u * k, u * k)


def _largest(matrix: Tensor) -> float:
    """An upper bound, proven by a factorisation, on the largest eigenvalue; within 1% where power iteration is."""
    x = torch.ones(len(matrix), dtype=matrix.dtype)
    for _ in range(30):
        x = matrix @ (x / x.norm())
    guess = float(x.norm()) * 1.01
    sure = float(matrix.abs().sum(1).max())  # Gershgorin
    while guess < sure:
        shifted = -matrix
        shifted.diagonal().add_(guess)
        if not int(torch.linalg.cholesky_ex(shifted).info):
            return guess
        guess *= 1.1
    return sure


def submodularity_ratio(
    problems: Sequence[ConsumerProblem],
    picks: Sequence[int],
    *,
    size: int,
    ridge: float = RIDGE,
    most: int = 2000,
    generator: torch.Generator | None = None,
    levels: Sequence[int] | None = None,
) -> Ratio:
    """min over prefixes L of the picks and sets S outside L, |S| <= |picks|, of (sum of single gains) / (joint gain).

    That is what the guarantee of greedy selection needs (Das and Kempe). Enumerated when there are at most `most`
    pairs; otherwise `most` random ones, for which a generator is needed, and the record says so. levels: lengths of the
    prefixes, all shorter than the picks if None.
    """
    starts = RefitObjective(problems, size, ridge=ridge).starts()

    def after(beginning: Sequence[int]) -> Callable[[Sequence[int]], tuple[float, float]]:
        states = [_after(start, beginning, size) for start in starts]
        single = [_gains(s, p, q, size) for s, (p, q, _, _) in zip(starts, states, strict=True)]

        def pair(chosen: Sequence[int]) -> tuple[float, float]:
            joint = alone = 0.0
            for (p, q, slot, k), gains in zip(states, single, strict=True):
                slots = slot[torch.as_tensor(chosen)]
                slots = slots[slots >= 0]
                joint += _explained(p, q, slots, k)
                alone += float(gains[slots].sum())
            return alone, joint if joint > 1e-12 else 0.0

        return pair

    return weakest_ratio(after, picks, size=size, most=most, generator=generator, levels=levels)


class Reach(NamedTuple):
    """What a set of units explains of the consumers' power, and what is known of the best set of as many."""

    reached: float  # f(S)
    whole: float  # f of all units: no set explains more
    further: float  # the sum of the |S| largest gains behind S

    def ceiling(self, ratio: float) -> float:
        """No set of as many units explains more: f(S) + (sum of the largest gains) / ratio, or all there is."""
        if ratio <= 0:  # units that bring nothing one by one may bring much together
            return self.whole
        return min(self.whole, self.reached + max(self.further, 0.0) / ratio)


def reach(
    problems: Sequence[ConsumerProblem],
    picks: Sequence[int],
    *,
    size: int,
    ridge: float = RIDGE,
) -> Reach:
    """Of one set; all parts as shares of the power that the value of `pursuit` is relative to."""
    objective = RefitObjective(problems, size, ridge=ridge)
    gains = torch.zeros(size, dtype=torch.float64)
    for start in objective.starts():
        p, q, _, _ = _after(start, picks, size)
        gains[start.units] += _gains(start, p, q, size)
    gains[list(picks)] = 0.0
    tops = gains.sort(descending=True).values[: len(picks)].sum()
    errors = [value(problems, s, size=size, ridge=ridge) for s in ((), picks, range(size))]
    return Reach(
        errors[0] - errors[1], errors[0] - errors[2], float(tops) / (objective.power or 1.0)
    )


def _after(start: Start, picks: Sequence[int], size: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """P and Q once `picks` are taken."""
    k = start.block
    slot = torch.full((size,), -1)
    slot[start.units] = torch.arange(len(start.units))
    taken = slot[torch.as_tensor(list(picks), dtype=torch.int64)]
    columns = (taken[taken >= 0][:, None] * k + torch.arange(k)).flatten()
    f = any_half_inverse(start.p[columns][:, columns])
    v, b = f.mT @ start.p[columns], start.q[:, columns] @ f
    return start.p - v.mT @ v, start.q - b @ v, slot, k


def _gains(start: Start, p: Tensor, q: Tensor, size: int) -> Tensor:
    """What the unit of each slot explains by itself."""
    return Elimination(start._replace(p=p, q=q), size).gains()


def _explained(p: Tensor, q: Tensor, slots: Tensor, k: int) -> float:
    columns = (slots[:, None] * k + torch.arange(k)).flatten()
    return float((q[:, columns] @ any_half_inverse(p[columns][:, columns])).square().sum())
