"""L1: every weight is pulled towards zero with the same force (Tibshirani 1996).

value = s sum |w|;  push = s sign(w);  prox = soft threshold by lr s.  s → strength.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sprig.methods.penalties.listwise import State, check, check_mode, soft, total


@dataclass(frozen=True)
class L1:
    """The lasso.

    >>> L1(strength=0.5).push([torch.tensor([2.0, -3.0])], {})
    [tensor([ 0.5000, -0.5000])]
    """

    strength: float = 5e-4  # pull on every weight
    mode: Literal["push", "prox"] = "push"  # through the gradient, or with exact zeros

    def __post_init__(self) -> None:
        check_mode(self.mode, ("push", "prox"))
        check(strength=(self.strength, self.strength >= 0, "at least 0"))

    @property
    def pushes(self) -> bool:
        return self.mode == "push"

    @property
    def proximal(self) -> bool:
        return self.mode == "prox"

    def init(self, weights: Sequence[Tensor]) -> State:
        return {}

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        out = list(torch._foreach_sign(list(weights)))
        torch._foreach_mul_(out, self.strength)
        return out

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        return soft(weights, lr * self.strength)

    def advance(self, weights: Sequence[Tensor], state: State, *, lr: float) -> State:
        return state

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        return self.strength * total([w.abs() for w in weights])
