"""Ridge: the control among penalties; it shrinks in proportion and makes nothing zero.

value = s/2 sum w^2;  push = s w;  prox = w / (1 + lr s).  s → strength. The same as weight decay on these weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sprig.methods.penalties.listwise import State, check, check_mode, total


@dataclass(frozen=True)
class Ridge:
    """Squared size.

    >>> Ridge(strength=0.5).prox([torch.tensor([3.0])], {}, lr=1.0)
    [tensor([2.])]
    """

    strength: float = 5e-4  # pull per size of the weight
    mode: Literal["push", "prox"] = "push"  # through the gradient, or after the step

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
        return list(torch._foreach_mul(list(weights), self.strength))

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        return list(torch._foreach_mul(list(weights), 1 / (1 + lr * self.strength)))

    def advance(self, weights: Sequence[Tensor], state: State, *, lr: float) -> State:
        return state

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        return self.strength / 2 * total([w.square() for w in weights])
