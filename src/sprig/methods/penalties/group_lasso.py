"""Group lasso over the graph's own groups (Yuan and Lin 2006), and its sparse form (Simon et al. 2013).

With w_u all weights that make unit u (see units.py) and n_u their number:

    group:   value = s sum_u sqrt(n_u) |w_u|_2            prox: w_u times (1 - lr s sqrt(n_u) / |w_u|)_+
    sparse:  value = s [ (1 - m) sum_u sqrt(n_u) |w_u|_2 + m sum_j |w_j| ]      prox: soft threshold, then the group's

s → strength, m → mix. A unit of a residual stream has rows in every layer that writes to it: it shrinks as one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sprig.core.types import Graph
from sprig.methods.penalties.listwise import State, check, check_mode, soft, total
from sprig.methods.penalties.units import Units, units_of


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


@dataclass(frozen=True)
class GroupLasso:
    """Whole units go to zero.

    >>> GroupLasso(strength=1e-3).proximal
    True
    """

    strength: float = 1e-4  # pull on a unit, per square root of its weights
    mode: Literal["push", "prox"] = "prox"  # through the gradient, or with exact zeros
    units: Any = field(default=None, repr=False, compare=False, metadata={"runtime": True})

    def __post_init__(self) -> None:
        check_mode(self.mode, ("push", "prox"))
        check(strength=(self.strength, self.strength >= 0, "at least 0"))

    @property
    def pushes(self) -> bool:
        return self.mode == "push"

    @property
    def proximal(self) -> bool:
        return self.mode == "prox"

    def members(self, graph: Graph, model: nn.Module, allowed: Collection[str]) -> Units:
        """The units that this penalty shrinks."""
        return units_of(graph, model, allowed)

    def over(self, units: Units) -> "GroupLasso":
        """The same penalty on these units."""
        return replace(self, units=units)

    def init(self, weights: Sequence[Tensor]) -> State:
        return {}

    def _scale(self, weights: Sequence[Tensor]) -> Tensor:
        return self.strength * self.units.counts.to(weights[0].dtype).sqrt()

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        return directions(weights, self.units, self._scale(weights))

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        return block_soft(weights, self.units, lr * self._scale(weights))

    def advance(self, weights: Sequence[Tensor], state: State, *, lr: float) -> State:
        return state

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        return (self._scale(weights) * self.units.norms(weights)).sum()


@dataclass(frozen=True)
class SparseGroupLasso:
    """Whole units go to zero, and single weights in those that stay.

    >>> SparseGroupLasso().mix
    0.5
    """

    strength: float = 1e-4  # of the whole penalty
    mix: float = 0.5  # share of L1; 0 is group lasso, 1 is L1
    mode: Literal["push", "prox"] = "prox"  # through the gradient, or with exact zeros
    units: Any = field(default=None, repr=False, compare=False, metadata={"runtime": True})

    def __post_init__(self) -> None:
        check_mode(self.mode, ("push", "prox"))
        check(
            strength=(self.strength, self.strength >= 0, "at least 0"),
            mix=(self.mix, 0 <= self.mix <= 1, "in [0, 1]"),
        )

    @property
    def pushes(self) -> bool:
        return self.mode == "push"

    @property
    def proximal(self) -> bool:
        return self.mode == "prox"

    def members(self, graph: Graph, model: nn.Module, allowed: Collection[str]) -> Units:
        """The units that this penalty shrinks."""
        return units_of(graph, model, allowed)

    def over(self, units: Units) -> "SparseGroupLasso":
        """The same penalty on these units."""
        return replace(self, units=units)

    def init(self, weights: Sequence[Tensor]) -> State:
        return {}

    def _scale(self, weights: Sequence[Tensor]) -> Tensor:
        return self.strength * (1 - self.mix) * self.units.counts.to(weights[0].dtype).sqrt()

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        grouped = directions(weights, self.units, self._scale(weights))
        return [g + self.strength * self.mix * w.sign() for g, w in zip(grouped, weights)]

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        alone = soft(weights, lr * self.strength * self.mix)
        return block_soft(alone, self.units, lr * self._scale(weights))

    def advance(self, weights: Sequence[Tensor], state: State, *, lr: float) -> State:
        return state

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        alone = self.strength * self.mix * total([w.abs() for w in weights])
        return alone + (self._scale(weights) * self.units.norms(weights)).sum()
