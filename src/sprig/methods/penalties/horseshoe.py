"""Horseshoe-type: minus the logarithm of a density with a pole at zero and heavy tails.

The density is the horseshoe-like one of Bhadra et al. (2019), log(1 + a^2 / w^2), which has the pole and the tails of
the horseshoe of Carvalho et al. (2010) in closed form. With u = w^2 + e^2, which rounds the pole off:

    value = s sum [ log L(0) - log L(w) ],   L = log(1 + a^2 / u);     push = s 2 w a^2 / (u (u + a^2) L).

s → strength, a → scale, e → floor. The value is 0 at zero and grows without bound, ever more slowly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sprig.methods.penalties.kinds import Pull
from sprig.methods.penalties.listwise import State, check, total

ROUNDS = 40  # halvings in the prox


@dataclass(frozen=True)
class Horseshoe(Pull):
    """Pulls small weights hard and large ones hardly.

    >>> push = Horseshoe(strength=1.0).push([torch.tensor([0.02, 2.0])], {})[0]
    >>> bool(push[0] > 20 * push[1])
    True
    """

    strength: float = 1e-5  # of the whole penalty
    scale: float = 0.05  # size of a weight that separates small from large
    floor: float = 0.005  # size below which the pull fades: the pole is rounded off
    mode: Literal["push", "prox"] = "push"  # through the gradient, or after the step

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            scale=(self.scale, self.scale > 0, "more than 0"),
            floor=(self.floor, self.floor > 0, "more than 0"),
        )

    def _pull(self, weight: Tensor) -> Tensor:
        """push / w: positive, falling in |w|."""
        u, a2 = weight.square() + self.floor**2, self.scale**2
        return 2 * self.strength * a2 / (u * (u + a2) * (a2 / u).log1p())

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        return [self._pull(w) * w for w in weights]

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        """A local minimum by halving: the slope is below zero at 0 and not below it at |w|."""
        found = []
        for w in weights:
            size = w.abs()
            low, high = torch.zeros_like(size), size
            for _ in range(ROUNDS):
                middle = (low + high) / 2
                above = middle - size + lr * self._pull(middle) * middle > 0
                low, high = torch.where(above, low, middle), torch.where(above, middle, high)
            found.append(torch.copysign((low + high) / 2, w) if self.strength > 0 else w.clone())
        return found

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        e2, a2 = self.floor**2, self.scale**2
        zero = math.log(math.log1p(a2 / e2))
        return self.strength * total(
            [zero - (a2 / (w.square() + e2)).log1p().log() for w in weights]
        )
