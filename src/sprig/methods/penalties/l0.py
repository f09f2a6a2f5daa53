"""L0 by hard-concrete gates (Louizos, Welling, Kingma 2018): the expected number of units is what is penalised.

    train: s = sigmoid((log u - log(1 - u) + log_alpha) / b),  u uniform;   gate = clip(s (z - g) + g, 0, 1)
    test:  gate = clip(sigmoid(log_alpha) (z - g) + g, 0, 1)
    value = strength sum_u sigmoid(log_alpha_u - b log(-g / z))             the chance that a gate is not zero

b → 2/3, g → -0.1, z → 1.1. log_alpha starts at log((1 - drop) / drop) plus normal noise of 0.01, and is put back into
[log 0.01, log 100] after every step, so that at a bound both gradients go on. Noise of the gates is drawn from torch's
global generator, as that of dropout. `rate` multiplies the learning rate of log_alpha (kept divided by its root).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sprig.core.types import Graph
from sprig.methods.penalties.gating import gates_of, install
from sprig.methods.penalties.listwise import State, check

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
BOUND = math.log(100.0)
SHIFT = BETA * math.log(-GAMMA / ZETA)
SHUT = math.log(-GAMMA / ZETA)  # log_alpha below which a gate is zero when tested
SPREAD = 0.01  # of the first log_alpha


class HardConcrete(nn.Module):
    """The gates of one group.

    >>> HardConcrete(3, drop=0.001).eval()().tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        units: int,
        *,
        drop: float = 0.5,
        rate: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.root = math.sqrt(rate)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        start = math.log((1 - drop) / drop) + SPREAD * torch.randn(units, generator=generator)
        self.log_alpha = nn.Parameter(start / self.root)
        self.noise: Tensor | None = None

    def draw(self) -> None:
        """Noise for one forward pass, the same in all readers."""
        tiny = 1e-6
        self.noise = (
            torch.rand_like(self.log_alpha).clamp(tiny, 1 - tiny) if self.training else None
        )

    def forward(self) -> Tensor:
        log_alpha = self.root * self.log_alpha
        if self.noise is None or not self.training:
            s = torch.sigmoid(log_alpha)
        else:
            u = self.noise
            s = torch.sigmoid((u.log() - (1 - u).log() + log_alpha) / BETA)
        return (s * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)


@dataclass(frozen=True)
class L0:
    """Learns which units live, by sampling.

    >>> L0(drop=0.5).strength
    0.001
    """

    strength: float = 1e-3  # price of a unit
    drop: float = 0.5  # chance that a unit is dropped, at the start
    rate: float = 10.0  # learning rate of the gates, in those of the weights

    def __post_init__(self) -> None:
        check(
            strength=(self.strength, self.strength >= 0, "at least 0"),
            drop=(self.drop, 0 < self.drop < 1, "in (0, 1)"),
            rate=(self.rate, self.rate > 0, "more than 0"),
        )

    @property
    def pushes(self) -> bool:
        return True

    @property
    def proximal(self) -> bool:
        return True  # gates are held within their bounds

    def gated(self, model: nn.Module, graph: Graph) -> nn.Module:
        """A copy of the model with these gates."""
        generator = torch.Generator().manual_seed(0)

        def make(units: int) -> HardConcrete:
            return HardConcrete(units, drop=self.drop, rate=self.rate, generator=generator)

        return install(model, graph, make)

    def gates(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that the penalty acts on."""
        found = gates_of(model).items()
        return {f"gates.{i}.log_alpha": gate.log_alpha for i, gate in found}  # type: ignore[misc]

    def init(self, weights: Sequence[Tensor]) -> State:
        return {}

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        root = math.sqrt(self.rate)
        alive = [torch.sigmoid(root * w - SHIFT) for w in weights]
        return [self.strength * root * a * (1 - a) for a in alive]

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        bound = BOUND / math.sqrt(self.rate)
        return [w.clamp(-bound, bound) for w in weights]

    def advance(self, weights: Sequence[Tensor], state: State, *, lr: float) -> State:
        return state

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        root = math.sqrt(self.rate)
        each = [torch.sigmoid(root * w - SHIFT).sum() for w in weights]
        return self.strength * torch.stack(each).sum()

    def reach(
        self, weights: Sequence[Tensor], state: State, *, steps: float, lr: float, boost: float
    ) -> float:
        """How far log_alpha of a mean gate can fall, in shares of the way to where the gate is shut."""
        root = math.sqrt(self.rate)
        count = sum(w.numel() for w in weights)
        pull = sum(float(p.sum()) for p in self.push(weights, state)) / count
        way = root * sum(float(w.sum()) for w in weights) / count - SHUT
        return steps * lr * boost * root * pull / way if way > 0 else 1.0
