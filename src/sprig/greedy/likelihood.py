"""Logistic regression: f(S) = best mean log-likelihood with the columns S, above that of the intercept alone.

Every gain is exact: each candidate is refitted by Newton's method from the weights of the current set, all candidates
of a chunk side by side. A ridge keeps the optimum finite where the classes can be separated:
g(w) = mean_i [y_i z_i - log(1 + e^z_i)] - ridge/2 |w|^2, z = X_S w + b, the intercept b free. f is monotone, and weakly
submodular with the ratio of g's strong concavity to its smoothness (Elenberg et al. 2018).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sprig.core.errors import DivergenceError, InputError
from sprig.greedy.leastsquares import centred, numbers

STUCK = 1e-9  # the same decrement where no step helps any more: above it the fit has failed
CHUNK = 4_000_000  # numbers held at once while candidates are refitted
DECREMENT = (
    1e-13  # half the squared Newton decrement at which a fit is done: its distance from the optimum
)


@dataclass(frozen=True)
class Fitted:
    """A fitted set: its columns, their weights and the intercept behind them, and its log-likelihood."""

    picks: tuple[int, ...]
    weights: Tensor  # (t + 1,)
    likelihood: float


class LogLikelihood:
    """f(S) = mean log-likelihood of a logistic regression on the columns S, above that of the intercept alone.

    x: (n, d), best of similar scale; y: (n,), two classes: 0/1, False/True or any two values. ridge: strength of the
    penalty, per row; steps: Newton steps that a fit may take.

    >>> from sprig.greedy import LogLikelihood, maximise
    >>> x = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
    >>> found = maximise(LogLikelihood(x, x[:, 4] + x[:, 1] > 0), 2)
    >>> sorted(found.picks), found.value < LogLikelihood(x, x[:, 4] + x[:, 1] > 0).ceiling
    ([1, 4], True)
    """

    diminishing = False

    def __init__(self, x: Tensor, y: Tensor, *, ridge: float = 1e-4, steps: int = 100) -> None:
        # with a free intercept no fit changes by it, and digits are kept
        self.x = centred(numbers(x, "x", 2))
        labels = torch.as_tensor(y).detach()
        if labels.is_floating_point() and not bool(labels.isfinite().all()):
            raise InputError("y holds values that are not finite numbers")
        classes = labels.unique()
        if labels.shape != (len(self.x),) or len(classes) != 2:
            raise InputError(
                f"y needs one of two classes per row of x ({len(self.x)}), found shape "
                f"{tuple(labels.shape)} with {len(classes)} different values"
            )
        if not ridge > 0:
            raise InputError(
                f"ridge must be above 0, so that separable classes have a fit; found {ridge}"
            )
        self.y = (labels == classes[1]).to(torch.float64)
        self.ridge, self.steps = ridge, steps
        self.size = self.x.shape[1]
        share = float(self.y.mean())
        self.nothing = share * math.log(share) + (1 - share) * math.log(1 - share)
        self.ceiling = -self.nothing  # a log-likelihood is at most 0
        self.offset = math.log(share / (1 - share))

    def start(self) -> Fitted:
        weights = torch.tensor([self.offset], dtype=torch.float64)
        return Fitted((), weights, self.nothing)

    def gains(self, state: Fitted, candidates: Tensor) -> Tensor:
        return self._with(state, candidates)[0] - state.likelihood

    def add(self, state: Fitted, pick: int) -> Fitted:
        likelihood, weights = self._with(state, torch.tensor([int(pick)]))
        # the columns in the order of the picks, then the intercept
        fitted = torch.cat([weights[0, :-2], weights[0, -1:], weights[0, -2:-1]])
        return Fitted((*state.picks, int(pick)), fitted, float(likelihood[0]))

    def value(self, state: Fitted) -> float:
        return state.likelihood - self.nothing

    def of(self, items: Sequence[int]) -> Fitted:
        """The state of a set, fitted in one go."""
        picks = tuple(int(i) for i in items)
        begin = torch.zeros(1, len(picks) + 1, dtype=torch.float64)
        begin[:, -1] = self.offset
        likelihood, weights = self._fit(self._columns(picks), begin, torch.ones_like(begin))
        return Fitted(picks, weights[0], float(likelihood[0]))

    def eliminate(self, items: Sequence[int]) -> "_Thinned":
        """For taking columns out, every smaller set refitted from the weights of the larger."""
        return _Thinned(self, self.of(sorted(int(i) for i in items)))

    def _columns(self, picks: Sequence[int]) -> Tensor:
        """(n, t + 1) the columns and the intercept."""
        chosen = self.x[:, torch.as_tensor(list(picks), dtype=torch.int64)]
        return torch.cat([chosen, torch.ones(len(chosen), 1, dtype=chosen.dtype)], 1)

    def _with(self, state: Fitted, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """(c,) log-likelihoods with each candidate, (c, t + 2) weights: columns, intercept, candidate."""
        base = self._columns(state.picks)
        out = []
        for some in candidates.split(self._chunk(base.shape[1])):
            begin = torch.cat([state.weights, state.weights.new_zeros(1)]).expand(len(some), -1)
            out.append(self._fit(base, begin, torch.ones_like(begin), self.x[:, some].mT))
        if not out:
            return torch.zeros(0, dtype=torch.float64), state.weights[:0].expand(0, -1)
        return torch.cat([a for a, _ in out]), torch.cat([b for _, b in out])

    def without(self, state: Fitted) -> tuple[Tensor, Tensor]:
        """(t,) log-likelihoods without each pick, (t, t + 1) weights, 0 where it was."""
        base, t = self._columns(state.picks), len(state.picks)
        free = 1 - torch.eye(t, t + 1, dtype=torch.float64)
        out = [
            self._fit(base, state.weights * some, some)
            for some in free.split(self._chunk(t + 1))
            if t
        ]
        if not out:
            return torch.zeros(0, dtype=torch.float64), free
        return torch.cat([a for a, _ in out]), torch.cat([b for _, b in out])

    def _chunk(self, columns: int) -> int:
        return max(1, CHUNK // (len(self.x) * columns))

    def _fit(
        self, base: Tensor, begin: Tensor, free: Tensor, extra: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Newton's method for c fits at once, each with the columns of `base` (n, p) and one of its own (c, n).

        begin, free: (c, q) weights to start from and 1 where they may move; base has the intercept last.
        """
        p, weights = base.shape[1], begin * free
        penalty = torch.full((weights.shape[1],), self.ridge, dtype=torch.float64)
        penalty[p - 1] = 0.0
        value = self._objective(base, weights, extra, penalty)
        active = torch.arange(len(weights))
        for _ in range(self.steps):
            own = None if extra is None else extra[active]
            gradient, hessian = self._slopes(base, weights[active], own, penalty)
            gradient, mask = gradient * free[active], free[active]
            hessian = hessian * mask[:, :, None] * mask[:, None]
            hessian.diagonal(dim1=1, dim2=2).add_(1 - mask)
            solved, failed = torch.linalg.solve_ex(hessian, gradient[..., None])
            if bool(failed.any()):
                raise DivergenceError(self._advice(int(failed.count_nonzero())))
            step = solved[..., 0]
            decrement = (gradient * step).sum(1) / 2
            far = decrement > DECREMENT
            # the last step is taken too: it halves nothing, and doubles the digits
            length = torch.ones(len(active), 1, dtype=torch.float64)
            for _ in range(50):
                tried = weights[active] + length * step
                reached = self._objective(base, tried, own, penalty)
                short = far & (reached < value[active] + 0.25 * length[:, 0] * decrement)
                if not bool(short.any()):
                    break
                length[short] /= 2
            better = reached > value[active]
            weights = weights.index_put((active[better],), tried[better])
            value = value.index_put((active[better],), reached[better])
            stuck = ~better & (decrement > STUCK)
            if bool(stuck.any()):
                raise DivergenceError(self._advice(int(stuck.count_nonzero())))
            active = active[far & better]
            if not len(active):
                return value, weights
        raise DivergenceError(self._advice(len(active)))

    def _advice(self, many: int) -> str:
        return (
            f"{many} logistic fits have not settled after {self.steps} Newton steps or less; scale the columns of x "
            "alike, or raise ridge"
        )

    def _margins(self, base: Tensor, weights: Tensor, extra: Tensor | None) -> Tensor:
        z = weights[:, : base.shape[1]] @ base.mT
        return z if extra is None else z + weights[:, -1:] * extra

    def _objective(
        self, base: Tensor, weights: Tensor, extra: Tensor | None, penalty: Tensor
    ) -> Tensor:
        z = self._margins(base, weights, extra)
        return (self.y * z - softplus(z)).mean(1) - (weights.square() @ penalty) / 2

    def _slopes(
        self, base: Tensor, weights: Tensor, extra: Tensor | None, penalty: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(c, q) gradient of g and (c, q, q) minus its second derivative."""
        n, chance = len(base), torch.sigmoid(self._margins(base, weights, extra))
        rest, bend = (self.y - chance) / n, chance * (1 - chance) / n
        gradient = rest @ base
        hessian = (base.mT * bend[:, None]) @ base
        if extra is not None:
            side = (bend * extra) @ base
            corner = (bend * extra.square()).sum(1)
            gradient = torch.cat([gradient, (rest * extra).sum(1, keepdim=True)], 1)
            hessian = torch.cat(
                [
                    torch.cat([hessian, side[:, :, None]], 2),
                    torch.cat([side, corner[:, None]], 1)[:, None],
                ],
                1,
            )
        return gradient - weights * penalty, hessian + torch.diag(penalty)


class _Thinned:
    """A shrinking set of columns of a logistic regression."""

    def __init__(self, objective: LogLikelihood, state: Fitted) -> None:
        self.objective, self.state = objective, state
        self._known: tuple[Tensor, Tensor] | None = None

    @property
    def items(self) -> Tensor:
        return torch.tensor(self.state.picks, dtype=torch.int64)

    def _without(self) -> tuple[Tensor, Tensor]:
        if self._known is None:
            self._known = self.objective.without(self.state)
        return self._known

    def losses(self) -> Tensor:
        return self.state.likelihood - self._without()[0]

    def drop(self, item: int) -> None:
        likelihood, weights = self._without()
        at = self.state.picks.index(item)
        stay = [i for i in range(weights.shape[1]) if i != at]
        left = self.state.picks[:at] + self.state.picks[at + 1 :]
        self.state = Fitted(left, weights[at, stay], float(likelihood[at]))
        self._known = None
