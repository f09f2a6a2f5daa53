"""Group lasso over the graph's own groups (Yuan and Lin 2006), and its sparse form (Simon et al. 2013).

With w_u all weights that make unit u (see units.py) and n_u their number:

    value = s [ (1 - m) sum_u sqrt(n_u) |w_u|_2 + m sum_j |w_j| ]        m = 0: the group lasso
    prox:   soft threshold by lr s m, then w_u times (1 - lr s (1 - m) sqrt(n_u) / |w_u|)_+

s → strength, m → mix. A unit of a residual stream has rows in every layer that writes to it: it shrinks as one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from sprig.methods.penalties.kinds import OnUnits, Pull
from sprig.methods.penalties.listwise import State, check, precision, soft, total
from sprig.methods.penalties.units import Units


def directions(weights: Sequence[Tensor], units: Units, strength: Tensor) -> list[Tensor]:
    """The gradient of sum_u strength_u |w_u|: zero for units that are zero, and for weights without a unit."""
    norms = units.norms(weights)
    factor = torch.where(norms > 0, strength / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)
    return [w * f for w, f in zip(weights, units.spread(factor, weights, other=0.0))]


def block_soft(weights: Sequence[Tensor], units: Units, threshold: Tensor) -> list[Tensor]:
    """Every unit shortened by its threshold, to zero if it is shorter."""
    norms = units.norms(weights)
    share = threshold / norms.clamp_min(torch.finfo(norms.dtype).tiny)
    factor = (1 - share).clamp_min(0.0)
    return [w * f for w, f in zip(weights, units.spread(factor, weights, other=1.0))]


class Grouped(Pull, OnUnits, Protocol):
    """Both forms."""

    @property
    def mix(self) -> float: ...

    def _scale(self, weights: Sequence[Tensor]) -> Tensor:
        counts = self.units.counts.to(precision(weights))
        return self.strength * (1 - self.mix) * counts.sqrt()

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        grouped = directions(weights, self.units, self._scale(weights))
        if self.mix == 0:
            return grouped
        pull = self.strength * self.mix
        return [
            g + pull * m * w.sign() for g, w, m in zip(grouped, weights, self.units.inside(weights))
        ]

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        alone = list(weights)
        if self.mix:
            moved = soft(weights, lr * self.strength * self.mix)
            mine = self.units.inside(weights)
            alone = [torch.where(k > 0, m, w) for m, k, w in zip(moved, mine, weights)]
        return block_soft(alone, self.units, lr * self._scale(weights))

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        grouped = (self._scale(weights) * self.units.norms(weights)).sum()
        if self.mix == 0:
            return grouped
        single = total([w.abs() * m for w, m in zip(weights, self.units.inside(weights))])
        return self.strength * self.mix * single + grouped


@dataclass(frozen=True)
class GroupLasso(Grouped):
    """Whole units go to zero.

    >>> GroupLasso(strength=1e-3).proximal
    True
    """

    strength: float = 1e-4  # pull on a unit, per square root of its weights
    mode: Literal["push", "prox"] = "prox"  # through the gradient, or with exact zeros
    mix: ClassVar[float] = 0.0


@dataclass(frozen=True)
class SparseGroupLasso(Grouped):
    """Whole units go to zero, and single weights in those that stay.

    >>> SparseGroupLasso().mix
    0.5
    """

    strength: float = 1e-4  # of the whole penalty
    mix: float = 0.5  # share of L1; 0 is group lasso, 1 is L1
    mode: Literal["push", "prox"] = "prox"  # through the gradient, or with exact zeros

    def __post_init__(self) -> None:
        super().__post_init__()
        check(mix=(self.mix, 0 <= self.mix <= 1, "in [0, 1]"))
