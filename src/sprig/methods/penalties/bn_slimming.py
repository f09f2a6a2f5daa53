"""Network slimming (Liu et al. 2017): L1 on the scales of batch norms, whose channels are then removed.

value = s sum |gamma|;  the score of a unit is the sum of |gamma| over all norms that follow it, so a residual stream is
judged by all its norms together. s → strength; 1e-4 for VGG and 1e-5 for ResNets in the paper, over 160 epochs.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sprig.core.types import Graph
from sprig.methods.penalties.listwise import State, check, check_mode, soft, total
from sprig.methods.penalties.units import Units, units_of
from sprig.training.config import NORMS


@dataclass(frozen=True)
class BnSlimming:
    """Scales go to zero, and their channels leave.

    >>> BnSlimming(strength=1e-3).mode
    'push'
    """

    strength: float = 1e-4  # pull on every scale
    mode: Literal["push", "prox"] = "push"  # through the gradient as published, or with exact zeros
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
        """Units by the scales of their norms alone."""
        scales = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, NORMS)}
        return units_of(graph, model, allowed, among=scales.__contains__)

    def over(self, units: Units) -> "BnSlimming":
        """The same penalty on these units."""
        return replace(self, units=units)

    def scores(self, weights: Sequence[Tensor], state: State) -> Tensor:
        """How much each unit is worth."""
        return self.units.sums(weights, torch.abs)

    def init(self, weights: Sequence[Tensor]) -> State:
        return {}

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        return [self.strength * w.sign() for w in weights]

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        return soft(weights, lr * self.strength)

    def advance(self, weights: Sequence[Tensor], state: State, *, lr: float) -> State:
        return state

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        return self.strength * total([w.abs() for w in weights])
