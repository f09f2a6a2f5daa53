"""HALO for groups, ours: one learned coefficient per unit of channels, so that what HALO empties can be removed.

With r_u the root mean square of the n_u weights that make unit u:

    value = sum_u n_u [ xi r_u / l_u^2 + psi l_u + decay/2 l_u^2 ]       push on w_j of unit u = xi w_j / (r_u l_u^2)

For units of one weight this is HALO. A unit of equal weights is pulled as hard as HALO pulls each of them, and the law
l = (2 xi r / psi)^(1/3) is the same. The coefficients' step leaves out n_u, so that all settle at the same speed
whatever the size of their units (a gradient step in the metric n_u).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sprig.methods.penalties.coefficients import Law, best, descend, hyper_slope, hyper_value
from sprig.methods.penalties.group_lasso import block_soft, directions
from sprig.methods.penalties.kinds import OnUnits
from sprig.methods.penalties.listwise import State, precision


@dataclass(frozen=True)
class GroupHalo(Law, OnUnits):
    """A group lasso with a learned strength per unit.

    >>> GroupHalo(mode="closed").pushes
    True
    """

    mode: Literal["joint", "closed", "proximal"] = "proximal"  # as in halo; this one gives zeros

    def init(self, weights: Sequence[Tensor]) -> State:
        return self.begin([weights[0].new_empty(self.units.total, dtype=precision(weights))])

    def _counts(self, weights: Sequence[Tensor]) -> Tensor:
        return self.units.counts.to(precision(weights))

    def sizes(self, weights: Sequence[Tensor]) -> Tensor:
        """Root mean square of every unit."""
        return self.units.norms(weights) / self._counts(weights).clamp_min(1).sqrt()

    @torch.no_grad()
    def coefficients(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        """Lambda of every unit, as it is or as it is best for these weights."""
        return state["coefficients"] if state else [best(self.sizes(weights), self)]

    def _pull(self, weights: Sequence[Tensor], state: State) -> Tensor:
        """xi sqrt(n) / l^2: the slope of the penalty in the length of a unit."""
        (coefficients,) = self.coefficients(weights, state)
        return self.xi * self._counts(weights).sqrt() / coefficients.square()

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        return directions(weights, self.units, self._pull(weights, state))

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        return block_soft(weights, self.units, lr * self._pull(weights, state))

    @torch.no_grad()
    def advance(self, weights: Sequence[Tensor], state: State, *, lr: float) -> State:
        if self.mode != "closed":
            slope = hyper_slope(state["coefficients"], self, self._counts(weights))
            descend(
                state["coefficients"],
                state["velocity"],
                [self.sizes(weights)],
                self,
                slope=slope,
                lr=lr,
            )
        return state

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        coefficients = self.coefficients(weights, state)
        pulled = (self._pull(weights, state) * self.units.norms(weights)).sum()
        return pulled + hyper_value(coefficients, self, self._counts(weights))

    def reach(
        self, weights: Sequence[Tensor], state: State, *, steps: float, lr: float, boost: float
    ) -> float:
        """What a unit of mean size can lose, in shares of it."""
        mean = float(self.sizes(weights).mean())
        return self.worn(mean, steps=steps, lr=lr, boost=boost)
