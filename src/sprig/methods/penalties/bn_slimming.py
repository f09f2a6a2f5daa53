"""Network slimming (Liu et al. 2017): L1 on the scales of batch norms, whose channels are then removed.

value = s sum |gamma|;  the score of a unit is the sum of |gamma| over all norms that follow it, so a residual stream is
judged by all its norms together. s → strength; 1e-4 for VGG and 1e-5 for ResNets in the paper, over 160 epochs.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sprig.core.types import Graph
from sprig.methods.penalties.kinds import OnUnits
from sprig.methods.penalties.l1 import Lasso
from sprig.methods.penalties.listwise import State
from sprig.methods.penalties.units import Units, units_of
from sprig.training.config import NORMS


@dataclass(frozen=True)
class BnSlimming(Lasso, OnUnits):
    """Scales go to zero, and their channels leave.

    >>> BnSlimming(strength=1e-3).mode
    'push'
    """

    strength: float = 1e-4  # pull on every scale
    mode: Literal["push", "prox"] = "push"  # through the gradient as published, or with exact zeros

    def members(self, graph: Graph, model: nn.Module, allowed: Collection[str]) -> Units:
        """Units by the scales of their norms alone."""
        scales = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, NORMS)}
        return units_of(graph, model, allowed, among=scales.__contains__)

    def scores(self, weights: Sequence[Tensor], state: State) -> Tensor:
        """How much each unit is worth."""
        return self.units.sums(weights, torch.abs)
