"""The networks that most of these tests stand on, traced once per file."""

import pytest
import torch
from torch import nn

from sprig.core.tracing import trace
from sprig.core.types import Graph
from sprig.testing.penalised import Residual, perceptron


@pytest.fixture(scope="module")
def residual() -> tuple[nn.Module, Graph]:
    torch.manual_seed(0)
    model = Residual().eval()
    return model, trace(model, (torch.randn(2, 1, 5, 5),))


@pytest.fixture(scope="module")
def graph() -> Graph:
    """Of the perceptron."""
    return trace(perceptron().eval(), (torch.randn(2, 6),))


@pytest.fixture(scope="module")
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Six batches for the perceptron."""
    g = torch.Generator().manual_seed(1)
    xs = [torch.randn(16, 6, generator=g) for _ in range(6)]
    return [(x, x[:, :3].argmax(1)) for x in xs]
