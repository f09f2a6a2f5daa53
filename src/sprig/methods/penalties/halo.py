"""HALO, the hierarchical adaptive lasso (Seto, Wells, Zhang, SDM 2021): every weight learns how hard it is shrunk.

    value = sum_j [ xi |w_j| / l_j^2 + psi |l_j| + decay/2 l_j^2 ]        a small coefficient l_j shrinks hard
    push  = xi sign(w_j) / l_j^2            slope in l_j = -2 xi |w_j| / l_j^3 + psi + decay l_j

l_j → "coefficients", > 0; xi, psi → as in the paper; decay → the weight decay that the published configuration also
applies to the coefficients, without which its constants (1e-8) do nothing. Minimised over l_j the penalty is

    l_j = (2 xi |w_j| / psi)^(1/3)      a bridge of power 1/3 in |w_j|,   with decay = 0
    l_j = (2 xi |w_j| / decay)^(1/4)    a bridge of power 1/2,            with psi = 0.

mode "joint": coefficients by momentum SGD beside the weights, as published. "closed": the formula at every step, no
state. "proximal": as "joint", but the weights are soft-thresholded by lr xi / l_j^2 after the step: exact zeros.
Budget form: psi |sum l - N| instead of psi sum |l|, N → budget times the number of weights (so that 0 is the usual
form); `square` for psi n (mean l - budget)^2, a departure: the square of the paper, scaled to the slope of the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sprig.methods.penalties.coefficients import Law, best, descend, hyper_slope, hyper_value
from sprig.methods.penalties.listwise import State, precision, soft, total


@dataclass(frozen=True)
class Halo(Law):
    """A lasso with a learned strength per weight.

    >>> halo = Halo(xi=1.0, psi=2.0, mode="closed")
    >>> halo.coefficients([torch.tensor([8.0, -1.0])], {})
    [tensor([2., 1.])]
    """

    def init(self, weights: Sequence[Tensor]) -> State:
        return self.begin(weights)

    @torch.no_grad()
    def coefficients(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        """Lambda as it is, or as it is best for these weights."""
        if self.mode != "closed":
            return state["coefficients"]
        return [best(w.abs().to(precision([w])), self) for w in weights]

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        coefficients = self.coefficients(weights, state)
        out = list(torch._foreach_sign(list(weights)))
        torch._foreach_div_(out, coefficients)
        torch._foreach_div_(out, coefficients)
        torch._foreach_mul_(out, self.xi)
        return out

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        coefficients = self.coefficients(weights, state)
        threshold = torch._foreach_reciprocal(torch._foreach_mul(coefficients, coefficients))
        torch._foreach_mul_(threshold, lr * self.xi)
        return soft(weights, threshold)

    @torch.no_grad()
    def advance(self, weights: Sequence[Tensor], state: State, *, lr: float) -> State:
        if self.mode != "closed":
            sizes = list(torch._foreach_abs(list(weights)))
            slope = hyper_slope(state["coefficients"], self)
            descend(state["coefficients"], state["velocity"], sizes, self, slope=slope, lr=lr)
        return state

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        coefficients = self.coefficients(weights, state)
        pulled = total([w.abs() / c.square() for w, c in zip(weights, coefficients)])
        return self.xi * pulled + hyper_value(coefficients, self)

    def reach(
        self, weights: Sequence[Tensor], state: State, *, steps: float, lr: float, boost: float
    ) -> float:
        """What a weight of mean size can lose, in shares of it."""
        mean = float(total([w.abs() for w in weights])) / sum(w.numel() for w in weights)
        return self.worn(mean, steps=steps, lr=lr, boost=boost)
