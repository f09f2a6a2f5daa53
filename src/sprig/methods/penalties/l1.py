"""L1 and ridge: every weight is pulled towards zero, by one force for all or in proportion to itself.

L1, the lasso (Tibshirani 1996):   value = s sum |w|;    push = s sign(w);  prox = soft threshold by lr s
ridge (Hoerl and Kennard 1970):    value = s/2 sum w^2;  push = s w;        prox = w / (1 + lr s)

s → strength. Ridge is the control among penalties: weight decay, which makes nothing zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from sprig.methods.penalties.kinds import Pull
from sprig.methods.penalties.listwise import State, soft, total


class Lasso(Pull, Protocol):
    """L1 on whatever weights it is given."""

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        out = list(torch._foreach_sign(list(weights)))
        torch._foreach_mul_(out, self.strength)
        return out

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        return soft(weights, lr * self.strength)

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        return self.strength * total([w.abs() for w in weights])


@dataclass(frozen=True)
class L1(Lasso):
    """The lasso.

    >>> L1(strength=0.5).push([torch.tensor([2.0, -3.0])], {})
    [tensor([ 0.5000, -0.5000])]
    """

    strength: float = 5e-4  # pull on every weight
    mode: Literal["push", "prox"] = "push"  # through the gradient, or with exact zeros


@dataclass(frozen=True)
class Ridge(Pull):
    """Squared size.

    >>> Ridge(strength=0.5).prox([torch.tensor([3.0])], {}, lr=1.0)
    [tensor([2.])]
    """

    strength: float = 5e-4  # pull per size of the weight
    mode: Literal["push", "prox"] = "push"  # through the gradient, or after the step

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        return list(torch._foreach_mul(list(weights), self.strength))

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        return list(torch._foreach_mul(list(weights), 1 / (1 + lr * self.strength)))

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        return self.strength / 2 * total([w.square() for w in weights])
