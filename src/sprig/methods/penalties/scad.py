"""SCAD, smoothly clipped absolute deviation (Fan and Li 2001): L1 near zero, then fading, then nothing.

Slope s up to |w| = t, falling in a line to 0 at a t, and 0 beyond. s → strength, t → threshold, a → a (3.7 in the
paper, where s = t: here the two are apart, since a training sets the scale of s and the weights that of t).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sprig.methods.penalties.kinds import Pull
from sprig.methods.penalties.listwise import State, check, least, total


@dataclass(frozen=True)
class Scad(Pull):
    """Large weights are left alone, middling ones a little less.

    >>> Scad(strength=1.0, threshold=1.0, a=3.0).push([torch.tensor([0.5, 2.0, 4.0])], {})
    [tensor([1.0000, 0.5000, 0.0000])]
    """

    strength: float = 5e-4  # pull at zero
    threshold: float = 0.05  # size of a weight up to which the pull is full
    a: float = 3.7  # times the threshold: where the pull ends
    mode: Literal["push", "prox"] = "push"  # through the gradient, or with exact zeros

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            threshold=(self.threshold, self.threshold > 0, "more than 0"),
            a=(self.a, self.a > 1, "more than 1"),
        )

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        end, width = self.a * self.threshold, (self.a - 1) * self.threshold
        slope = torch._foreach_abs(list(weights))
        torch._foreach_neg_(slope)
        torch._foreach_add_(slope, end)
        torch._foreach_mul_(slope, self.strength / width)
        torch._foreach_clamp_min_(slope, 0.0)
        torch._foreach_clamp_max_(slope, self.strength)
        return list(torch._foreach_mul(slope, torch._foreach_sign(list(weights))))

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        return [self._prox(w, lr) for w in weights]

    def _prox(self, weight: Tensor, lr: float) -> Tensor:
        """Least of the best points of the three pieces; a concave piece has its best point at an end."""
        size, t, end = weight.abs(), self.threshold, self.a * self.threshold
        tried = [(size - lr * self.strength).clamp(0.0, t), size.clamp_min(end)]
        curve = lr * self.strength / ((self.a - 1) * t)
        if curve < 1:
            tried.append(((size - curve * end) / (1 - curve)).clamp(t, end))
        return least(weight, tried, self._cost, lr=lr)

    def _cost(self, size: Tensor) -> Tensor:
        t, end = self.threshold, self.a * self.threshold
        first = size.clamp_max(t)
        second = size.clamp(t, end) - t  # of slope 1 - second / ((a - 1) t)
        return self.strength * (first + second - second.square() / (2 * (end - t)))

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        return total([self._cost(w.abs()) for w in weights])
