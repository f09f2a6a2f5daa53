"""Least squares: f(S) = R2 of the regression of the target on the columns in S; exact gains, exact removal.

Letters: x_j unit columns (n,) of X (n, d), Y (n, m) targets with |Y|^2 = 1; Q (n, r) orthonormal basis of the picked
columns, r_j and R what is left of x_j and Y behind it. Then f(S + j) - f(S) = |r_j' Y|^2 / |r_j|^2, and adding
u = r_j / |r_j| to Q changes r_i' Y by -(x_i' u)(u' Y) and |r_i|^2 by -(x_i' u)^2: one pass over X per pick. This is
forward selection, not orthogonal matching pursuit, which leaves out the denominator.

Das and Kempe 2011: f is monotone and weakly submodular, with a ratio of at least the smallest eigenvalue of X'X.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sprig.core.errors import InputError

DEPENDENT = 1e-7  # share of a column's length that must be left for it to count as new
ROUNDING = 1e-13  # |r_j' Y| below this is 0: what is left behind a perfect fit must not order items
STALE = 1e-3  # share of |r_j|^2 below which a running difference is computed afresh


@dataclass(frozen=True)
class Fit:
    """Where a selection stands."""

    picks: tuple[int, ...]
    basis: Tensor  # (n, r)
    cross: Tensor  # (d, m) r_j' Y
    power: Tensor  # (d,) |r_j|^2
    fresh: Tensor  # (d,) |r_j|^2 when it was last computed directly
    explained: float


class LeastSquares:
    """f(S) = R2 of y on the columns S of x, with an intercept unless `center` is False.

    x: (n, d); y: (n,) or (n, m), several targets count by their variance. Columns that are constant, or a
    combination of picked ones, bring 0.

    >>> from sprig.greedy import LeastSquares, maximise
    >>> x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    >>> maximise(LeastSquares(x, 3 * x[:, 5] - x[:, 2]), 2).picks
    (5, 2)
    """

    diminishing = False  # a column may gain by its suppressors
    ceiling = 1.0

    def __init__(self, x: Tensor, y: Tensor, *, center: bool = True) -> None:
        x, y = numbers(x, "x", 2), numbers(y, "y", 1, 2)
        y = y[:, None] if y.ndim == 1 else y
        if len(x) != len(y):
            raise InputError(f"x has {len(x)} rows, y has {len(y)}: one target per row is needed")
        if center:
            x, y = centred(x), centred(y)
        x, y = _of_size_one(x), y / (y.abs().max() or 1.0)  # squares neither vanish nor overflow
        length = x.norm(dim=0)
        if not float(y.norm()) > 0:
            raise InputError("y is constant: there is nothing to explain")
        self.x = x / torch.where(length > 0, length, 1.0)
        self.y = y / y.norm()
        self.size = x.shape[1]

    def start(self) -> Fit:
        power = self.x.square().sum(0)
        return Fit((), self.x[:, :0], self.x.mT @ self.y, power, power, 0.0)

    def gains(self, state: Fit, candidates: Tensor) -> Tensor:
        power = state.power[candidates]
        seen = state.cross[candidates].square().sum(1)
        gains = seen / power.clamp_min(DEPENDENT**2)
        gains[(power <= DEPENDENT**2) | (seen <= ROUNDING**2)] = 0.0
        return gains

    def add(self, state: Fit, pick: int) -> Fit:
        left = _behind(state.basis, self.x[:, [pick]])
        length = left.norm()
        picks = (*state.picks, int(pick))
        if float(length) <= DEPENDENT:
            return Fit(picks, state.basis, state.cross, state.power, state.fresh, state.explained)
        u = left / length
        seen, target = (self.x.mT @ u)[:, 0], u.mT @ self.y
        return self._settled(
            picks,
            torch.cat([state.basis, u], 1),
            state.cross - seen[:, None] * target,
            (state.power - seen.square()).clamp_min(0),
            state.fresh,
            state.explained + float(target.square().sum()),
        )

    def value(self, state: Fit) -> float:
        return min(state.explained, 1.0)

    def of(self, items: Sequence[int]) -> Fit:
        """The state of a set."""
        basis, _ = independent(self.x[:, torch.as_tensor(list(items), dtype=torch.int64)])
        seen, target = basis.mT @ self.x, basis.mT @ self.y
        whole = self.x.square().sum(0)
        return self._settled(
            tuple(int(i) for i in items),
            basis,
            self.x.mT @ self.y - seen.mT @ target,
            (whole - seen.square().sum(0)).clamp_min(0),
            whole,
            float(target.square().sum()),
        )

    def worth(self, items: Sequence[int]) -> float:
        """f of a set, without its state."""
        basis, _ = independent(self.x[:, torch.as_tensor(list(items), dtype=torch.int64)])
        return min(float((basis.mT @ self.y).square().sum()), 1.0)

    def eliminate(self, items: Sequence[int]) -> "Regression":
        """For taking columns out, by down-dates of the inverse of X'X."""
        return Regression(self, items)

    def spectral(self) -> tuple[float, float]:
        """Proven lower bounds on the submodularity ratio and the subadditivity ratio of every set, from the eigenvalues
        of X'X (unit columns): the smallest, and the smallest over the largest. 0 where columns depend on each other.
        """
        values = torch.linalg.eigvalsh(self.x.mT @ self.x)
        low, high = float(values[0]), float(values[-1])
        low = low - 1e-14 * len(values) * high  # rounding must not lift a bound above the truth
        return (low, low / high) if low > 0 and len(self.x) >= self.size else (0.0, 0.0)

    def _settled(
        self,
        picks: tuple[int, ...],
        basis: Tensor,
        cross: Tensor,
        power: Tensor,
        fresh: Tensor,
        explained: float,
    ) -> Fit:
        """Compute directly what has lost too many digits to running differences."""
        stale = ((power < STALE * fresh) & (fresh > DEPENDENT**2)).nonzero().flatten()
        if len(stale):
            left = _behind(basis, self.x[:, stale])
            cross, power, fresh = cross.clone(), power.clone(), fresh.clone()
            cross[stale] = left.mT @ self.y
            power[stale] = fresh[stale] = left.square().sum(0)
        return Fit(picks, basis, cross, power, fresh, explained)


class Regression:
    """A shrinking set of columns. B, the first of them that do not depend on those before, carry the fit; the others
    are combinations of B and are missed by nobody. With G = (B'B)^-1 and w the weights on B, leaving out column i of B
    costs |w_i|^2 / G_ii; then G loses g_i g_i' / G_ii and w loses g_i w_i / G_ii. The highest number that costs nothing
    is never in B, so backward elimination never has to build B again for want of a column.
    """

    def __init__(self, objective: LeastSquares, items: Sequence[int]) -> None:
        self.objective = objective
        self.items = torch.tensor(sorted(int(i) for i in items), dtype=torch.int64)
        self._factor()

    def _factor(self) -> None:
        x = self.objective.x[:, self.items]
        basis, at = independent(x)
        self.carries = torch.zeros(len(self.items), dtype=torch.bool)
        self.carries[at] = True
        root = torch.linalg.solve_triangular(
            basis.mT @ x[:, at], torch.eye(len(at), dtype=x.dtype), upper=True
        )
        self.inverse = root @ root.mT
        self.weights = root @ (basis.mT @ self.objective.y)
        self.mixed = root @ (basis.mT @ x[:, ~self.carries])  # (b, others): x_other = B mixed

    def losses(self) -> Tensor:
        costs = self.weights.square().sum(1) / self.inverse.diagonal()
        costs[(self.mixed.abs() > DEPENDENT).any(1)] = 0.0  # another column can stand in
        out = torch.zeros(len(self.items), dtype=torch.float64)
        out[self.carries] = costs
        return out

    def drop(self, item: int) -> None:
        at = int((self.items == item).nonzero()[0])
        column = int(self.carries[:at].sum())
        stay = torch.arange(len(self.items)) != at
        if not bool(self.carries[at]):
            self.mixed = self.mixed[:, torch.arange(self.mixed.shape[1]) != at - column]
        elif bool((self.mixed[column].abs() > DEPENDENT).any()) or self._worn(column):
            self.items = self.items[stay]
            self._factor()
            return
        else:
            g = self.inverse[:, column]
            rest = torch.arange(len(g)) != column
            self.weights = (self.weights - g[:, None] * (self.weights[column] / g[column]))[rest]
            self.inverse = (self.inverse - torch.outer(g, g / g[column]))[rest][:, rest]
            self.mixed = self.mixed[rest]
        self.items, self.carries = self.items[stay], self.carries[stay]

    def _worn(self, column: int) -> bool:
        """Whether so much of some entry is taken away that its digits are too: then the factors are made anew."""
        g, diagonal = self.inverse[:, column], self.inverse.diagonal()
        after = diagonal - g.square() / g[column]
        after[column] = diagonal[column]
        return bool((after < STALE * diagonal).any())


def independent(x: Tensor) -> tuple[Tensor, Tensor]:
    """An orthonormal basis (n, r) of unit columns, and which carry it: each that the ones before do not span."""
    if not x.shape[1]:
        return x, torch.zeros(0, dtype=torch.int64)
    if x.shape[1] <= len(x):
        basis, upper = torch.linalg.qr(x)
        if float(upper.diagonal().abs().min()) > DEPENDENT:
            return basis, torch.arange(x.shape[1])
    basis, at = x[:, :0], []
    for column in range(x.shape[1]):
        left = _behind(basis, x[:, [column]])
        if float(left.norm()) > DEPENDENT:
            basis = torch.cat([basis, left / left.norm()], 1)
            at.append(column)
    return basis, torch.tensor(at, dtype=torch.int64)


def _behind(basis: Tensor, columns: Tensor) -> Tensor:
    """What is left of columns behind a basis; projected out twice, so that it is orthogonal to the last digit."""
    left = columns - basis @ (basis.mT @ columns)
    return left - basis @ (basis.mT @ left)


def centred(values: Tensor) -> Tensor:
    """Without the mean; exactly 0 where only rounding is left."""
    out = values - values.mean(0)
    flat = out.abs().amax(0) <= 1e-12 * values.abs().amax(0)
    return torch.where(flat, 0.0, out)


def _of_size_one(columns: Tensor) -> Tensor:
    """Every column over its largest entry."""
    most = columns.abs().amax(0)
    return columns / torch.where(most > 0, most, 1.0)


def numbers(values: Tensor, name: str, *dims: int) -> Tensor:
    """As float64 without a gradient, checked."""
    out = torch.as_tensor(values).detach().to(torch.float64)
    if out.ndim not in dims or not out.numel():
        raise InputError(
            f"{name} has shape {tuple(out.shape)}, expected {dims[-1]} dimensions at most, not empty"
        )
    if not bool(out.isfinite().all()):
        raise InputError(f"{name} holds values that are not finite numbers")
    return out
