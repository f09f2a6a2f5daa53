"""Adaptive lasso (Zou 2006): L1 with a strength per weight, fixed by how large the weight was at the start.

value = s sum c_j |w_j|,  c_j = (mean of (|w0| + e) / (|w0_j| + e))^g.  s → strength, g → power, e → floor, w0 → the
weights at `init`: it is meant for a trained network. The factors are scaled so that an average weight has 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sprig.methods.penalties.kinds import Pull
from sprig.methods.penalties.listwise import State, check, soft, total


@dataclass(frozen=True)
class AdaptiveLasso(Pull):
    """Small weights are pulled harder.

    >>> a = AdaptiveLasso(strength=1.0, floor=0.0)
    >>> w = [torch.tensor([1.0, -3.0])]
    >>> a.push(w, a.init(w))
    [tensor([ 2.0000, -0.6667])]
    """

    strength: float = 3e-4  # pull on a weight of average size
    power: float = 1.0  # how the pull falls with the first size of the weight; 0 is L1
    floor: float = 0.01  # added to that size, so that the pull stays finite
    mode: Literal["push", "prox"] = "push"  # through the gradient, or with exact zeros

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            power=(self.power, self.power >= 0, "at least 0"),
            floor=(self.floor, self.floor >= 0, "at least 0"),
        )

    def init(self, weights: Sequence[Tensor]) -> State:
        sizes = [w.detach().abs() + self.floor for w in weights]
        mean = total(sizes) / sum(w.numel() for w in weights)
        most = [torch.finfo(s.dtype).max ** 0.5 for s in sizes]  # of weights that are zero already
        ratios = [mean.to(s) / s.clamp_min(torch.finfo(s.dtype).tiny) for s in sizes]
        return {"factors": [(r**self.power).clamp_max(m) for r, m in zip(ratios, most)]}

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        out = list(torch._foreach_sign(list(weights)))
        torch._foreach_mul_(out, state["factors"])
        torch._foreach_mul_(out, self.strength)
        return out

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        return soft(weights, torch._foreach_mul(state["factors"], lr * self.strength))

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        return self.strength * total([c * w.abs() for c, w in zip(state["factors"], weights)])
