"""HALO for groups, ours: one learned coefficient per unit of channels, so that what HALO empties can be removed.

With r_u the root mean square of the n_u weights that make unit u:

    value = sum_u n_u [ xi r_u / l_u^2 + psi l_u + decay/2 l_u^2 ]       push on w_j of unit u = xi w_j / (r_u l_u^2)

For units of one weight this is HALO. A unit of equal weights is pulled as hard as HALO pulls each of them, and the law
l = (2 xi r / psi)^(1/3) is the same. The coefficients' step leaves out n_u, so that all settle at the same speed
whatever the size of their units (a gradient step in the metric n_u).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sprig.core.types import Graph
from sprig.methods.penalties.coefficients import best, descend, hyper_slope, hyper_value
from sprig.methods.penalties.group_lasso import block_soft, directions
from sprig.methods.penalties.listwise import State, check, check_mode
from sprig.methods.penalties.units import Units, units_of


@dataclass(frozen=True)
class GroupHalo:
    """A group lasso with a learned strength per unit.

    >>> GroupHalo(mode="closed").pushes
    True
    """

    xi: float = 1e-4  # of the weights' part
    psi: float = 1e-4  # of the coefficients' part
    decay: float = 0.0  # weight decay of the coefficients
    start: float = 1.0  # first coefficient of every unit
    floor: float = 1e-2  # least coefficient: bounds the pull by xi / floor^2
    rate: float = 200.0  # learning rate of the coefficients, in those of the weights
    momentum: float = 0.9  # of the coefficients
    mode: Literal["joint", "closed", "proximal"] = "proximal"  # as in halo; this one gives zeros
    budget: float = 0.0  # mean coefficient to stay near; 0: none
    square: bool = False  # budget by the squared distance
    units: Any = field(default=None, repr=False, compare=False, metadata={"runtime": True})

    def __post_init__(self) -> None:
        check_mode(self.mode, ("joint", "closed", "proximal"))
        check(
            xi=(self.xi, self.xi >= 0, "at least 0"),
            psi=(self.psi, self.psi >= 0, "at least 0"),
            decay=(self.decay, self.decay >= 0, "at least 0"),
            start=(self.start, self.start > 0, "more than 0"),
            floor=(self.floor, 0 < self.floor <= self.start, f"in (0, {self.start}], the start"),
            rate=(self.rate, self.rate >= 0, "at least 0"),
            momentum=(self.momentum, 0 <= self.momentum < 1, "in [0, 1)"),
            budget=(self.budget, self.budget >= 0, "at least 0"),
        )
        if self.mode == "closed":
            plain = self.budget == 0 and not self.square
            check(
                budget=(self.budget, plain, "0 without square in mode closed: there is no formula"),
                psi=(self.psi, self.psi + self.decay > 0, "psi or decay above 0 in mode closed"),
            )

    @property
    def pushes(self) -> bool:
        return self.mode != "proximal"

    @property
    def proximal(self) -> bool:
        return self.mode == "proximal"

    def members(self, graph: Graph, model: nn.Module, allowed: Collection[str]) -> Units:
        """The units that this penalty shrinks."""
        return units_of(graph, model, allowed)

    def over(self, units: Units) -> "GroupHalo":
        """The same penalty on these units."""
        return replace(self, units=units)

    def init(self, weights: Sequence[Tensor]) -> State:
        if self.mode == "closed":
            return {}
        first = weights[0].new_full((self.units.total,), self.start)
        return {"coefficients": [first], "velocity": [torch.zeros_like(first)]}

    def _counts(self, weights: Sequence[Tensor]) -> Tensor:
        return self.units.counts.to(weights[0].dtype)

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

    def drift(self, *, steps: int, lr: float) -> float:
        """How far a coefficient could move in so many steps, in shares of its start, going by its own part."""
        if self.mode == "closed":
            return 1.0
        slope = self.psi + self.decay * self.start
        return steps * lr * self.rate / (1 - self.momentum) * slope / self.start
