"""One consumer as a least-squares problem over units, and its exact refit.

Letters (per row, see core/stats.py): R = E[x x^T] and T = E[y x^T] of the *original* output y and the inputs x
as they are now, p = E[y^2]; centred when the consumer's bias (or the batch norm behind it) absorbs the means.
Ridge: H = R + lambda I with lambda = ridge x mean(diag R), the same for every set, so that errors of
different sets compare. With a diagonal output metric m >= 0 and a scale s, row o of T and p_o carry s m_o.
The error of keeping the columns K is then

    sum_o p_o - tr(T_K H_KK^-1 T_K^T)  =  min over W of  E|y - W x_K|^2 + lambda |W|^2   (metric-weighted).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sprig.core.errors import InputError
from sprig.core.stats import Moments

RIDGE = 1e-3


@dataclass(frozen=True, eq=False)
class ConsumerProblem:
    """What one consumer needs to know about its inputs for units of one group to be chosen.

    columns: (D,) the unit that each column belongs to, -1 for *base* columns that stay in any case.
    own: the consumer's weight (O, ...) when its own output on these inputs is the target; None when
        `moments` carry the target's cross moment.
    scale: the say of this consumer among those of its group; 1 / (number of consumers) / power gives each the same.
    metric: (O,) weights >= 0 of the outputs, e.g. (gamma / sigma)^2 of a following batch norm.
    centred: False where nothing behind the consumer absorbs a mean.
    """

    moments: Moments
    columns: Tensor
    own: Tensor | None = None
    scale: float = 1.0
    metric: Tensor | None = None
    centred: bool = True

    @property
    def name(self) -> str:
        return self.moments.name or "consumer"

    @property
    def targeted(self) -> Moments:
        """The moments with a target."""
        if self.own is not None:
            return self.moments.own(self.own)
        if not len(self.moments.target_mean):
            raise InputError(f"{self.name}: no target; give `own` or moments with targets")
        return self.moments

    def settled(self) -> "ConsumerProblem":
        """The same problem with the target worked out, so that it is worked out once."""
        return replace(self, moments=self.targeted, own=None)

    def weighed(self, metric: Tensor | None) -> "ConsumerProblem":
        """With another metric. One of all products, (O, O) = F F^T, turns the targets: the error is |F^T (y - W x)|^2.

        How much of the turned target no columns explain is then known without what it has in common between outputs
        (unless `own` is the target, of which nothing is left): a part of the error that is the same for every choice.
        """
        if metric is None or metric.dim() == 1:
            return replace(self, metric=metric)
        values, vectors = torch.linalg.eigh(metric.to(torch.float64))
        turn = (vectors * values.clamp_min(0.0).sqrt()).mT
        if self.own is not None:
            return replace(self, own=turn @ self.own.detach().flatten(1).to(turn), metric=None)
        old = self.moments
        target, second = old.cross.double(), old.second.double()
        left = (old.power - (divider(second)(target) * target).sum(1)).clamp_min(0.0)
        cross = turn @ target
        power = (divider(second)(cross) * cross).sum(1) + turn.square() @ left
        mean = turn @ old.target_mean
        moments = replace(old, target_mean=mean, cross=cross.to(old.cross), power=power)
        return replace(self, moments=moments, metric=None)

    def weights(self, outputs: int) -> Tensor:
        """(O,) scale x metric."""
        if not self.scale > 0:
            raise InputError(f"{self.name}: scale {self.scale} is not positive")
        if self.metric is None:
            return torch.full((outputs,), float(self.scale), dtype=torch.float64)
        metric = self.metric.detach().to(torch.float64)
        if metric.shape != (outputs,) or not bool(((metric >= 0) & metric.isfinite()).all()):
            raise InputError(f"{self.name}: the metric must be {outputs} finite weights >= 0")
        return metric * self.scale

    def units(self, size: int) -> Tensor:
        """`columns`, checked."""
        columns = torch.as_tensor(self.columns, dtype=torch.int64)
        inputs = len(self.moments.mean)
        if columns.shape != (inputs,):
            raise InputError(
                f"{self.name}: {inputs} inputs need as many unit numbers, found {tuple(columns.shape)}"
            )
        if inputs and (int(columns.min()) < -1 or int(columns.max()) >= size):
            raise InputError(f"{self.name}: unit numbers must be in -1..{size - 1}")
        return columns


class System(NamedTuple):
    """H, T and p of the module docstring; T and p weighted."""

    h: Tensor  # (D, D)
    t: Tensor  # (O, D)
    power: float
    ridge: float  # lambda


def columns_of(units: Sequence[Sequence[int] | Tensor], inputs: int) -> Tensor:
    """Unit numbers per column from the columns per unit; columns that no unit names are base.

    >>> columns_of([[0, 1], [4]], 5)
    tensor([ 0,  0, -1, -1,  1])
    """
    columns = torch.full((inputs,), -1)
    for unit, mine in enumerate(units):
        columns[torch.as_tensor(mine, dtype=torch.int64)] = unit
    return columns


def system(problem: ConsumerProblem, ridge: float) -> System:
    """The weighted least-squares system of one consumer."""
    extra = shrinkage(problem, ridge)
    h, t, p = problem.targeted.system(centred=problem.centred)
    weights = problem.weights(len(p)).to(p)
    h.diagonal().add_(extra)
    t *= weights.sqrt()[:, None]
    return System(h, t, float((p * weights).sum()), extra)


def shrinkage(problem: ConsumerProblem, ridge: float) -> float:
    """lambda = ridge x mean diagonal of R over *all* columns, live or not, kept or not."""
    if not 0 <= ridge < float("inf"):
        raise InputError(f"ridge {ridge}: must be a number >= 0")
    moments = problem.moments.check()
    variance = moments.second.diagonal() / moments.count
    if not problem.centred:
        variance = variance + moments.mean**2
    return ridge * float(variance.mean()) if len(variance) else 0.0


class Solution(NamedTuple):
    """The best weights on the columns that stay."""

    weight: Tensor  # (O, D), zero outside the columns that stay
    bias: Tensor  # (O,), see `solve`
    error: float  # lost part of the target's power, without the ridge term
    ridge_error: float  # the same with it: the value that selection lowers


def solve(
    problem: ConsumerProblem, keep: Tensor | Sequence[int], *, ridge: float = RIDGE
) -> Solution:
    """Refit the consumer on the columns `keep` (mask of length D, or their numbers).

    The bias is mean y - W mean x. It *replaces* the consumer's bias when the targets include the original
    bias (as a recorded output does), and is *added* to it when they do not (`ConsumerProblem.own`).
    Not centred: the bias is zero, nothing moves. Both errors are relative to the (metric-weighted) power.

    >>> x = torch.eye(4).repeat(3, 1)
    >>> moments = Moments.from_rows(x, x @ torch.ones(4, 1) + 2)
    >>> solution = solve(ConsumerProblem(moments, torch.arange(4)), [0, 1, 2, 3], ridge=0)
    >>> solution.bias + solution.weight.sum()  # the rows are all alike: only the mean is left
    tensor([3.], dtype=torch.float64)
    """
    return Refit(problem, keep, ridge=ridge).solution()


class Refit:
    """The solver of `solve`: the matrix of the columns that stay is factorised once, for any targets."""

    def __init__(
        self, problem: ConsumerProblem, keep: Tensor | Sequence[int], *, ridge: float = RIDGE
    ) -> None:
        self.problem = problem.settled()
        self.moments = self.problem.moments
        self.kept = _kept(keep, len(self.moments.mean))
        self.extra = shrinkage(problem, ridge)
        h, self._first, self._power = self.moments.taking(self.kept).system(centred=problem.centred)
        h.diagonal().add_(self.extra)
        self.divide = divider(h)

    def solution(self, moments: Moments | None = None) -> Solution:
        """The best weights for the problem's own targets, or for those of other moments on the same rows."""
        problem = self.problem
        t, power = self._first, self._power
        if moments is None:
            moments = self.moments
        else:
            t, power = moments.targets(self.kept, centred=problem.centred)
        # The metric scales targets and ridge alike, so each output's weights do not depend on it.
        weights = problem.weights(len(moments.target_mean)).to(moments.power)
        fitted = self.divide(t)
        weight = torch.zeros(moments.cross.shape, dtype=torch.float64)
        weight[:, self.kept] = fitted.double()
        explained = float((weights * (fitted * t).sum(1)).sum())
        penalty = self.extra * float((weights * fitted.square().sum(1)).sum())
        bias = torch.zeros_like(moments.target_mean)
        if problem.centred:
            bias = moments.target_mean - weight @ moments.mean
        total = float((power * weights).sum())
        lost = max(total - explained, 0.0)
        total = total or 1.0
        return Solution(weight, bias, max(lost - penalty, 0.0) / total, lost / total)


def _kept(keep: Tensor | Sequence[int], inputs: int) -> Tensor:
    kept = torch.as_tensor(keep)
    if kept.dtype == torch.bool:
        if kept.shape != (inputs,):
            raise InputError(f"a mask over {inputs} columns is needed, found {tuple(kept.shape)}")
        return kept.nonzero().flatten()
    kept = kept.to(torch.int64).unique()
    if len(kept) and (int(kept[0]) < 0 or int(kept[-1]) >= inputs):
        raise InputError(f"columns to keep must be in 0..{inputs - 1}")
    return kept


def divider(h: Tensor) -> Callable[[Tensor], Tensor]:
    """T -> T H^-1, by Cholesky on the unit-diagonal scale; the smallest such weights where H is singular."""
    root = inverse_root(h.diagonal())
    scaled = h * root[:, None] * root
    factor, info = torch.linalg.cholesky_ex(scaled)
    if int(info) == 0 and (not len(h) or float(factor.diagonal().min()) ** 2 > DEFICIENT):
        return lambda t: torch.cholesky_solve((t * root).mT, factor).mT * root
    f = half_inverse(scaled)
    return lambda t: ((t * root) @ f) @ f.mT * root


# On the unit-diagonal scale: a direction with less power than this is taken for rounding.
DEFICIENT = 1e-10


def inverse_root(diagonal: Tensor) -> Tensor:
    """1 / sqrt of a variance per column, 0 for dead columns."""
    live = diagonal > 1e-24 * diagonal.max() if len(diagonal) else diagonal > 0
    return torch.where(live, diagonal.clamp_min(1e-300).rsqrt(), 0.0)


def any_half_inverse(matrix: Tensor) -> Tensor:
    """Some F with F F^T = the pseudo-inverse: by Cholesky, several times as fast, where that is safe."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    if len(matrix) and not int(info) and float(factor.diagonal().min()) ** 2 > DEFICIENT:
        eye = torch.eye(len(matrix), dtype=matrix.dtype)
        return torch.linalg.solve_triangular(factor, eye, upper=False).mT
    return half_inverse(matrix)


def half_inverse(matrix: Tensor, *, cutoff: float = DEFICIENT) -> Tensor:
    """F with F F^T = the pseudo-inverse of a symmetric matrix (or batch), rounding-level directions cut."""
    values, vectors = torch.linalg.eigh(matrix)
    safe = torch.where(values > cutoff, values, 1.0).rsqrt()
    return vectors * torch.where(values > cutoff, safe, 0.0).unsqueeze(-2)
