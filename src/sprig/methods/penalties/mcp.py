"""MCP, the minimax concave penalty (Zhang 2010): L1 near zero, no pull on weights beyond a knee.

value = s (|w| - w^2 / (2 k)) up to |w| = k, and s k / 2 beyond; slope s (1 - |w| / k), then 0.
s → strength, k → knee. In the form with a concavity c, flat beyond c s, the knee is k = c s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sprig.methods.penalties.kinds import Pull
from sprig.methods.penalties.listwise import State, check, least, total


@dataclass(frozen=True)
class Mcp(Pull):
    """Large weights are left alone.

    >>> Mcp(strength=1.0, knee=2.0).push([torch.tensor([1.0, -3.0])], {})
    [tensor([0.5000, -0.0000])]
    """

    strength: float = 5e-4  # pull at zero
    knee: float = 0.2  # size of a weight beyond which there is no pull
    mode: Literal["push", "prox"] = "push"  # through the gradient, or with exact zeros

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            knee=(self.knee, self.knee > 0, "more than 0"),
        )

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        slope = torch._foreach_abs(list(weights))
        torch._foreach_mul_(slope, -self.strength / self.knee)
        torch._foreach_add_(slope, self.strength)
        torch._foreach_clamp_min_(slope, 0.0)
        return list(torch._foreach_mul(slope, torch._foreach_sign(list(weights))))

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        return [self._prox(w, lr) for w in weights]

    def _prox(self, weight: Tensor, lr: float) -> Tensor:
        """Least of: zero, the stationary point below the knee (if it is a minimum), the weight itself."""
        size = weight.abs()
        curve = lr * self.strength / self.knee
        tried = [torch.zeros_like(size), size.clamp_min(self.knee)]
        if curve < 1:
            tried.append(((size - lr * self.strength) / (1 - curve)).clamp(0.0, self.knee))
        return least(weight, tried, self._cost, lr=lr)

    def _cost(self, size: Tensor) -> Tensor:
        inside = size.clamp_max(self.knee)
        return self.strength * (inside - inside.square() / (2 * self.knee))

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        return total([self._cost(w.abs()) for w in weights])
