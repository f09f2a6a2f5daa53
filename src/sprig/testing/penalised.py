"""What penalties are tried on: a perceptron, a network with a residual stream, and the units of either."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sprig.core.types import Graph


def perceptron(seed: int = 0) -> nn.Sequential:
    """Six inputs, 16 and 12 hidden units, three classes."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)
    )


class Residual(nn.Module):
    """A stream of four channels and six channels inside a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.up, self.inner = nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)
        self.down = nn.Conv2d(6, 4, 1)
        self.leave = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.enter(x)))
        x = F.relu(x + self.down(F.relu(self.inner(self.up(x)))))
        out: Tensor = self.leave(x.mean((2, 3)))
        return out


def points(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """64 inputs of the perceptron; the class is the largest of the first three."""
    x = torch.randn(64, 6, generator=generator)
    return x, x[:, :3].argmax(1)


def bound(penalty: Any, traced: tuple[nn.Module, Graph]) -> tuple[Any, list[Tensor], Any]:
    """A penalty over the units of a network, the weights of those in double precision, and the units."""
    model, graph = traced
    units = penalty.members(graph, model, set(dict(model.named_parameters())))
    parameters = dict(model.named_parameters())
    weights = [parameters[n].detach().double() + 0.1 for n in units.names]
    return penalty.over(units), weights, units
