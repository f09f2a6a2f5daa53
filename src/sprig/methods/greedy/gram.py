"""The quadratic of re-weighted channels: everything that the rules without refit need, in one U x U matrix.

Letters: z_i the contribution of unit i to its consumers' outputs, W_I x_I (all its kernel positions, all consumers);
r the target less what the base columns contribute; alpha_i the factor of unit i.

    G_ij = E<z_i, z_j> = sum over a in I, b in J of (W^T L W)_ab R_ab,    b_i = E<z_i, r>,
    E(alpha) = alpha' G alpha - 2 b' alpha + E|r|^2,

L the diagonal output metric. No z is ever formed: R is the inputs' second moment. With the consumers' own
output as target, b = G 1. Errors are relative to the power of the whole target, as in pursuit.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sprig.core.errors import InputError
from sprig.methods.greedy.problem import ConsumerProblem, system


@dataclass(frozen=True, eq=False)
class Gram:
    """G, b, E|r|^2, and the power of the whole target."""

    matrix: Tensor  # (U, U)
    cross: Tensor  # (U,)
    rest: float
    power: float

    @property
    def size(self) -> int:
        return len(self.cross)

    def error(self, alpha: Tensor) -> float:
        """Relative error of the factors alpha (U,)."""
        lost = alpha @ self.matrix @ alpha - 2 * (self.cross @ alpha) + self.rest
        return max(float(lost), 0.0) / (self.power or 1.0)


@dataclass(frozen=True, eq=False)
class AlphaPath:
    """A nested choice of units with the factor of each unit at every number of units.

    Units outside have factor 0; folding the factors into the consumers' weights removes them from the network.
    """

    order: tuple[int, ...]  # by first appearance; all units
    errors: tuple[float, ...]  # size + 1, relative
    alphas: Tensor  # (size + 1, size) float64

    def alpha(self, n: int) -> Tensor:
        """(size,) factors with at most n units."""
        return self.alphas[n]


def gram(
    problems: Sequence[ConsumerProblem], size: int, *, weights: Sequence[Tensor] | None = None
) -> Gram:
    """Sum the Gram of all consumers of a group.

    weights: what the consumers multiply with now, where the target is not their own output (`own` is None).

    >>> from sprig.core.stats import Moments
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> moments = Moments.from_rows(x)
    >>> g = gram([ConsumerProblem(moments, torch.arange(2), own=torch.ones(1, 2), centred=False)], 2)
    >>> g.matrix, g.error(torch.ones(2, dtype=torch.float64))
    (tensor([[0.5000, 0.0000],
            [0.0000, 2.0000]], dtype=torch.float64), 0.0)
    """
    if not problems:
        raise InputError("no consumer: there is nothing to select for")
    if weights is not None and len(weights) != len(problems):
        raise InputError(f"{len(problems)} consumers need as many weights, found {len(weights)}")
    total = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    cross = torch.zeros(size + 1, dtype=torch.float64)
    power = 0.0
    for number, problem in enumerate(problems):
        weight = problem.own if weights is None else weights[number]
        if weight is None:
            raise InputError(f"{problem.name}: give its present weights; only its target is known")
        r, t, p, _ = system(problem, 0.0)
        root = problem.weights(len(t)).sqrt()[:, None]
        w = weight.detach().flatten(1).to(r)
        if w.shape != t.shape:
            raise InputError(
                f"{problem.name}: weight of {tuple(w.shape)}, moments of {tuple(t.shape)}"
            )
        w = w * root
        unit = problem.units(size)
        unit = unit.masked_fill(unit < 0, size)
        by_row = torch.zeros(size + 1, len(unit), dtype=torch.float64)
        by_row.index_add_(0, unit, (w.mT @ w).mul_(r))
        total.index_add_(1, unit, by_row)
        cross.index_add_(0, unit, (w * t).sum(0))
        power += p
    rest = power - 2 * float(cross[-1]) + float(total[-1, -1])
    g = total[:-1, :-1]
    return Gram((g + g.mT) / 2, cross[:-1] - total[:-1, -1], max(rest, 0.0), power)


def atoms(g: Gram, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mean-type atoms phi_i = z_i / pi_i: (pi, live, K) with K_ij = <phi_i - r, phi_j - r>.

    kind "mean": pi_i = 1 / (number of live units), the network as the mean of its units, as published.
    "norm": pi_i in proportion to |z_i|, which makes all atoms equally long.
    Units that contribute nothing are not live and are left out of both.
    """
    if kind not in ("mean", "norm"):
        raise InputError(f"unknown atoms {kind!r}; known: mean, norm")
    norms = g.matrix.diagonal().clamp_min(0).sqrt()
    live = norms > 1e-12 * norms.max() if g.size else norms > 0
    pi = torch.full_like(norms, 1.0 / max(int(live.sum()), 1))
    if kind == "norm" and bool(live.any()):
        pi = torch.where(live, norms / norms[live].sum(), pi)
    b = g.cross / pi
    return pi, live, g.matrix / pi / pi[:, None] - b - b[:, None] + g.rest


class Recorder:
    """Keeps the best factors seen for every number of units."""

    def __init__(self, g: Gram) -> None:
        self.g, self.order = g, list[int]()
        self.errors = [g.error(torch.zeros_like(g.cross))] + [float("inf")] * g.size
        self.alphas = torch.zeros(g.size + 1, g.size, dtype=torch.float64)

    def see(self, pick: int, error: float, alpha: Tensor) -> None:
        """After a step: the pick, the relative error now, the factors now."""
        if pick not in self.order:
            self.order.append(pick)
        n = int((alpha != 0).sum())
        if error < self.errors[n]:
            self.errors[n] = error
            self.alphas[n] = alpha

    def path(self) -> AlphaPath:
        """All sizes; units never picked come last and have factor 0, sizes never met repeat the one below."""
        order = [*self.order, *(i for i in range(self.g.size) if i not in set(self.order))]
        for n in range(1, self.g.size + 1):
            if self.errors[n] == float("inf"):
                self.errors[n], self.alphas[n] = self.errors[n - 1], self.alphas[n - 1]
        return AlphaPath(tuple(order), tuple(self.errors), self.alphas)
