"""Differentiable sparsification (Lee 2019): gates that become exactly zero inside the forward pass.

Per group of n units, with free alpha (n) and beta (1):

    gamma = exp(alpha),   t = sigmoid(beta) sum gamma,   g = max(gamma - t, 0),   a = g / sum g
    the gate is n a (so that an untouched group is gated by ones);   value = s sum over groups, live units: (a + e)^p

The threshold is relative and learned; p < 1, since sum a = 1 makes L1 a constant. s → strength, p → power, e → 1e-4.
At the start sigmoid(beta) = 1 / (10 n): it must be below 1 / n, or every gate is shut. Guard: the threshold stays below
the `least`-th largest gamma, so that so many units always live. Recovery: behind a shut gate the gradient of an
exponential linear unit is passed, so that single units can come back (`recover`; the paper's surrogate as far
as it is known).
All is trained by the model's one optimiser; `rate` multiplies the learning rate of alpha and beta (they are kept
divided by its root, which comes to the same under SGD).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sprig.core.types import Graph
from sprig.methods.penalties.gating import gates_of, install
from sprig.methods.penalties.listwise import State, check

SMALL = 1e-4
SPAN = 20.0  # of the largest alpha, before all are moved
BELOW = 0.999  # the threshold's distance from the last gate that must live


def shares(alpha: Tensor, beta: Tensor, *, least: int, recover: bool) -> Tensor:
    """a of one group: exactly zero for units that are shut, summing to one.

    >>> shares(torch.tensor([0.0, -3.0]), torch.tensor([-2.0]), least=1, recover=False)
    tensor([1., 0.])
    """
    top = (
        alpha.detach().max()
    )  # shares do not change with the scale of gamma; its squares must be finite
    gamma = (alpha - (top - top.clamp(-SPAN, SPAN))).exp()
    threshold = torch.sigmoid(beta) * gamma.sum()
    last = gamma.detach().topk(least).values[-1]
    rest = gamma - torch.minimum(threshold, BELOW * last)
    live = rest.clamp_min(0.0)
    if recover:
        behind = torch.where(rest < 0, rest.clamp_max(0.0).exp() - 1, torch.zeros_like(rest))
        live = live + (behind - behind.detach())
    return live / live.sum()


class RelativeGate(nn.Module):
    """The gates of one group.

    >>> RelativeGate(4)().tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(
        self, units: int, *, rate: float = 1.0, least: int = 1, recover: bool = True
    ) -> None:
        super().__init__()
        self.units, self.root, self.recover = units, math.sqrt(rate), recover
        self.least = min(least, units)
        self.alpha = nn.Parameter(torch.zeros(units))
        share = 1 / (10 * units)
        self.beta = nn.Parameter(torch.tensor([math.log(share / (1 - share)) / self.root]))

    def forward(self) -> Tensor:
        return self.units * self.shares()

    def shares(self) -> Tensor:
        """a: the share of every unit, zero for those that are shut."""
        alpha, beta = self.root * self.alpha, self.root * self.beta
        return shares(alpha, beta, least=self.least, recover=self.recover)


@dataclass(frozen=True)
class Gates:
    """Learns which units live; needs no cut.

    >>> Gates().power
    0.5
    """

    strength: float = 0.02  # of the penalty; the window between nothing and collapse is narrow
    power: float = 0.5  # p, below 1
    rate: float = 60.0  # learning rate of the gates, in those of the weights
    least: int = 1  # units that live in every group whatever happens
    recover: bool = True  # let shut gates come back one by one

    def __post_init__(self) -> None:
        check(
            strength=(self.strength, self.strength >= 0, "at least 0"),
            power=(self.power, 0 < self.power < 1, "in (0, 1)"),
            rate=(self.rate, self.rate > 0, "more than 0"),
            least=(self.least, self.least >= 1, "at least 1"),
        )

    @property
    def pushes(self) -> bool:
        return True

    @property
    def proximal(self) -> bool:
        return False

    def gated(self, model: nn.Module, graph: Graph) -> nn.Module:
        """A copy of the model with these gates."""
        return install(
            model,
            graph,
            lambda n: RelativeGate(n, rate=self.rate, least=self.least, recover=self.recover),
        )

    def gates(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that the penalty acts on, alpha before beta of each group."""
        return {
            f"gates.{i}.{n}": getattr(gate, n)
            for i, gate in gates_of(model).items()
            for n in ("alpha", "beta")
        }

    def init(self, weights: Sequence[Tensor]) -> State:
        return {}

    @torch.enable_grad()
    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        leaves = [w.detach().requires_grad_() for w in weights]
        slopes = torch.autograd.grad(self.value(leaves, state), leaves, allow_unused=True)
        return [torch.zeros_like(w) if s is None else s for s, w in zip(slopes, weights)]

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        return list(weights)

    def advance(self, weights: Sequence[Tensor], state: State, *, lr: float) -> State:
        return state

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        root = math.sqrt(self.rate)
        parts = []
        for alpha, beta in zip(weights[::2], weights[1::2]):
            least = min(self.least, len(alpha))
            found = shares(root * alpha, root * beta, least=least, recover=self.recover)
            parts.append((found[found > 0] + SMALL).pow(self.power).sum())
        return self.strength * torch.stack(parts).sum()

    def reach(
        self, weights: Sequence[Tensor], state: State, *, steps: float, lr: float, boost: float
    ) -> float:
        """How much a gate of half its fellows' size loses, in factors of e: equal gates feel no push at all."""
        root = math.sqrt(self.rate)
        probe = []
        for alpha, beta in zip(weights[::2], weights[1::2]):
            behind = torch.zeros_like(alpha)
            behind[0] = -math.log(2) / root
            probe += [behind, beta]
        steepest = max(float(slope[0].abs()) for slope in self.push(probe, state)[::2])
        return steps * lr * boost * root * steepest
