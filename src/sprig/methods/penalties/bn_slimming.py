"""Network slimming (Liu et al. 2017): L1 on the scales of batch norms, whose channels are then removed.

value = s sum |gamma|;  the score of a unit is the mean of |gamma| over all batch norms that follow it. With one norm
that is the published percentile of |gamma| over the whole network; a residual stream has several norms, and their mean
is of the same size as one, where a sum would favour it. s → strength; 1e-4 for VGG and 1e-5 for ResNets in the paper,
over 160 epochs. Scales whose channels may not leave are not pulled on (the paper pulls on all).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sprig.core.types import Graph
from sprig.methods.penalties.kinds import OnUnits
from sprig.methods.penalties.l1 import Lasso
from sprig.methods.penalties.listwise import State
from sprig.methods.penalties.units import Units, units_of


@dataclass(frozen=True)
class BnSlimming(Lasso, OnUnits):
    """Scales go to zero, and their channels leave.

    >>> BnSlimming(strength=1e-3).mode
    'push'
    """

    strength: float = 1e-4  # pull on every scale
    mode: Literal["push", "prox"] = "push"  # through the gradient as published, or with exact zeros

    def members(self, graph: Graph, model: nn.Module, allowed: Collection[str]) -> Units:
        """Units by the scales of their batch norms alone."""
        scales = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, _BatchNorm)}
        return units_of(graph, model, allowed, among=scales.__contains__)

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        return [p * m for p, m in zip(super().push(weights, state), self.units.inside(weights))]

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        moved = super().prox(weights, state, lr=lr)
        return [
            torch.where(k > 0, m, w) for m, k, w in zip(moved, self.units.inside(weights), weights)
        ]

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        return super().value([w * m for w, m in zip(weights, self.units.inside(weights))], state)

    def scores(self, weights: Sequence[Tensor], state: State) -> Tensor:
        """How much each unit is worth: its mean scale."""
        return self.units.sums(weights, torch.abs) / self.units.counts.clamp_min(1)
