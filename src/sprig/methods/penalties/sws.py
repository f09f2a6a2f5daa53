"""SWS, one shared coefficient for the whole network, learned with the weights.

value = xi / lambda^2 sum |w| + psi lambda^2;  at the best lambda, (xi sum |w| / psi)^(1/4), it is
2 sqrt(xi psi sum |w|).  xi → xi, psi → psi, lambda → the state's "coefficient".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sprig.methods.penalties.idle import path
from sprig.methods.penalties.listwise import State, check, check_mode, idle, precision, soft, total


@dataclass(frozen=True)
class Sws:
    """The lasso that finds its own strength.

    >>> sws = Sws(xi=1.0, psi=1.0, mode="closed")
    >>> float(sws.coefficient([torch.tensor([10.0, -6.0])], {}))
    2.0
    """

    xi: float = 1e-4  # of the weights' part
    psi: float = 1e-2  # of the coefficient's part
    start: float = 1.0  # first coefficient
    floor: float = 1e-3  # least coefficient
    rate: float = 1.0  # learning rate of the coefficient, in those of the weights
    momentum: float = 0.9  # of the coefficient
    mode: Literal["joint", "closed", "proximal"] = "joint"  # lambda by descent or by its formula
    remedy: ClassVar[str] = "raise xi and psi, or the rate of the coefficient"

    def __post_init__(self) -> None:
        check_mode(self.mode, ("joint", "closed", "proximal"))
        check(
            xi=(self.xi, self.xi >= 0, "at least 0"),
            psi=(
                self.psi,
                self.psi > 0 or (self.psi == 0 and self.mode != "closed"),
                "more than 0",
            ),
            start=(self.start, self.start > 0, "more than 0"),
            floor=(self.floor, self.floor > 0, "more than 0"),
            rate=(self.rate, self.rate >= 0, "at least 0"),
            momentum=(self.momentum, 0 <= self.momentum < 1, "in [0, 1)"),
        )
        if self.mode == "closed":
            idle(self, "start", "rate", "momentum", where="in mode closed, which takes no steps")

    @property
    def pushes(self) -> bool:
        return self.mode != "proximal"

    @property
    def proximal(self) -> bool:
        return self.mode == "proximal"

    def init(self, weights: Sequence[Tensor]) -> State:
        if self.mode == "closed":
            return {}
        first = weights[0].new_tensor(self.start, dtype=precision(weights))
        return {"coefficient": first, "velocity": torch.zeros_like(first)}

    @torch.no_grad()
    def coefficient(self, weights: Sequence[Tensor], state: State) -> Tensor:
        """Lambda as it is, or as it is best for these weights."""
        if self.mode != "closed":
            return state["coefficient"]
        size = total([w.abs() for w in weights])
        return (self.xi * size / self.psi).pow(0.25).clamp_min(self.floor)

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        out = list(torch._foreach_sign(list(weights)))
        torch._foreach_mul_(out, float(self.xi / self.coefficient(weights, state).square()))
        return out

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        return soft(weights, float(lr * self.xi / self.coefficient(weights, state).square()))

    @torch.no_grad()
    def advance(self, weights: Sequence[Tensor], state: State, *, lr: float) -> State:
        if self.mode == "closed":
            return state
        last = state["coefficient"]
        size = total([w.abs() for w in weights])
        slope = -2 * self.xi * size / last**3 + 2 * self.psi * last
        state["velocity"].mul_(self.momentum).add_(slope)
        last.sub_(lr * self.rate * state["velocity"]).clamp_min_(self.floor)
        return state

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        here = self.coefficient(weights, state).square()
        return self.xi / here * total([w.abs() for w in weights]) + self.psi * here

    def watched(self, weights: Sequence[Tensor], state: State) -> dict[str, float]:
        """For the log: the coefficient."""
        return {"coefficient": float(self.coefficient(weights, state))}

    def reach(
        self, weights: Sequence[Tensor], state: State, *, steps: float, lr: float, boost: float
    ) -> float:
        """What a weight of mean size can lose, in shares of it."""
        size = float(total([w.abs() for w in weights]))
        if size == 0:
            return 1.0
        if self.mode == "closed":
            passed = [float(self.coefficient(weights, state))]
        else:
            passed = path(
                lambda at: 2 * self.psi * at - 2 * self.xi * size / at**3,
                start=max(self.start, self.floor),
                least=self.floor,
                length=steps * lr * self.rate / (1 - self.momentum),
            )
        pull = self.xi * sum(at**-2 for at in passed) / len(passed)
        return steps * lr * boost * pull * sum(w.numel() for w in weights) / size
